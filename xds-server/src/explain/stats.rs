//! The filter's counters in Envoy's own text forms: `/stats`, and `/stats/prometheus` scraped again and again. Reads text;
//! asks nobody.

use jiff::Timestamp;
use zonebreak_core::names::{ServiceName, Zone};

use super::recording::{InvalidRecording, Reading, Readings, Recording, Writer};

/// What every metric of the filter begins with, after whatever Envoy puts before it.
const PREFIX: &str = "zonebreak_";

/// One metric of a zone.
struct Metric<'a> {
    name: &'a str,
    service: &'a str,
    zone: &'a str,
    result: &'a str,
    value: u64,
}

// === impl Metric ===

impl<'a> Metric<'a> {
    /// From a line of `/stats`: `wasmcustom.zonebreak_attempts_total;service=s;zone=z;result=ok: 12`.
    fn of_stats(line: &'a str) -> Option<Self> {
        let (name, value) = line.get(line.find(PREFIX)?..)?.rsplit_once(": ")?;
        let mut parts = name.split(';');
        let name = parts.next()?;
        Self::new(name, parts.filter_map(|part| part.split_once('=')), value)
    }

    /// From a sample of the Prometheus text format, and the time in Unix ms that may follow its value.
    fn of_prometheus(line: &'a str) -> Option<(Self, Option<u64>)> {
        let (name, rest) = line.get(line.find(PREFIX)?..)?.split_once('{')?;
        let (labels, rest) = rest.split_once('}')?;
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let mut rest = rest.split_whitespace();
        let metric = Self::new(
            name,
            labels.map(|(name, value)| (name.trim(), value.trim_matches('"'))),
            rest.next()?,
        )?;
        Some((metric, rest.next().and_then(|at| at.parse().ok())))
    }

    fn new(name: &'a str, labels: impl Iterator<Item = (&'a str, &'a str)>, value: &str) -> Option<Self> {
        // Prometheus writes whole numbers as such, or as 12.0 or 1e3 where another program wrote the file.
        let value = value.parse().ok().or_else(|| value.parse::<f64>().ok().map(|number| number as u64))?;
        let mut metric = Self { name, service: "", zone: "", result: "", value };
        for (label, value) in labels {
            match label {
                "service" => metric.service = value,
                "zone" => metric.zone = value,
                "result" => metric.result = value,
                _ => {}
            }
        }
        Some(metric)
    }

    /// Adds it to the readings, if it is one of a zone that explains anything.
    fn put(&self, readings: &mut Readings) {
        let (Ok(service), Ok(zone)) = (ServiceName::new(self.service), Zone::new(self.zone)) else { return };
        let set = |reading: &mut Reading| match (self.name, self.result) {
            ("zonebreak_attempts_total", "ok") => reading.ok = self.value,
            ("zonebreak_attempts_total", "fail") => reading.fail = self.value,
            ("zonebreak_slow_attempts_total", _) => reading.slow = self.value,
            ("zonebreak_slow_attempts_ended_total", _) => reading.settled = self.value,
            ("zonebreak_connect_failures_total", _) => reading.connect = self.value,
            ("zonebreak_zone_state", _) => reading.state = u8::try_from(self.value).ok(),
            ("zonebreak_zone_keep_permille", _) => reading.keep = u16::try_from(self.value).ok(),
            _ => {}
        };
        set(readings.entry(service).or_default().entry(zone).or_default());
    }
}

/// The answer of `/stats`.
pub fn readings(text: &str) -> Readings {
    let mut readings = Readings::new();
    text.lines().filter_map(Metric::of_stats).for_each(|metric| metric.put(&mut readings));
    readings
}

/// Whether a text holds samples in the Prometheus text format.
pub fn is_prometheus(text: &str) -> bool {
    text.lines().any(|line| line.contains("zonebreak_attempts_total{"))
}

/// Scrapes of `/stats/prometheus` one after the other. Each begins with a comment `# at 2026-11-25T20:14:00Z`, or each sample
/// carries its time in Unix ms, as Prometheus' own `/federate` writes it.
///
/// # Errors
/// When a sample's time is unknown.
pub fn prometheus(text: &str) -> Result<Recording, InvalidRecording> {
    let mut scrapes: std::collections::BTreeMap<u64, Readings> = Default::default();
    let mut began: Option<u64> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let fail = |why: String| InvalidRecording::Line { line: number, why };
        if let Some(at) = line.strip_prefix("# at ") {
            let at: Timestamp =
                at.trim().parse().map_err(|error| fail(format!("{:?} is no time: {error}", at.trim())))?;
            began = u64::try_from(at.as_millisecond()).ok();
            continue;
        }
        let Some((metric, at)) = (if line.starts_with('#') { None } else { Metric::of_prometheus(line) })
        else {
            continue;
        };
        let at = at.or(began).ok_or_else(|| {
            fail(
                "when was this scraped? put a line `# at 2026-11-25T20:14:00Z` before each scrape".to_owned(),
            )
        })?;
        metric.put(scrapes.entry(at).or_default());
    }
    let mut writer = Writer::default();
    let samples = scrapes.into_iter().map(|(at, readings)| writer.sample(at, readings)).collect();
    Ok(Recording { header: None, samples, notes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let stats = "cluster.order-svc.upstream_rq_total: 7
wasmcustom.zonebreak_attempts_total;service=order-svc;zone=az-a;result=ok: 12
wasmcustom.zonebreak_attempts_total;service=order-svc;zone=az-a;result=fail: 3
wasmcustom.zonebreak_attempts_total;service=order-svc;zone=az-a;result=late: 9
wasmcustom.zonebreak_connect_failures_total;service=order-svc;zone=az-a: 2
wasmcustom.zonebreak_epoch;service=order-svc: 4
wasmcustom.zonebreak_slow_attempts_ended_total;service=order-svc;zone=az-a: 1
wasmcustom.zonebreak_slow_attempts_total;service=order-svc;zone=az-a: 5
wasmcustom.zonebreak_zone_keep_permille;service=order-svc;zone=az-a: 1000
wasmcustom.zonebreak_zone_state;service=order-svc;zone=az-a: 0
";
        let scrape = "# TYPE zonebreak_attempts_total counter
zonebreak_attempts_total{result=\"ok\",service=\"order-svc\",zone=\"az-a\"} 12
zonebreak_attempts_total{result=\"fail\",service=\"order-svc\",zone=\"az-a\"} 3
zonebreak_connect_failures_total{service=\"order-svc\",zone=\"az-a\"} 2
zonebreak_slow_attempts_ended_total{service=\"order-svc\",zone=\"az-a\"} 1
zonebreak_slow_attempts_total{service=\"order-svc\",zone=\"az-a\"} 5
zonebreak_zone_keep_permille{service=\"order-svc\",zone=\"az-a\"} 1000
zonebreak_zone_state{service=\"order-svc\",zone=\"az-a\"} 0
";
        let expected =
            Reading { ok: 12, fail: 3, slow: 5, settled: 1, connect: 2, state: Some(0), keep: Some(1000) };
        let of = |readings: &Readings| *readings.values().next().unwrap().values().next().unwrap();
        assert_eq!(of(&readings(stats)), expected);
        let text = format!("# at 2026-11-25T20:14:00Z\n{scrape}# at 2026-11-25T20:14:15Z\n{scrape}");
        let read = prometheus(&text).unwrap();
        assert_eq!(of(&read.samples[0].services), expected);
        assert_eq!(read.samples[1].at - read.samples[0].at, 15_000);
        let federated = scrape.lines().map(|line| format!("{line} 1764101640000\n")).collect::<String>();
        assert_eq!(of(&prometheus(&federated).unwrap().samples[0].services), expected);
        let error = prometheus(scrape).unwrap_err().to_string();
        assert!(error.starts_with("line 2: when was this scraped?"), "{error}");
    }
}
