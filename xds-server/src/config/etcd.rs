//! The etcd section as the options of the client, with the password read from its file.

use std::fs;

use zonebreak_topology::EtcdOptions;

use super::{error::ConfigError, schema::EtcdConfig};

impl EtcdConfig {
    /// The options of the client.
    ///
    /// # Errors
    /// When the password file cannot be read.
    pub fn options(&self) -> Result<EtcdOptions, ConfigError> {
        let password = self.password_file.as_ref().map(|path| {
            let text = fs::read_to_string(path);
            // Editors end files with a newline; a password does not.
            text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| ConfigError::Read { path: path.clone(), error })
        });
        Ok(EtcdOptions {
            endpoints: self.endpoints.iter().map(ToString::to_string).collect(),
            prefix: self.prefix.to_string(),
            user: self.user.clone(),
            password: password.transpose()?,
            ..EtcdOptions::default()
        })
    }
}
