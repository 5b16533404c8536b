//! Puts a reloaded configuration in force: what can change does, the rest is named. See [`super::reload`].

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use zonebreak_topology::gate::Limits;

use super::{
    module::Module,
    reload::{self, Reloaded},
    state::{Running, State},
};
use crate::{
    config::{Config, Layers},
    resources::Options,
    telemetry::{
        audit::{Action, Event, Severity},
        log::Log,
    },
};

/// What a running server can be given.
#[derive(Debug)]
pub struct Live {
    /// What is shown.
    pub state: Arc<State>,
    /// What proxies get.
    pub options: watch::Sender<Arc<Options>>,
    /// How much may go at once.
    pub limits: watch::Sender<Limits>,
    /// What is logged.
    pub log: Log,
}

/// What the configuration says about the proxies' resources.
pub fn options(config: &Config, module: Option<&Module>) -> Options {
    Options {
        listener_address: config.listeners.address.to_string(),
        module: module.map(|module| module.delivery.clone()),
        debug_header: config.filter.debug_header,
    }
}

// === impl Live ===

impl Live {
    /// Reads everything again because of `cause`, and takes it or leaves everything as it was.
    pub fn reload(&self, layers: &Layers, cause: &str) {
        let running = self.state.running();
        match reload::reload(layers, &running.effective.config) {
            Reloaded::Refused(error) => {
                self.state.metrics.reloaded(false);
                tracing::error!(cause, error, "the configuration was refused; the old one stays in force");
                Event::own(Severity::Warning, Action::ConfigRefused, format_args!("{cause}: {error}"))
                    .record();
            }
            Reloaded::Taken { effective, module, live, waiting } => {
                let config = &effective.config;
                self.log.set_level(&config.log.level);
                self.note_module(running.module.as_deref(), module.as_deref());
                let options = Arc::new(options(config, module.as_deref()));
                // Views are built anew only for what they are made of.
                self.options.send_if_modified(|old| {
                    let changed = *old != options;
                    *old = options.clone();
                    changed
                });
                self.limits.send_if_modified(|old| {
                    let new = config.guard.limits();
                    std::mem::replace(old, new) != new
                });
                self.state.run_with(Running { effective: *effective, module, read_at: Timestamp::now() });
                self.state.metrics.reloaded(true);
                let (live, waiting) = (live.join(", "), waiting.join(", "));
                if waiting.is_empty() {
                    tracing::info!(cause, changed = live, "the configuration was reloaded");
                } else {
                    tracing::warn!(
                        cause,
                        changed = live,
                        waiting,
                        "the configuration was reloaded; restart for the waiting ones"
                    );
                }
                Event::own(Severity::Info, Action::ConfigReloaded, format_args!("{cause}: {live}")).record();
            }
        }
    }

    fn note_module(&self, old: Option<&Module>, new: Option<&Module>) {
        let name = |module: Option<&Module>| {
            module.map_or_else(|| "none".to_owned(), |module| module.sha256.to_string())
        };
        let (old, new) = (name(old), name(new));
        if old != new {
            tracing::info!(old, new, "another filter module is sent to the proxies");
            Event::own(Severity::Info, Action::ModuleChanged, format_args!("from {old} to {new}")).record();
        }
    }
}
