//! A recording: the filter's counters over time, as JSON lines. Reads and writes text; opens no files.
//!
//! ```text
//! {"zonebreak_recording":1,"every_ms":100,"envoy":"http://127.0.0.1:9901","zone":"az-a","services":{"order-svc":{...}}}
//! {"at":1764101640100,"services":{"order-svc":{"az-a":{"ok":812,"fail":0,"slow":3,"settled":3,"connect":0,"state":0,"keep":1000}}}}
//! {"at":1764101640200}
//! ```
//!
//! The first line names the version of the format, and what the filter was configured with where that is known: its own zone,
//! and each service's zones, policy and drains, in the filter's own schema. Each further line is a sample at a time in Unix ms.
//! Counters are those of `/stats`, summed over all workers since Envoy started; `state` and `keep` are the gauges
//! `zonebreak_zone_state` and `zonebreak_zone_keep_permille`. A zone that is left out of a sample is as it was in the one before.
//!
//! A line that breaks off at the very end is dropped, with a note: that is how a recording ends whose recorder was killed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zonebreak_core::{
    config::{MAX_ZONES, ServiceConfig},
    names::{ServiceName, Zone},
    window::Totals,
};

/// The version of the format.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub zonebreak_recording: u32,
    /// Time between two samples, in ms.
    pub every_ms: u64,
    /// Admin URL of the Envoy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy: Option<String>,
    /// The proxy's own zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// What the filter was configured with; empty when unknown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<ServiceName, ServiceConfig>,
}

/// What was read at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When, in Unix ms.
    pub at: u64,
    /// The zones that are not as before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: Readings,
}

/// Zones by service.
pub type Readings = BTreeMap<ServiceName, BTreeMap<Zone, Reading>>;

/// Counters and gauges of one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reading {
    /// Attempts answered properly.
    pub ok: u64,
    /// Attempts that failed.
    pub fail: u64,
    /// Slow ones, ended or not.
    pub slow: u64,
    /// Slow ones that ended.
    pub settled: u64,
    /// Failed ones that had no connection.
    pub connect: u64,
    /// Gauge of the breaker's state: 0 closed, 1 open, 2 half-open, 3 ramp, 4 forced open, 5 forced closed, 6 disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<u8>,
    /// Gauge of what the zone keeps of its usual share, in permille.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<u16>,
}

/// A recording that was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recording {
    /// What the filter was configured with, as far as that is known.
    pub header: Option<Header>,
    /// The samples, in the order of the file.
    pub samples: Vec<Sample>,
    /// What was tolerated.
    pub notes: Vec<String>,
}

/// One service of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Which.
    pub service: ServiceName,
    /// Its zones; the order is that of the readings below.
    pub zones: Vec<Zone>,
    /// The samples, every zone in each; `None` before a zone is first seen.
    pub points: Vec<(u64, Vec<Option<Reading>>)>,
}

/// Why a text is no recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecording {
    /// A line cannot be read.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// There is nothing to go by.
    #[error("{found} samples: at least two are needed, since what counts is what changed between them")]
    TooShort {
        /// How many there are.
        found: usize,
    },
    /// The service is not in it.
    #[error("no service {wanted:?} in it; it has {}", or_none(.known))]
    NoService {
        /// The service asked for.
        wanted: String,
        /// Those it has.
        known: Vec<String>,
    },
    /// There are several services and none was named.
    #[error("it has several services; name one of {}", .known.join(", "))]
    WhichService {
        /// Those it has.
        known: Vec<String>,
    },
    /// More zones than the filter tells apart.
    #[error("{found} zones of {service}: the filter tells at most {MAX_ZONES} apart")]
    TooManyZones {
        /// The service.
        service: ServiceName,
        /// Zones found.
        found: usize,
    },
}

/// Writes samples, leaving out what did not change.
#[derive(Debug, Default)]
pub struct Writer {
    last: Readings,
}

fn or_none(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

// === impl Reading ===

impl Reading {
    /// The counters.
    pub const fn totals(&self) -> Totals {
        let Self { ok, fail, slow, settled, connect, .. } = *self;
        Totals { ok, fail, slow, settled, connect }
    }
}

// === impl Recording ===

impl Recording {
    /// Whether a text begins as a recording does.
    pub fn is_one(text: &str) -> bool {
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        first.starts_with('{') && first.contains("\"zonebreak_recording\"")
    }

    /// Reads a recording.
    ///
    /// # Errors
    /// With the number of the first line that cannot be used.
    pub fn parse(text: &str) -> Result<Self, InvalidRecording> {
        let mut recording = Self::default();
        let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).peekable();
        while let Some((number, line)) = lines.next() {
            let fail = |why: String| InvalidRecording::Line { line: number, why };
            if recording.header.is_none() {
                let header: Header = serde_json::from_str(line).map_err(|error| {
                    fail(format!("{error}; was this recorded by another version of zonebreak?"))
                })?;
                if header.zonebreak_recording != VERSION {
                    let found = header.zonebreak_recording;
                    let why =
                        format!("version {found} of the format, and this zonebreak knows version {VERSION}");
                    return Err(fail(why));
                }
                recording.header = Some(header);
                continue;
            }
            match serde_json::from_str(line) {
                Ok(sample) => recording.samples.push(sample),
                Err(error) if error.is_eof() && lines.peek().is_none() => {
                    recording.notes.push(format!("line {number} breaks off and is left out"));
                }
                Err(error) => return Err(fail(error.to_string())),
            }
        }
        Ok(recording)
    }

    /// One service of it; the only one when none is named.
    ///
    /// # Errors
    /// When there is no such service, or too little of it.
    pub fn series(&mut self, wanted: Option<&str>) -> Result<Series, InvalidRecording> {
        let configured = self.header.iter().flat_map(|header| header.services.keys());
        let counted = self.samples.iter().flat_map(|sample| sample.services.keys());
        let mut known: Vec<ServiceName> = configured.chain(counted).cloned().collect();
        known.sort();
        known.dedup();
        let names = || known.iter().map(ServiceName::to_string).collect();
        let service = match (wanted, known.as_slice()) {
            (Some(wanted), known) => known
                .iter()
                .find(|name| name.as_str() == wanted)
                .ok_or_else(|| InvalidRecording::NoService { wanted: wanted.to_owned(), known: names() })?,
            (None, [one]) => one,
            (None, []) => return Err(InvalidRecording::TooShort { found: 0 }),
            (None, _) => return Err(InvalidRecording::WhichService { known: names() }),
        };
        if self.samples.len() < 2 {
            return Err(InvalidRecording::TooShort { found: self.samples.len() });
        }
        let zones = self.zones(service)?;
        let mut now = vec![None; zones.len()];
        let mut points = Vec::with_capacity(self.samples.len());
        for sample in &self.samples {
            let changed = sample.services.get(service);
            for (zone, reading) in changed.into_iter().flatten() {
                if let Some(place) = zones.iter().position(|have| have == zone).and_then(|i| now.get_mut(i)) {
                    *place = Some(*reading);
                }
            }
            points.push((sample.at, now.clone()));
        }
        Ok(Series { service: service.clone(), zones, points })
    }

    /// The zones that the filter judged: the configured ones, or where nothing is known of that all that were counted.
    fn zones(&mut self, service: &ServiceName) -> Result<Vec<Zone>, InvalidRecording> {
        let mut counted: Vec<Zone> = self
            .samples
            .iter()
            .filter_map(|sample| sample.services.get(service))
            .flat_map(|zones| zones.keys().cloned())
            .collect();
        counted.sort();
        counted.dedup();
        let configured = self.header.as_ref().and_then(|header| header.services.get(service));
        let zones = match configured {
            Some(config) => {
                let zones: Vec<Zone> = config.zones.keys().cloned().collect();
                for zone in counted.iter().filter(|zone| !config.zones.contains_key(*zone)) {
                    self.notes.push(format!(
                        "{zone} was counted, and was no zone of {service} at the start: not judged"
                    ));
                }
                zones
            }
            None => counted,
        };
        match zones.len() {
            found if found > MAX_ZONES => {
                Err(InvalidRecording::TooManyZones { service: service.clone(), found })
            }
            _ => Ok(zones),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// What has changed since the last sample.
    pub fn sample(&mut self, at: u64, readings: Readings) -> Sample {
        let mut services = readings.clone();
        for (service, zones) in &mut services {
            if let Some(last) = self.last.get(service) {
                zones.retain(|zone, reading| last.get(zone) != Some(reading));
            }
        }
        services.retain(|_, zones| !zones.is_empty());
        self.last = readings;
        Sample { at, services }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"zonebreak_recording":1,"every_ms":100}"#;

    fn failure(lines: &[&str]) -> String {
        Recording::parse(&lines.join("\n")).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let (service, zone) = (ServiceName::new("s").unwrap(), Zone::new("az-a").unwrap());
        let mut writer = Writer::default();
        let mut text = HEADER.to_owned();
        for (at, ok) in [(0, 5), (100, 5), (200, 9)] {
            let reading = Reading { ok, state: Some(0), ..Reading::default() };
            let readings = Readings::from([(service.clone(), BTreeMap::from([(zone.clone(), reading)]))]);
            let line = serde_json::to_string(&writer.sample(at, readings)).unwrap();
            text = format!("{text}\n{line}");
        }
        assert!(text.contains("\n{\"at\":100}\n"), "{text}");
        let series = Recording::parse(&text).unwrap().series(None).unwrap();
        let ok: Vec<_> = series.points.iter().map(|(at, zones)| (*at, zones[0].unwrap().ok)).collect();
        assert_eq!(ok, [(0, 5), (100, 5), (200, 9)]);
    }

    #[test]
    fn a_bad_line_is_named() {
        assert!(failure(&[&HEADER.replace(":1,", ":2,")]).starts_with("line 1: version 2 of the format"));
        assert!(
            failure(&[HEADER, "{\"at\":1}", "", "{\"at\":\"noon\"}"]).starts_with("line 4: invalid type")
        );
        assert!(failure(&[HEADER, "{\"at\":1", "{\"at\":2}"]).starts_with("line 2: EOF"));
        let unknown = r#"{"at":1,"services":{"s":{"az-a":{"okay":1}}}}"#;
        assert!(failure(&[HEADER, unknown, "{\"at\":2}"]).contains("unknown field `okay`"));
    }

    #[test]
    fn a_recording_that_breaks_off_is_read_to_there() {
        let whole = r#"{"at":1,"services":{"s":{"az-a":{"ok":1}}}}"#;
        let mut read =
            Recording::parse(&[HEADER, whole, "{\"at\":2}", "{\"at\":3,\"serv"].join("\n")).unwrap();
        assert_eq!((read.samples.len(), read.notes.len()), (2, 1));
        assert_eq!(read.series(Some("s")).unwrap().points.len(), 2);
        let none = read.series(Some("t")).unwrap_err().to_string();
        assert_eq!(none, "no service \"t\" in it; it has s");
    }

    #[test]
    fn zones_that_were_none_are_told() {
        let header =
            r#"{"zonebreak_recording":1,"every_ms":100,"services":{"s":{"zones":{"az-a":1},"policy":{}}}}"#;
        let first = r#"{"at":1,"services":{"s":{"az-a":{"ok":1},"az-z":{"ok":1}}}}"#;
        let mut read = Recording::parse(&[header, first, "{\"at\":2}"].join("\n")).unwrap();
        let series = read.series(None).unwrap();
        assert_eq!(series.zones.len(), 1);
        assert!(read.notes[0].starts_with("az-z was counted"), "{:?}", read.notes);
    }
}
