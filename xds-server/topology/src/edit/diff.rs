//! What it takes to bring etcd to what a file says. Pure; compares values by meaning, so that a default spelled out, another
//! order of fields or another program's way of writing an endpoint is no difference.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::File;
use crate::{entry::Entry, key::Key, registry::Listed};

/// What happens to a key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The key, without the prefix.
    pub key: String,
    /// What happens to it.
    pub change: ChangeKind,
    /// Its value before, as text when that is no JSON; nothing when it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// Its value after; nothing when it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// What happens to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It gets another value.
    Changed,
    /// It goes.
    Removed,
}

/// A change and what is needed to make it safely.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) change: Change,
    /// What to put; `None` deletes.
    pub(super) value: Option<String>,
    /// The revision that the key was read at, 0 when it was not there.
    pub(super) mod_revision: i64,
    /// Whether the key lives by a lease.
    pub(super) leased: bool,
}

/// The changes, puts before deletes, each in order of key.
pub(super) fn plan(file: &File, listed: &[Listed], prune: bool) -> Vec<Planned> {
    let there: BTreeMap<&str, &Listed> = listed.iter().map(|l| (l.key.as_str(), l)).collect();
    let puts = file.entries().filter_map(|(key, entry)| {
        let name = key.to_string();
        let before = there.get(name.as_str());
        if before.is_some_and(|l| Entry::decode(key, &l.value).as_ref() == Ok(entry)) {
            return None;
        }
        let to = file.value(key, entry);
        let value = Some(to.to_string());
        let from = before.map(|l| shown(&l.value));
        let kind = if before.is_some() { ChangeKind::Changed } else { ChangeKind::Added };
        let mod_revision = before.map_or(0, |l| l.mod_revision);
        let leased = before.is_some_and(|l| l.lease != 0);
        let change = Change { key: name, change: kind, from, to: Some(to) };
        Some(Planned { change, value, mod_revision, leased })
    });
    let deletes = listed.iter().filter(|_| prune).filter_map(|l| {
        let Ok(Some(key)) = Key::parse(&l.key) else { return None };
        let stays = l.lease != 0 || file.has(&key) || !file.names(key.kind());
        let (key, from) = (l.key.clone(), Some(shown(&l.value)));
        let change = Change { key, change: ChangeKind::Removed, from, to: None };
        (!stays).then_some(Planned { change, value: None, mod_revision: l.mod_revision, leased: false })
    });
    puts.chain(deletes).collect()
}

fn shown(value: &[u8]) -> Value {
    serde_json::from_slice(value)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(value).into_owned()))
}
