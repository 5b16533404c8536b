//! How the client commands find etcd and the server: flags, then the environment, then a configuration file. Opens nothing.

use std::path::PathBuf;

use zonebreak_replication::ClusterOptions;

use crate::{
    config::{Config, ConfigError, Layers, Override, Requirement},
    exit::Failure,
};

/// The flags that name an etcd.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where etcd is")]
pub struct EtcdFlags {
    /// Client URLs of the etcd members, by commas [env: ZONEBREAK_ETCD__ENDPOINTS].
    #[arg(long, value_name = "URL,...")]
    pub etcd: Option<String>,
    /// Prefix of every key [default: /zonebreak/v1/] [env: ZONEBREAK_ETCD__PREFIX].
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
}

/// Where etcd is, for commands other than `serve`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where etcd is")]
pub struct EtcdArgs {
    #[command(flatten)]
    flags: EtcdFlags,
    /// Configuration file of the server, read for its `etcd` section.
    #[arg(long, value_name = "FILE", env = "ZONEBREAK_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

/// An etcd that is named as replication names its source, with the user and the certificates of that section.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where etcd is")]
pub struct SourceArgs {
    /// Client URLs of the etcd, by commas [default: `replicate.source` of the configuration, else `etcd.endpoints`].
    #[arg(long, value_name = "URL,...")]
    etcd: Option<String>,
    /// Configuration file, read for its `snapshots`, `replicate` and `etcd` sections: users and TLS are `replicate.source_*`.
    #[arg(long, value_name = "FILE", env = "ZONEBREAK_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

/// Where the server is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where the server is")]
pub struct ServerArgs {
    /// Admin URL of the server.
    #[arg(
        long,
        value_name = "URL",
        env = "ZONEBREAK_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:19000"
    )]
    pub server: String,
}

// === impl EtcdFlags ===

impl EtcdFlags {
    /// What these flags override.
    pub fn overrides(&self) -> Vec<Override> {
        let etcd = self.etcd.iter().map(|value| ("--etcd", "etcd.endpoints", value));
        let prefix = self.prefix.iter().map(|value| ("--prefix", "etcd.prefix", value));
        let all = etcd.chain(prefix);
        all.map(|(flag, path, value)| Override { flag, path, value: value.clone() }).collect()
    }
}

// === impl EtcdArgs ===

impl EtcdArgs {
    /// The configuration that names the etcd. Where none does, `without` is what can be done.
    ///
    /// # Errors
    /// When a layer cannot be used, or none names an etcd.
    pub fn load(&self, without: impl FnOnce() -> String) -> Result<Config, Failure> {
        let layers = Layers::of_process(self.config.clone(), self.flags.overrides());
        match layers.load(Requirement::Etcd) {
            Ok(effective) => Ok(effective.config),
            Err(error @ ConfigError::NoEtcd) => Err(Failure::usage(error).hint(without())),
            Err(error) => Err(Failure::usage(error)),
        }
    }

    /// The configuration, when anything names an etcd.
    ///
    /// # Errors
    /// When a layer cannot be used.
    pub fn load_if_named(&self) -> Result<Option<Config>, Failure> {
        let layers = Layers::of_process(self.config.clone(), self.flags.overrides());
        let config = layers.load(Requirement::Nothing).map_err(Failure::usage)?.config;
        Ok((!config.etcd.endpoints.is_empty()).then_some(config))
    }
}

// === impl SourceArgs ===

impl SourceArgs {
    /// The configuration, with more flags as its last layer.
    ///
    /// # Errors
    /// When a layer cannot be used.
    pub fn load(&self, more: Vec<Override>) -> Result<Config, Failure> {
        let etcd = self.etcd.iter().cloned();
        let etcd = etcd.map(|value| Override { flag: "--etcd", path: "replicate.source", value });
        let layers = Layers::of_process(self.config.clone(), etcd.chain(more).collect());
        Ok(layers.load(Requirement::Nothing).map_err(Failure::usage)?.config)
    }
}

/// The etcd that a configuration names as the source, or else as the topology's.
///
/// # Errors
/// When it names none, or a file of secrets or certificates cannot be read.
pub fn source(config: &Config) -> Result<ClusterOptions, Failure> {
    let mut named = config.replicate.clone();
    if named.source.is_empty() {
        named.source = config.etcd.endpoints.iter().map(ToString::to_string).collect();
        named.source_ca_file = config.etcd.ca_file.clone();
        named.source_cert_file = config.etcd.cert_file.clone();
        named.source_key_file = config.etcd.key_file.clone();
        named.source_user = config.etcd.user.clone();
        named.source_password_file = config.etcd.password_file.clone();
    }
    if named.source.is_empty() {
        return Err(Failure::usage("failed to find an etcd: none was named").hint(
            "pass --etcd URL, set $ZONEBREAK_REPLICATE__SOURCE or $ZONEBREAK_ETCD__ENDPOINTS, or name a file with --config",
        ));
    }
    named.source().map_err(Failure::usage)
}
