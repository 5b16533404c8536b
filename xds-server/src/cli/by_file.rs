//! What a command that writes to etcd comes to where the topology is a file: the lines to write into it. Says so; writes none.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use zonebreak_topology::{
    register::RegisterOptions,
    shift::{Drain, LONGEST},
};

const THERE: &str =
    "where `zonebreak serve --topology FILE` reads a file, the file is the place, and is read again at once";

/// How to drain a zone.
pub fn drain(drain: &Drain, now: Timestamp) -> String {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let millis = i64::try_from(drain.duration.min(LONGEST).0).unwrap_or_default();
    let end = now.checked_add(SignedDuration::from_millis(millis)).unwrap_or(now);
    let service = drain.service.as_ref().map_or_else(String::new, |service| format!("/{service}"));
    let value = json!({
        "keep_percent": drain.keep_percent,
        "reason": drain.reason,
        "actor": drain.actor,
        "started_at": now,
        "expires_at": end,
    });
    lines("write there", json!({"shifts": {format!("{}{service}", drain.zone): value}}))
}

/// How to end a drain, or to give it another end.
pub fn drained(zone: &str, what: &str) -> String {
    format!("{THERE}: {what} `{zone}` under `shifts:`")
}

/// How to make an endpoint known.
pub fn endpoint(options: &RegisterOptions) -> String {
    match options.endpoint() {
        Ok((instance, endpoint)) => {
            let service = options.service.as_str();
            lines("write there", json!({"endpoints": {service: {instance.as_str(): endpoint}}}))
        }
        Err(_) => format!("{THERE}: write the endpoint under `endpoints:`"),
    }
}

/// How to change or read the whole.
pub fn topology() -> String {
    format!("{THERE}: there is nothing to apply or to compare; `zonebreak topology validate FILE` checks it")
}

fn lines(what: &str, value: Value) -> String {
    let yaml = serde_saphyr::to_string(&value).unwrap_or_default();
    let yaml: String = yaml.lines().map(|line| format!("\n    {line}")).collect();
    format!("{THERE}; {what}:{yaml}")
}

#[cfg(test)]
mod tests {
    use zonebreak_core::units::{Millis, Percent};
    use zonebreak_topology::document::Document;

    use super::*;

    /// The topology file that a hint shows.
    fn shown(hint: &str) -> Document {
        let (_, lines) = hint.split_once('\n').unwrap();
        let document = Document::parse(lines).unwrap();
        assert_eq!(document.problems, [], "{hint}");
        document
    }

    #[test]
    fn what_is_to_be_written_can_be_read() {
        let asked = Drain {
            zone: "az-b".parse().unwrap(),
            service: Some("order-svc".parse().unwrap()),
            keep_percent: Percent::new(12.5).unwrap(),
            duration: Millis::secs(1800),
            reason: "yes: \"it\" #1".to_owned(),
            actor: "ann@host".to_owned(),
            force: false,
        };
        let hint = drain(&asked, "2026-01-05T10:00:00.5Z".parse().unwrap());
        assert!(hint.contains("2026-01-05T10:30:00Z"), "{hint}");
        let keys: Vec<String> = shown(&hint).entries.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["shifts/az-b/order-svc"]);

        let options = RegisterOptions {
            service: "order-svc".parse().unwrap(),
            instance: None,
            zone: "7".parse().unwrap(),
            region: String::new(),
            address: "[fd00::1]:80".to_owned(),
            weight: 3,
            labels: [("version".to_owned(), "1.4".to_owned())].into(),
            ttl: RegisterOptions::DEFAULT_TTL,
        };
        let keys: Vec<String> = shown(&endpoint(&options)).entries.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["endpoints/order-svc/[fd00::1]:80"]);
    }
}
