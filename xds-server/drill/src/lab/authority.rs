//! A certificate authority that nobody else knows, for what is tested with TLS. Makes certificates; writes no files.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate of an authority and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

// === impl Authority ===

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// What those need who trust it, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for this machine under both its names and `name`, which is also its common name: the user that an etcd takes
    /// its holder for.
    ///
    /// # Errors
    /// When `name` is no DNS name.
    pub fn issue(&self, name: &str) -> Result<Certificate, rcgen::Error> {
        let key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost", name].map(ToOwned::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Certificate { certificate, key: key.serialize_pem() })
    }
}
