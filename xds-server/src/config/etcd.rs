//! The etcd section as the options of the client, with the password read from its file.

use std::fs;

use zonebreak_topology::{EtcdOptions, EtcdTls};

use super::{error::ConfigError, schema::EtcdConfig};

impl EtcdConfig {
    /// The options of the client.
    ///
    /// # Errors
    /// When a file that is named cannot be read. Those of TLS are read again at each connection, and checked for here alone.
    pub fn options(&self) -> Result<EtcdOptions, ConfigError> {
        let password = self.password_file.as_ref().map(|path| {
            let text = fs::read_to_string(path);
            // Editors end files with a newline; a password does not.
            text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| ConfigError::Read { path: path.clone(), error })
        });
        for path in [&self.ca_file, &self.cert_file, &self.key_file].into_iter().flatten() {
            fs::File::open(path).map_err(|error| ConfigError::Read { path: path.clone(), error })?;
        }
        Ok(EtcdOptions {
            endpoints: self.endpoints.iter().map(ToString::to_string).collect(),
            prefix: self.prefix.to_string(),
            tls: EtcdTls {
                ca_file: self.ca_file.clone(),
                identity: self.cert_file.clone().zip(self.key_file.clone()),
            },
            user: self.user.clone(),
            password: password.transpose()?,
            ..EtcdOptions::default()
        })
    }
}
