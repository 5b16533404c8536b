//! The root context: takes a configuration or refuses it, and ticks. Decides nothing.

use std::time::Duration;

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext, RootContext},
    types::{BufferType, ContextType, LogLevel},
};
use zonebreak_core::{
    config::{FilterConfig, Role},
    names::Zone,
};

use crate::{downstream::Downstream, host, upstream::Upstream, worker};

/// More configuration than this is no configuration (Envoy's own limit on a discovery response is lower).
const MAX_CONFIGURATION: usize = 64 << 20;

/// One configuration of the filter in one role.
#[derive(Debug, Default)]
pub struct Root {
    role: Option<Role>,
}

// === impl Root ===

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let json =
            hostcalls::get_buffer(BufferType::PluginConfiguration, 0, MAX_CONFIGURATION).ok().flatten();
        let parsed = FilterConfig::parse(&json.unwrap_or_default());
        match parsed {
            Ok(config) => {
                self.role = Some(config.role);
                self.apply(config);
                true
            }
            // Envoy rejects the update, tells the control plane and goes on with the configuration it has.
            Err(error) => {
                host::log(
                    LogLevel::Error,
                    &format!("zonebreak: configuration refused, the old one stays: {error}"),
                );
                false
            }
        }
    }

    fn on_tick(&mut self) {
        worker::with(worker::Worker::tick);
        // Last, since the host calls after it are about those requests.
        for context in worker::with(worker::Worker::due).unwrap_or_default() {
            host::resume_request(context);
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(match self.role {
            Some(Role::Upstream) => Box::new(Upstream::default()),
            Some(Role::Downstream) | None => Box::new(Downstream::new(context_id)),
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Root {
    fn apply(&self, config: FilterConfig) {
        if config.role == Role::Upstream {
            return;
        }
        let own = config.zone.clone().or_else(|| {
            host::text_property(&["xds", "node", "locality", "zone"], &["node", "locality", "zone"])
                .and_then(|zone| Zone::new(&zone).ok())
        });
        if own.is_none() {
            host::log(
                LogLevel::Warn,
                "zonebreak: this proxy's own zone is unknown: set node.locality.zone, or \"zone\" in the configuration",
            );
        }
        worker::with(|worker| worker.configure(config, own.as_ref()));
        if hostcalls::set_tick_period(Duration::from_millis(worker::TICK_MS)).is_err() {
            host::log(
                LogLevel::Error,
                "zonebreak: no tick to be had from the host: zones will not be judged",
            );
        }
    }
}
