//! TLS towards etcd: which files say whom to trust and who we are. They are read anew for each connection, so that certificates
//! may be renewed under a running server. Opens no connection.

use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

use crate::etcd::EtcdError;

/// The PEM files of one side, for endpoints that are `https://`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Authorities to trust; those of the operating system where there is none.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate with its chain, and its key: for an etcd that asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

// === impl EtcdTls ===

impl EtcdTls {
    /// Whether any file is named.
    pub fn is_some(&self) -> bool {
        self.ca_file.is_some() || self.identity.is_some()
    }

    /// The options of a connection, with what the files hold now.
    ///
    /// # Errors
    /// When one cannot be read or is no PEM of its kind.
    pub async fn read(&self) -> Result<TlsOptions, EtcdError> {
        let tls = match &self.ca_file {
            Some(ca) => {
                TlsOptions::new().ca_certificate(Certificate::from_pem(pem(ca, "CERTIFICATE").await?))
            }
            None => TlsOptions::new().with_native_roots(),
        };
        Ok(match &self.identity {
            Some((certificate, key)) => {
                let certificate = pem(certificate, "CERTIFICATE").await?;
                tls.identity(Identity::from_pem(certificate, pem(key, "PRIVATE KEY").await?))
            }
            None => tls,
        })
    }
}

/// A file with at least one PEM block of a kind (RFC 7468): its label ends with `kind`, as in `EC PRIVATE KEY`.
async fn pem(path: &Path, kind: &str) -> Result<String, EtcdError> {
    let fail = |why: String| EtcdError::Certificates { file: path.display().to_string(), why };
    let text = tokio::fs::read_to_string(path).await.map_err(|error| fail(error.to_string()))?;
    let begins =
        |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"));
    if text.lines().any(begins) {
        Ok(text)
    } else {
        Err(fail(format!("no PEM with a {kind} in it, which begins with -----BEGIN {kind}-----")))
    }
}
