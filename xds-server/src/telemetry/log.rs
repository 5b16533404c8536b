//! The log on standard error: lines for people or JSON, its level changeable while the program runs. Audit events go their
//! own way beside it: always JSON, whatever the level. Standard output is left to data.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use super::audit;
use crate::config::{LogConfig, LogFilter, LogFormat};

/// The handle on a running log.
#[derive(Debug, Clone)]
pub struct Log {
    level: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging for this process. A second call has no effect on what is logged; the handle then changes nothing.
pub fn start(config: &LogConfig) -> Log {
    let (level, handle) = reload::Layer::new(config.level.directives());
    let lines = lines(config.format).with_filter(level.and(filter_fn(|meta| meta.target() != audit::TARGET)));
    let events = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
    let events = events.with_filter(filter_fn(|meta| meta.target() == audit::TARGET));
    // Fails only when a subscriber is there already, as in a test that runs the server twice.
    let _already_started = tracing_subscriber::registry().with(lines).with(events).try_init();
    Log { level: handle }
}

fn lines<S>(format: LogFormat) -> Box<dyn tracing_subscriber::Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    match format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
        LogFormat::Text => {
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            fmt::layer().with_ansi(colour).with_writer(io::stderr).boxed()
        }
    }
}

// === impl Log ===

impl Log {
    /// Logs at `level` from now on.
    pub fn set_level(&self, level: &LogFilter) {
        // Fails only when the subscriber is gone, and then nobody listens.
        let _gone = self.level.reload(level.directives());
    }
}
