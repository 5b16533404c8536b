//! A topology file that is to be written to etcd: every entry good, and each as its author wrote it. Reads and prints text;
//! opens no files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

use super::{EditError, diff::Planned};
use crate::{
    document::{Document, Unreadable},
    entry::Entry,
    key::{Key, Kind},
    locate,
    model::Problem,
    registry::{ALIASES, Listed, Registry},
    strangers::{Stranger, strangers},
};

/// A topology file in which everything is good.
#[derive(Debug)]
pub struct File {
    document: Document,
    /// The file as it stands, with anchors resolved.
    written: BTreeMap<String, Value>,
}

// === impl File ===

impl File {
    /// Reads a file and checks all of it. `name` is what messages call it.
    pub fn parse(name: &str, text: &str) -> Result<Self, EditError> {
        let document = Document::parse(text).map_err(|Unreadable { position, message }| {
            EditError::Invalid(vec![Problem::new(name, message).at(position)])
        })?;
        if !document.problems.is_empty() {
            return Err(EditError::Invalid(document.problems));
        }
        // What no single entry is to blame for, such as an alias of two zones.
        let mut registry = Registry::default();
        registry.reset_to(document.entries.clone(), Vec::new(), 0);
        let at = |problem: &Problem| {
            let zone = problem.key.strip_prefix(ALIASES)?;
            locate::value(text, &[Kind::Zones.name(), zone, "aliases"])
        };
        let topology = registry.topology();
        let together: Vec<Problem> =
            topology.problems.values().map(|problem| problem.clone().at(at(problem))).collect();
        if !together.is_empty() {
            return Err(EditError::Invalid(together));
        }
        // It has been read once, so it reads; and if it did not, the entries are written in full instead.
        let written = serde_saphyr::from_str(text).unwrap_or_default();
        Ok(Self { document, written })
    }

    /// Zones that the file names and that are not there, when it is all there is.
    pub fn strangers(&self) -> Vec<Stranger> {
        self.strangers_beside(&[], &[])
    }

    /// Zones that are named and are not there, once this is written over what is listed.
    pub(super) fn strangers_beside(&self, listed: &[Listed], planned: &[Planned]) -> Vec<Stranger> {
        let removed: BTreeSet<&str> =
            planned.iter().filter(|p| p.value.is_none()).map(|p| p.change.key.as_str()).collect();
        let stays = listed.iter().filter(|listed| !removed.contains(listed.key.as_str()));
        let mut registry = Registry::default();
        registry.reset(stays.cloned(), 0);
        let together = registry.entries().chain(self.document.entries.clone()).collect();
        registry.reset_to(together, Vec::new(), 0);
        strangers(&registry.topology())
    }

    /// The entries, in order of key.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.document.entries.iter()
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.document.entries.contains_key(key)
    }

    pub(super) fn names(&self, kind: Kind) -> bool {
        self.document.kinds.contains(&kind)
    }

    /// The value to write for an entry: what the author wrote, so that defaults stay defaults, if it says the same in JSON.
    /// YAML's `zone: 7` for one is a number there.
    pub(super) fn value(&self, key: &Key, entry: &Entry) -> Value {
        let path = key.path();
        let (kind, rest) =
            path.split_first().map_or(("", path.as_slice()), |(kind, rest)| (kind.as_str(), rest));
        let written =
            rest.iter().try_fold(self.written.get(kind), |value, name| value.map(|value| value.get(name)));
        let written = match written.flatten() {
            // Named and no more.
            Some(Value::Null) => Some(Value::Object(serde_json::Map::new())),
            other => other.cloned(),
        };
        let same = |value: &Value| Entry::decode(key, value.to_string().as_bytes()).as_ref() == Ok(entry);
        written.filter(same).or_else(|| entry.to_json().ok()).unwrap_or_default()
    }
}

/// The file that says what these values say.
pub(super) fn render(
    kinds: &BTreeMap<Kind, BTreeMap<Key, Value>>,
    refused: &[Problem],
) -> Result<String, EditError> {
    let mut text = String::new();
    for problem in refused {
        for line in format!("refused: {problem}").lines() {
            _ = writeln!(text, "# {line}");
        }
    }
    for (kind, values) in kinds {
        let mut tree: BTreeMap<String, Value> = BTreeMap::new();
        for (key, value) in values {
            match key.path().as_slice() {
                [_, name] => _ = tree.insert(name.clone(), value.clone()),
                [_, service, instance] => {
                    let map =
                        tree.entry(service.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()));
                    if let Value::Object(map) = map {
                        map.insert(instance.clone(), value.clone());
                    }
                }
                _ => {}
            }
        }
        let yaml = serde_saphyr::to_string(&BTreeMap::from([(kind.name(), tree)]));
        text += &yaml.map_err(|e| EditError::Render(e.to_string()))?;
    }
    Ok(if kinds.is_empty() { text + "{}\n" } else { text })
}
