//! Endpoints as other programs register them. Read as they are, fields that mean nothing here included; never written.
//!
//! Two forms are known by their field names:
//!
//! - etcd's Go naming package (`clientv3/naming/endpoints`, type `internal.Update`): `{"Op": 0, "Addr": "10.0.0.1:8080",
//!   "Metadata": {"zone": "az-a", "region": "cn-north-1", "weight": 3}}`.
//! - Consul's services: `{"Address": "10.0.0.1", "Port": 8080, "Tags": ["az=cn-north-1a"], "Meta": {..}}`, in capitals or not.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use zonebreak_core::names::Zone;

use crate::model::Endpoint;

/// Names under which programs write down the zone.
const ZONE: [&str; 4] = ["zone", "az", "availability_zone", "topology.kubernetes.io/zone"];
/// Names under which they write down the region.
const REGION: [&str; 2] = ["region", "topology.kubernetes.io/region"];
/// The weight.
const WEIGHT: [&str; 1] = ["weight"];

/// Reads a value of one of these forms. `None` when it is none of them, `Some(Err)` when it is one and lacks what is needed.
pub(crate) fn read(json: &[u8]) -> Option<Result<Endpoint, String>> {
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(json) else { return None };
    if object.contains_key("Addr") {
        Some(go_naming(&object))
    } else if object.contains_key("tags") || object.contains_key("Tags") {
        Some(consul(&object))
    } else {
        None
    }
}

fn go_naming(object: &Map<String, Value>) -> Result<Endpoint, String> {
    // Op 1 is a deletion, which that package sends on its channel and never stores.
    if object.get("Op").is_some_and(|op| op != 0) {
        return Err(
            "Op: only 0, an addition, can be stored; delete the key to remove the endpoint".to_owned()
        );
    }
    let Some(Value::String(address)) = object.get("Addr") else {
        return Err("Addr: must be a text such as 10.0.0.1:8080".to_owned());
    };
    let (host, port) = split(address).ok_or_else(|| format!("Addr: must be host:port, not {address:?}"))?;
    let attributes = match object.get("Metadata") {
        Some(Value::Object(metadata)) => metadata.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        _ => BTreeMap::new(),
    };
    build(host, port, None, attributes, "Metadata: needs a \"zone\", as in {\"zone\": \"az-a\"}")
}

fn consul(object: &Map<String, Value>) -> Result<Endpoint, String> {
    let field = |names: [&str; 2]| names.into_iter().find_map(|name| object.get(name));
    let Some(Value::String(address)) = field(["address", "Address"]) else {
        return Err("address: is missing, or no text".to_owned());
    };
    let port = field(["port", "Port"]).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| "port: must be 1 to 65535".to_owned())?;
    let mut attributes = BTreeMap::new();
    if let Some(Value::Object(meta)) = field(["meta", "Meta"]) {
        attributes.extend(meta.iter().map(|(k, v)| (k.clone(), plain(v))));
    }
    if let Some(Value::Array(tags)) = field(["tags", "Tags"]) {
        let pairs = tags.iter().filter_map(Value::as_str).map(|tag| tag.split_once('=').unwrap_or((tag, "")));
        attributes.extend(pairs.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())));
    }
    for (names, ours) in [(["zone", "Zone"], "zone"), (["region", "Region"], "region")] {
        if let Some(value) = field(names) {
            attributes.insert(ours.to_owned(), plain(value));
        }
    }
    let weight = field(["weight", "Weight"]).and_then(Value::as_u64);
    build(address, port, weight, attributes, "tags: need the zone, as in [\"az=cn-north-1a\"]")
}

fn build(
    host: &str,
    port: u16,
    weight: Option<u64>,
    mut attributes: BTreeMap<String, String>,
    no_zone: &str,
) -> Result<Endpoint, String> {
    let mut take = |names: &[&str]| names.iter().find_map(|name| attributes.remove(*name));
    let zone = take(&ZONE).ok_or_else(|| no_zone.to_owned())?;
    let zone = Zone::new(&zone).map_err(|e| e.to_string())?;
    let region = take(&REGION).unwrap_or_default();
    let weight = match (weight, take(&WEIGHT)) {
        (Some(weight), _) => u32::try_from(weight).map_err(|_| format!("weight: {weight} is too much"))?,
        (None, Some(text)) => text.parse().map_err(|_| format!("weight: {text:?} is no number"))?,
        (None, None) => 1,
    };
    Ok(Endpoint { address: host.to_owned(), port, region, zone, weight, labels: attributes })
}

/// `host:port` and `[v6]:port`. An IPv6 address without brackets is refused: where its port begins is anybody's guess.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = bare.or_else(|| (!host.contains(':')).then_some(host))?;
    (!host.is_empty()).then_some(host).zip(port.parse().ok())
}

/// A JSON value as the text that a person would write for it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_naming_registrations_are_read() {
        let json = br#"{"Op":0,"Addr":"[fd00::1]:8080","Metadata":{"zone":"az-a","region":"eu","weight":3,"v":"1.2"}}"#;
        let endpoint = read(json).unwrap().unwrap();
        assert_eq!((endpoint.address.as_str(), endpoint.port, endpoint.weight), ("fd00::1", 8080, 3));
        assert_eq!((&*endpoint.zone, endpoint.region.as_str()), ("az-a", "eu"));
        assert_eq!(endpoint.labels, BTreeMap::from([("v".to_owned(), "1.2".to_owned())]));
    }

    #[test]
    fn consul_services_are_read() {
        let json =
            br#"{"ID":"x","Service":"s","Address":"10.0.0.1","Port":80,"Tags":["az=cn-north-1a","canary"]}"#;
        let endpoint = read(json).unwrap().unwrap();
        assert_eq!((&*endpoint.zone, endpoint.port, endpoint.weight), ("cn-north-1a", 80, 1));
        assert_eq!(endpoint.labels, BTreeMap::from([("canary".to_owned(), String::new())]));
        let lower = br#"{"address":"10.0.0.1","port":80,"tags":["az=a","weight=7"],"region":"eu"}"#;
        let endpoint = read(lower).unwrap().unwrap();
        assert_eq!((endpoint.weight, endpoint.region.as_str()), (7, "eu"));
    }

    #[test]
    fn what_is_missing_is_named_and_strangers_are_left_alone() {
        for (json, says) in [
            (r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#, "needs a \"zone\""),
            (r#"{"Op":1,"Addr":"10.0.0.1:80"}"#, "only 0"),
            (r#"{"Op":0,"Addr":"10.0.0.1"}"#, "must be host:port"),
            (r#"{"address":"a","port":80,"tags":[]}"#, "need the zone"),
            (r#"{"address":"a","port":99999,"tags":["az=a"]}"#, "port: must be"),
            (r#"{"address":"a","port":1,"tags":["az=a","weight=x"]}"#, "is no number"),
        ] {
            let error = read(json.as_bytes()).unwrap().unwrap_err();
            assert!(error.contains(says), "{json}: {error}");
        }
        assert!(read(br#"{"address":"a","port":80,"zone":"z"}"#).is_none());
        assert!(read(b"[1]").is_none());
        assert!(read(b"{").is_none());
    }
}
