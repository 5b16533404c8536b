//! Makes a recording of a running Envoy through its admin port, at the filter's own pace. Asks and writes; explains nothing.

use std::{
    io::{self, Write},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use zonebreak_core::config::{FilterConfig, Role};

use super::{
    recording::{Header, VERSION, Writer},
    stats,
};

/// An admin port that has not answered in this time has missed its sample.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Samples that may be missed in a row before the recording ends.
const PATIENCE: u32 = 30;

/// What to record.
#[derive(Debug, Clone)]
pub struct RecordOptions {
    /// Admin URL of the Envoy.
    pub envoy: String,
    /// How long; until it is stopped when absent.
    pub length: Option<Duration>,
    /// Between two samples.
    pub every: Duration,
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Samples written.
    pub samples: u64,
    /// Samples that Envoy did not answer.
    pub missed: u64,
    /// Whether the filter's configuration was found.
    pub configured: bool,
}

/// Why nothing more was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Envoy does not answer.
    #[error("failed to read the counters of the Envoy at {envoy}: {why}")]
    Unreachable {
        /// Its admin port.
        envoy: String,
        /// Why.
        why: String,
    },
    /// Something else answers, or an Envoy without the filter.
    #[error(
        "the Envoy at {envoy} counts nothing for Zonebreak: none of its stats is called zonebreak_attempts_total"
    )]
    NoFilter {
        /// Its admin URL.
        envoy: String,
    },
    /// The recording cannot be written.
    #[error("failed to write the recording: {0}")]
    Write(#[from] io::Error),
}

struct Admin {
    base: String,
    http: reqwest::Client,
}

/// Records into `out` until the time is over or `stop` comes.
///
/// # Errors
/// When Envoy does not answer, has no filter, or `out` cannot be written.
pub async fn record(
    options: &RecordOptions,
    stop: impl Future<Output = ()>,
    out: &mut impl Write,
) -> Result<Recorded, RecordError> {
    let admin = Admin::new(&options.envoy)?;
    if stats::readings(&admin.get(STATS).await?).is_empty() {
        return Err(RecordError::NoFilter { envoy: options.envoy.clone() });
    }
    let config = admin.get("/config_dump").await.ok().and_then(|dump| configuration(&dump));
    let mut recorded = Recorded { configured: config.is_some(), ..Recorded::default() };
    write(
        out,
        &Header {
            zonebreak_recording: VERSION,
            every_ms: u64::try_from(options.every.as_millis()).unwrap_or(u64::MAX),
            envoy: Some(options.envoy.clone()),
            zone: config.as_ref().and_then(|config| config.zone.clone()),
            services: config.map(|config| config.services).unwrap_or_default(),
        },
    )?;
    let end = options.length.map(|length| Instant::now() + length);
    let mut ticks = tokio::time::interval(options.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut writer, mut missed) = (Writer::default(), 0);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(recorded),
            _ = ticks.tick() => {}
        }
        // The counters are those of some moment between question and answer.
        let asked = Timestamp::now().as_millisecond();
        match admin.get(STATS).await {
            Ok(text) => {
                let at = (asked + Timestamp::now().as_millisecond()) / 2;
                write(out, &writer.sample(u64::try_from(at).unwrap_or_default(), stats::readings(&text)))?;
                recorded.samples += 1;
                missed = 0;
            }
            Err(error) => {
                recorded.missed += 1;
                missed += 1;
                if missed >= PATIENCE {
                    return Err(error);
                }
            }
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(recorded);
        }
    }
}

/// Only what is recorded: a proxy has thousands of others.
const STATS: &str = "/stats?filter=zonebreak_(attempts|slow_attempts|connect_failures|zone)_";

fn write(out: &mut impl Write, line: &impl Serialize) -> Result<(), RecordError> {
    let mut text = serde_json::to_string(line).map_err(io::Error::from)?;
    text.push('\n');
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The filter's configuration in its downstream role, wherever it stands in a config dump: in ECDS, a listener, or a manifest's
/// patch.
fn configuration(dump: &str) -> Option<FilterConfig> {
    fn find(value: &Value) -> Option<FilterConfig> {
        match value {
            Value::Object(fields) => {
                let text = fields.get("configuration").and_then(|inner| inner.get("value")?.as_str());
                let config = text.and_then(|text| FilterConfig::parse(text.as_bytes()).ok());
                config
                    .filter(|config| config.role == Role::Downstream)
                    .or_else(|| fields.values().find_map(find))
            }
            Value::Array(items) => items.iter().find_map(find),
            _ => None,
        }
    }
    find(&serde_json::from_str(dump).ok()?)
}

// === impl Admin ===

impl Admin {
    fn new(base: &str) -> Result<Self, RecordError> {
        let base = base.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build();
        let http =
            http.map_err(|error| RecordError::Unreachable { envoy: base.clone(), why: error.to_string() })?;
        Ok(Self { base, http })
    }

    async fn get(&self, path: &str) -> Result<String, RecordError> {
        let url = format!("{}{path}", self.base);
        let fail = |error: reqwest::Error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            RecordError::Unreachable { envoy: self.base.clone(), why: cause.to_string() }
        };
        let answer = self.http.get(&url).send().await.and_then(reqwest::Response::error_for_status);
        answer.map_err(fail)?.text().await.map_err(fail)
    }
}
