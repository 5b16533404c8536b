//! The `replicate` section: what `zonebreak replicate` is told, and its translation into the replicator's options. Reads files
//! of secrets and certificates; connects to nothing.

use std::{fs, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use zonebreak_core::units::Millis;
use zonebreak_replication::{
    ClusterOptions, OptionsError, RESERVED, ReplicationOptions, StrangerPolicy, TlsOptions,
    batch::Limits,
    overlap::{Overlap, Policy},
    region::Region,
    revision::Revision,
    rules::Rules,
};

use super::error::ConfigError;

/// Replication from one etcd to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicateConfig {
    /// Whether `zonebreak serve` replicates beside the rest.
    pub enabled: bool,
    /// The stream's name.
    pub stream: String,
    /// What the source's region is called; by the ID of its etcd when absent.
    pub source_region: Option<Region>,
    /// What the destination's region is called.
    pub destination_region: Option<Region>,
    /// Client URLs of the source.
    pub source: Vec<String>,
    /// User at the source.
    pub source_user: Option<String>,
    /// Its password.
    pub source_password_file: Option<PathBuf>,
    /// Authorities to trust.
    pub source_ca_file: Option<PathBuf>,
    /// Client certificate.
    pub source_cert_file: Option<PathBuf>,
    /// Its key.
    pub source_key_file: Option<PathBuf>,
    /// Client URLs of the destination.
    pub destination: Vec<String>,
    /// User at the destination.
    pub destination_user: Option<String>,
    /// Its password.
    pub destination_password_file: Option<PathBuf>,
    /// Authorities to trust.
    pub destination_ca_file: Option<PathBuf>,
    /// Client certificate.
    pub destination_cert_file: Option<PathBuf>,
    /// Its key.
    pub destination_key_file: Option<PathBuf>,
    /// Keys to replicate.
    pub prefix: String,
    /// What the prefix becomes; the same when absent.
    pub destination_prefix: Option<String>,
    /// Globs of which one must match.
    pub include: Vec<String>,
    /// Globs of which none may.
    pub exclude: Vec<String>,
    /// Prefixes whose changes go out at once.
    pub realtime: Vec<String>,
    /// Whether puts are replicated.
    pub puts: bool,
    /// Whether deletes are replicated.
    pub deletes: bool,
    /// The first revision that counts.
    pub from_revision: i64,
    /// Where the change log lies.
    pub spool_dir: PathBuf,
    /// The most it may take.
    pub spool_mib: u64,
    /// How long delivered changes stay in it at most; while there is room, when 0.
    pub spool_keep_for: Millis,
    /// How long other changes are collected.
    pub debounce: Millis,
    /// Between signs of life.
    pub heartbeat: Millis,
    /// Between full comparisons.
    pub scrub: Millis,
    /// Revisions behind from which on both sides are compared.
    pub backlog: u64,
    /// What to do with leased keys.
    pub leases: LeaseChoice,
    /// What to do about strangers' writes.
    pub strangers: StrangerChoice,
    /// How long leased keys live at least after a promotion.
    pub lease_grace: Millis,
    /// Set where both regions write the prefix: by what conflicts are decided.
    pub overlap: Option<Policy>,
    /// How long such a prefix remembers deletes.
    pub overlap_remember: Millis,
    /// Operations in a transaction.
    pub max_operations: usize,
}

/// What to do with leased keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseChoice {
    /// A lease of its own.
    #[default]
    Keep,
    /// None; counted.
    Report,
}

/// What to do about strangers' writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StrangerChoice {
    /// Put back to what the source has.
    #[default]
    Repair,
    /// Counted and logged.
    Report,
}

// === impl LeaseChoice ===

impl FromStr for LeaseChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keep" => Ok(Self::Keep),
            "report" => Ok(Self::Report),
            _ => Err(format!("it is keep or report, not {text:?}")),
        }
    }
}

// === impl StrangerChoice ===

impl FromStr for StrangerChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "repair" => Ok(Self::Repair),
            "report" => Ok(Self::Report),
            _ => Err(format!("it is repair or report, not {text:?}")),
        }
    }
}

// === impl ReplicateConfig ===

impl Default for ReplicateConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            stream: "default".to_owned(),
            source_region: None,
            destination_region: None,
            source: Vec::new(),
            source_user: None,
            source_password_file: None,
            source_ca_file: None,
            source_cert_file: None,
            source_key_file: None,
            destination: Vec::new(),
            destination_user: None,
            destination_password_file: None,
            destination_ca_file: None,
            destination_cert_file: None,
            destination_key_file: None,
            prefix: "/zonebreak/v1/".to_owned(),
            destination_prefix: None,
            include: Vec::new(),
            exclude: Vec::new(),
            realtime: Vec::new(),
            puts: true,
            deletes: true,
            from_revision: 0,
            spool_dir: PathBuf::from("/var/lib/zonebreak/spool"),
            spool_mib: 1024,
            spool_keep_for: Millis(0),
            debounce: Millis(100),
            heartbeat: Millis(5_000),
            scrub: Millis(3_600_000),
            backlog: 20_000,
            leases: LeaseChoice::default(),
            strangers: StrangerChoice::default(),
            lease_grace: Millis(300_000),
            overlap: None,
            overlap_remember: Millis(7 * 86_400_000),
            max_operations: 127,
        }
    }
}

impl ReplicateConfig {
    /// The files it names, which are relative to the configuration file.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let named = [
            &mut self.source_password_file,
            &mut self.source_ca_file,
            &mut self.source_cert_file,
            &mut self.source_key_file,
            &mut self.destination_password_file,
            &mut self.destination_ca_file,
            &mut self.destination_cert_file,
            &mut self.destination_key_file,
        ];
        named.into_iter().flatten().chain([&mut self.spool_dir])
    }

    /// The source alone, for what needs no destination.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn source(&self) -> Result<ClusterOptions, ConfigError> {
        cluster(
            &self.source,
            self.source_user.as_ref(),
            [&self.source_password_file, &self.source_ca_file, &self.source_cert_file, &self.source_key_file],
        )
    }

    /// The replicator's options.
    ///
    /// # Errors
    /// When a file cannot be read, or the settings make no sense together.
    pub fn options(&self) -> Result<ReplicationOptions, ConfigError> {
        let value = |error: OptionsError| ConfigError::Value {
            origin: "replicate".to_owned(),
            message: format!("failed to {error}"),
        };
        for (side, endpoints) in [("source", &self.source), ("destination", &self.destination)] {
            if endpoints.is_empty() {
                return Err(ConfigError::Value {
                    origin: format!("replicate.{side}"),
                    message: format!(
                        "no {side} was named: pass --{side} URL, set $ZONEBREAK_REPLICATE__{} or name a file with --config",
                        side.to_uppercase()
                    ),
                });
            }
        }
        let source = self.source()?;
        let destination = cluster(
            &self.destination,
            self.destination_user.as_ref(),
            [
                &self.destination_password_file,
                &self.destination_ca_file,
                &self.destination_cert_file,
                &self.destination_key_file,
            ],
        )?;
        let to = self.destination_prefix.as_ref().unwrap_or(&self.prefix);
        let rules = Rules::new(&self.prefix, to, RESERVED)
            .with_patterns(&self.include, &self.exclude)
            .map_err(value)?
            .with_realtime(&self.realtime)
            .with_puts(self.puts)
            .with_deletes(self.deletes)
            .with_from(Revision(self.from_revision))
            .with_leases(self.leases == LeaseChoice::Keep);
        let spool = self.spool_dir.clone();
        let options = ReplicationOptions {
            source_region: self.source_region.clone(),
            destination_region: self.destination_region.clone(),
            rules,
            limits: Limits { operations: self.max_operations, ..Limits::default() },
            spool_bytes: self.spool_mib << 20,
            spool_keep_for: Duration::from_millis(self.spool_keep_for.0),
            debounce: Duration::from_millis(self.debounce.0),
            heartbeat: Duration::from_millis(self.heartbeat.0),
            scrub: Duration::from_millis(self.scrub.0),
            backlog: self.backlog,
            strangers: match self.strangers {
                StrangerChoice::Repair => StrangerPolicy::Repair,
                StrangerChoice::Report => StrangerPolicy::Report,
            },
            lease_grace: Duration::from_millis(self.lease_grace.0),
            overlap: self
                .overlap
                .map(|policy| Overlap { policy, remember: Duration::from_millis(self.overlap_remember.0) }),
            ..ReplicationOptions::new(&self.stream, &self.prefix, source, destination, spool)
        };
        options.validate().map_err(value)?;
        Ok(options)
    }
}

fn cluster(
    endpoints: &[String],
    user: Option<&String>,
    [password, ca, certificate, key]: [&Option<PathBuf>; 4],
) -> Result<ClusterOptions, ConfigError> {
    let read =
        |path: &PathBuf| fs::read(path).map_err(|error| ConfigError::Read { path: path.clone(), error });
    let password = password.as_ref().map(read).transpose()?;
    // Editors end files with a newline; a password does not.
    let password =
        password.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned());
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::Pair {
                given: "replicate.*_cert_file",
                missing: "replicate.*_key_file",
            });
        }
        (None, Some(_)) => {
            return Err(ConfigError::Pair {
                given: "replicate.*_key_file",
                missing: "replicate.*_cert_file",
            });
        }
    };
    let ca = ca.as_ref().map(read).transpose()?;
    let encrypted = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    let tls = (encrypted || ca.is_some() || identity.is_some()).then_some(TlsOptions {
        ca,
        identity,
        server_name: None,
    });
    // A bare host:port is what etcdctl takes, too.
    let scheme = if tls.is_some() { "https" } else { "http" };
    let whole = |endpoint: &String| {
        if endpoint.contains("://") { endpoint.clone() } else { format!("{scheme}://{endpoint}") }
    };
    Ok(ClusterOptions {
        endpoints: endpoints.iter().map(whole).collect(),
        user: user.cloned(),
        password,
        tls,
    })
}
