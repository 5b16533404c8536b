//! What is withheld as text, so that a server that starts again withholds it still. Writes and reads the text; opens no files.
//!
//! The first line is that of every state file ([`zonebreak_topology::saved`]); the rest is JSON: what was refused and what is
//! served in its place, each as it goes to proxies.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use envoy_types::pb::google::protobuf::Any;
use jiff::Timestamp;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use zonebreak_topology::saved::{self, InvalidSaved};
use zonebreak_xds::{Resource, TypeUrl};

use super::{Quarantine, Withheld};

/// One resource.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    type_url: String,
    name: String,
    since: Timestamp,
    change: u64,
    node: String,
    message: String,
    contents: Vec<Pair>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    refused: Content,
    good: Option<Content>,
}

/// One content: the serialized message, and what a client will ask for because of it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    base64: String,
    leads_to: Vec<(String, String)>,
}

// === impl Quarantine ===

impl Quarantine {
    /// The text; empty when nothing is withheld.
    ///
    /// # Errors
    /// When it cannot be said in JSON, which nothing in here brings about.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        if self.withheld.is_empty() {
            return Ok(String::new());
        }
        let rows = self.withheld.iter().map(|((type_url, name), withheld)| Row {
            type_url: type_url.to_string(),
            name: name.to_string(),
            since: withheld.since,
            change: withheld.change,
            node: withheld.node.clone(),
            message: withheld.message.clone(),
            contents: withheld
                .contents
                .iter()
                .map(|(refused, good)| Pair {
                    refused: Content::of(refused),
                    good: good.as_deref().map(Content::of),
                })
                .collect(),
        });
        Ok(saved::seal(&serde_json::to_string(&rows.collect::<Vec<_>>())?))
    }

    /// Reads the text.
    ///
    /// # Errors
    /// When it is not whole, of another version, or says something that this version does not know.
    pub fn from_text(text: &[u8]) -> Result<Self, InvalidSaved> {
        let invalid = |error: &dyn std::fmt::Display| InvalidSaved::Content(error.to_string());
        let rows: Vec<Row> = serde_json::from_slice(saved::open(text)?).map_err(|error| invalid(&error))?;
        let mut quarantine = Self::default();
        for row in rows {
            let (type_url, name) = (TypeUrl::new(&row.type_url), row.name);
            let read = |content: &Content| content.read(&name, &type_url).map_err(|error| invalid(&error));
            let pair = |pair: &Pair| Ok((read(&pair.refused)?, pair.good.as_ref().map(read).transpose()?));
            let contents = row.contents.iter().map(pair).collect::<Result<_, InvalidSaved>>()?;
            let Row { since, change, node, message, .. } = row;
            let withheld = Withheld { since, change, node, message, contents };
            quarantine.withheld.insert((type_url, Arc::from(name)), withheld);
        }
        Ok(quarantine)
    }
}

// === impl Content ===

impl Content {
    fn of(resource: &Resource) -> Self {
        // What we encoded ourselves decodes.
        let value = Any::decode(resource.any().clone()).unwrap_or_default().value;
        let leads_to = resource.children().iter().map(|(kind, name)| (kind.to_string(), name.to_string()));
        Self { base64: BASE64_STANDARD.encode(value), leads_to: leads_to.collect() }
    }

    fn read(&self, name: &str, type_url: &TypeUrl) -> Result<Arc<Resource>, base64::DecodeError> {
        let value = BASE64_STANDARD.decode(&self.base64)?;
        let mut resource = Resource::from_value(name, type_url.clone(), value);
        for (kind, child) in &self.leads_to {
            let kind = TypeUrl::new(kind);
            if !resource.children().iter().any(|(known, of)| *known == kind && **of == **child) {
                resource = resource.with_child(kind, child);
            }
        }
        Ok(Arc::new(resource))
    }
}

#[cfg(test)]
mod tests {
    use zonebreak_xds::{ChangeId, Refusal, Snapshot, ViewKey};

    use super::*;

    #[test]
    fn what_was_withheld_still_is_after_it_was_written_and_read() {
        let view = |content: &'static str| {
            let mut builder = Snapshot::builder(ChangeId(1));
            let listener = Resource::from_value("l", TypeUrl::LISTENER, content);
            builder.put(listener.with_child(TypeUrl::ROUTE, "r")).unwrap();
            builder.put(Resource::from_value(content, TypeUrl::CLUSTER, "new")).unwrap();
            Arc::new(builder.build())
        };
        let (good, bad) = (view("good"), view("bad"));
        let refusal = Refusal {
            node: "one".into(),
            type_url: TypeUrl::LISTENER,
            message: Arc::from("no"),
            resources: Vec::new(),
        };
        let named = [(TypeUrl::LISTENER, Arc::from("l")), (TypeUrl::CLUSTER, Arc::from("bad"))];
        let guilty = named.into_iter().map(|named| (named, refusal.clone())).collect();
        let views = vec![(ViewKey::new("a"), bad)];
        let mut quarantine = Quarantine::default();
        quarantine.withhold(Timestamp::UNIX_EPOCH, 7, &guilty, &views, |_| Some(good.clone()));

        let text = quarantine.to_text().unwrap();
        let mut read = Quarantine::from_text(text.as_bytes()).unwrap();
        let rows = |quarantine: &Quarantine| {
            let row = |(named, it): (&super::super::Named, &Withheld)| {
                (named.clone(), it.since, it.change, it.node.clone(), it.message.clone())
            };
            quarantine.all().map(row).collect::<Vec<_>>()
        };
        assert_eq!(rows(&read), rows(&quarantine));
        assert_eq!(rows(&read).len(), 2);
        let (served, released) = read.apply(views).unwrap();
        assert!(released.is_empty());
        let listener = served[0].1.get(&TypeUrl::LISTENER, "l").unwrap();
        let before = good.get(&TypeUrl::LISTENER, "l").unwrap();
        assert!(listener.same_content(before) && listener.children() == before.children());
        assert_eq!(listener.version(), before.version());
        assert!(served[0].1.get(&TypeUrl::CLUSTER, "bad").is_none(), "there never was a good one");

        assert_eq!(Quarantine::default().to_text().unwrap(), "");
        let turned = text.replace("\"one\"", "\"two\"");
        assert!(matches!(Quarantine::from_text(turned.as_bytes()), Err(InvalidSaved::Damaged(_))));
    }
}
