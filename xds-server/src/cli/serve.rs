//! `zonebreak serve`: the control plane. The flags become the last layer of the configuration; the work is in `serve`.

use std::path::PathBuf;

use super::connect::EtcdFlags;
use crate::{
    config::{Layers, LogFilter, LogFormat, Override},
    exit::Outcome,
    serve,
};

/// Serves the topology to Envoy proxies over xDS.
///
/// Reads zones, services, endpoints and drains from etcd (--etcd), or from one YAML file (--topology), gives every proxy the
/// view of its own zone (`node.locality.zone`) and follows each change. Runs until SIGTERM; SIGHUP or a change of the
/// configuration file reloads the filter module, the listeners' address and the log level.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  zonebreak serve --topology topology.yaml
  zonebreak serve --etcd http://10.0.0.1:2379,http://10.0.0.2:2379 --filter zonebreak_filter.wasm
  zonebreak serve --config /etc/zonebreak.yaml

Every setting can come from the file, from ZONEBREAK_SECTION__KEY or from a flag; later ones win.
`zonebreak config defaults` prints them all.")]
pub struct ServeArgs {
    /// Configuration file (YAML); watched, and read again on SIGHUP.
    #[arg(long, value_name = "FILE", env = "ZONEBREAK_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Topology in a YAML file instead of etcd; read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with = "etcd")]
    pub topology: Option<PathBuf>,
    /// Where proxies connect [default: 0.0.0.0:18000].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where operators look [default: 127.0.0.1:19000].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin: Option<String>,
    /// Health checks and metrics [default: 0.0.0.0:19001].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health: Option<String>,
    /// Directory for the last good state, which a start without etcd serves; not kept when absent.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The wasm module that proxies run; no filter when absent.
    #[arg(long, value_name = "FILE.wasm")]
    pub filter: Option<PathBuf>,
    /// off, error, warn, info, debug, trace, or by module: info,zonebreak_xds=debug [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogFilter>,
    /// Form of the log on standard error [default: text].
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    #[command(flatten)]
    etcd: EtcdFlags,
}

/// Runs the command.
pub async fn run(args: ServeArgs) -> Outcome {
    serve::run(args.layers()).await
}

// === impl ServeArgs ===

impl ServeArgs {
    fn layers(&self) -> Layers {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let format = self.log_format.map(|format| match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        });
        let own = [
            ("--topology", "topology.file", path(&self.topology)),
            ("--listen", "xds.listen", self.listen.clone()),
            ("--admin", "admin.listen", self.admin.clone()),
            ("--health", "health.listen", self.health.clone()),
            ("--state-dir", "state.dir", path(&self.state_dir)),
            ("--filter", "filter.file", path(&self.filter)),
            ("--log-level", "log.level", self.log_level.as_ref().map(ToString::to_string)),
            ("--log-format", "log.format", format),
        ];
        let own =
            own.into_iter().filter_map(|(flag, path, value)| Some(Override { flag, path, value: value? }));
        Layers::of_process(self.config.clone(), self.etcd.overrides().into_iter().chain(own).collect())
    }
}
