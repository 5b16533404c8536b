//! A topology file: the schema of etcd as one YAML document. Reads text; opens no files.
//!
//! ```yaml
//! zones:     { az-a: { region: eu } }
//! services:  { order-svc: { mode: eventual } }
//! endpoints: { order-svc: { "10.0.0.1:8080": { address: 10.0.0.1, port: 8080, zone: az-a } } }
//! shifts:    { az-b: { ... }, az-b/order-svc: { ... } }
//! health:    { order-svc: { "10.0.0.1:8080": { ... } } }
//! forced:    { order-svc: { "10.0.0.1:8080": { ... } } }
//! confirmed: { endpoints/order-svc: { ... }, source: { ... } }
//! ```
//!
//! # One bad entry does not spoil the rest
//!
//! A serde reader cannot go on after an error. So the text is read from its beginning; when an entry fails, its error (which
//! knows line and column) is noted, and the text is read again with that entry skipped, until it reads to its end. That is one
//! more pass for each bad entry and none for a good file. An error outside of any entry, a duplicate key among entries, or an
//! entry that cannot even be skipped (a bracket that never closes) spoils the whole document: nobody can tell what was meant.
//! An empty text is no topology either: editors empty a file before they write it. Who means it writes `{}`.
//!
//! Keys that stand twice in an entry are errors too. The parser finds them even in what is skipped, so an entry with such a
//! key is skipped by a parser that lets them pass; it still finds repeated fields, though not repeated names in `weights` or
//! `labels` of *another* entry. Those come to light once the first is mended.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_path_to_error::Track;
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::{
    advice::{Path, yaml},
    entry::Entry,
    key::{Key, Kind},
    locate,
    model::{Problem, ZoneSpec},
    near,
};

/// What a topology file says.
#[derive(Debug, Default)]
pub struct Document {
    /// The entries that can be used.
    pub entries: BTreeMap<Key, Entry>,
    /// The entries that cannot, and why.
    pub problems: Vec<Problem>,
    /// The kinds that stand at the top level, be they empty.
    pub kinds: BTreeSet<Kind>,
}

/// Why a text is no topology at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", .position.map_or_else(String::new, |(line, column)| format!("{line}:{column}: ")))]
pub struct Unreadable {
    /// Line and column, from 1.
    pub position: Option<(u32, u32)>,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// One pass over the text.
struct Pass<'a> {
    /// Entries that failed in an earlier pass, by path.
    skip: &'a BTreeSet<Vec<String>>,
    /// The entry being read, and what was read.
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    current: Option<Vec<String>>,
    /// What holds the entries being read, `endpoints/order-svc` for one.
    section: Option<String>,
    /// The field of the entry that its reader complains about.
    field: Option<Path>,
    /// Where the name read last stands, for errors that do not know their place.
    near: Option<(u32, u32)>,
    /// A key that stands twice where entries stand.
    twice: Option<Unreadable>,
    document: Document,
}

/// Bad entries that are told apart before the whole document counts as unreadable: each costs a pass.
const MAX_PROBLEMS: usize = 100;

// === impl Document ===

impl Document {
    /// Reads a document.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        if text.trim().is_empty() {
            let message = "the file is empty; write {} if there is to be nothing".to_owned();
            return Err(Unreadable { position: None, message });
        }
        let mut skip = BTreeSet::new();
        let mut failed: Vec<Problem> = Vec::new();
        let mut options = serde_saphyr::Options::default();
        loop {
            let pass = Pass { skip: &skip, state: RefCell::default() };
            let reading = |reader: serde_saphyr::Deserializer<'_, '_>| Top(&pass).deserialize(reader);
            let read = serde_saphyr::with_deserializer_from_str_with_options(text, options.clone(), reading);
            let State { current, section, field, near, twice, mut document } = pass.state.into_inner();
            if let Some(twice) = twice {
                return Err(twice);
            }
            let Err(error) = read else {
                document.problems.extend(failed);
                document.validate(text);
                document.problems.sort_by_key(|problem| (problem.line, problem.column));
                return Ok(document);
            };
            let mut message = yaml::words(&error, text);
            if let (Some(kind), Some(field)) =
                (current.as_ref().and_then(|path| Kind::of(path.first()?)), field)
            {
                message = Entry::advise(kind, &message, &field);
            }
            if let (None, Some(section)) = (&current, section) {
                message = format!("{section}: {message}");
            }
            let position = yaml::position(&error).or(near).or(Some((1, 1)));
            let strict = matches!(options.duplicate_keys, DuplicateKeyPolicy::Error);
            match current {
                Some(path) if skip.contains(&path) && strict => {
                    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
                }
                Some(path) if skip.len() < MAX_PROBLEMS && !skip.contains(&path) => {
                    failed.push(Problem::new(path.join("/"), message).at(position));
                    skip.insert(path);
                }
                _ => return Err(Unreadable { position, message }),
            }
        }
    }

    /// Moves the entries that read well and still cannot be used to the problems.
    fn validate(&mut self, text: &str) {
        let problems = &mut self.problems;
        self.entries.retain(|key, entry| {
            let Err(invalid) = entry.validate() else { return true };
            let mut path = key.path();
            path.extend(invalid.field.split('.').map(str::to_owned));
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            problems.push(Problem::new(key.to_string(), invalid.to_string()).at(locate::value(text, &path)));
            false
        });
    }
}

fn position(at: serde_saphyr::Location) -> Option<(u32, u32)> {
    u32::try_from(at.line()).ok().zip(u32::try_from(at.column()).ok()).filter(|(line, _)| *line > 0)
}

// === impl Pass ===

impl Pass<'_> {
    fn problem(&self, key: &str, name: &Spanned<String>, message: String) {
        let problem = Problem::new(key, message).at(position(name.referenced));
        self.state.borrow_mut().document.problems.push(problem);
    }

    /// Notes where the name stands. An error when it is not new among its siblings.
    fn once<E: serde::de::Error>(
        &self,
        seen: &mut BTreeSet<String>,
        name: &Spanned<String>,
    ) -> Result<(), E> {
        self.state.borrow_mut().near = position(name.referenced);
        if seen.insert(name.value.clone()) {
            return Ok(());
        }
        let message = format!("duplicate key {:?}; which of the two is meant?", name.value);
        let error = E::custom(&message);
        self.state.borrow_mut().twice = Some(Unreadable { position: position(name.referenced), message });
        Err(error)
    }
}

/// The whole document: kind to what it holds.
#[derive(Clone, Copy)]
struct Top<'a>(&'a Pass<'a>);

/// The entries of a kind, or of a service within it.
struct Entries<'a> {
    pass: &'a Pass<'a>,
    kind: Kind,
    service: Option<String>,
}

/// One value.
struct One<'a>(&'a Pass<'a>, Kind);

// === impl Top ===

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a topology: zones, services, endpoints, shifts, health and forced, each a mapping")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            self.0.once(&mut seen, &name)?;
            let Some(kind) = Kind::of(&name.value) else {
                let known = Kind::ALL.map(Kind::name);
                let meant = near::did_you_mean(&name.value, known);
                let known = known.join(", ");
                self.0.problem(
                    &name.value,
                    &name,
                    format!("there is no such section; a topology has {known}{meant}"),
                );
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.0.state.borrow_mut().document.kinds.insert(kind);
            map.next_value_seed(Entries { pass: self.0, kind, service: None })?;
        }
        Ok(())
    }
}

// === impl Entries ===

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let pass = self.pass;
        let path: Vec<&str> = std::iter::once(self.kind.name()).chain(self.service.as_deref()).collect();
        pass.state.borrow_mut().section = Some(path.join("/"));
        deserializer.deserialize_any(self)?;
        pass.state.borrow_mut().section = None;
        Ok(())
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            None => write!(f, "a mapping for {}", self.kind.shape()),
            Some(_) if self.kind == Kind::Endpoints => f.write_str(
                "a mapping of instances, such as {\"10.0.0.7:8080\": {address: 10.0.0.7, port: 8080, zone: az-a}}",
            ),
            Some(_) => write!(f, "a mapping of instances, for {}", self.kind.shape()),
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        let nested = matches!(self.kind, Kind::Endpoints | Kind::Health | Kind::Forced);
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            self.pass.once(&mut seen, &name)?;
            if nested && self.service.is_none() {
                let service = Some(name.value);
                map.next_value_seed(Entries { pass: self.pass, kind: self.kind, service })?;
                continue;
            }
            let segments: Vec<&str> = match (&self.service, self.kind) {
                (Some(service), _) => vec![service, &name.value],
                (None, Kind::Shifts | Kind::Confirmed) => name.value.split('/').collect(),
                (None, _) => vec![&name.value],
            };
            let path: Vec<String> = std::iter::once(self.kind.name().to_owned())
                .chain(self.service.clone())
                .chain([name.value.clone()])
                .collect();
            if self.pass.skip.contains(&path) {
                self.pass.state.borrow_mut().current = Some(path);
                map.next_value::<IgnoredAny>()?;
                self.pass.state.borrow_mut().current = None;
                continue;
            }
            let key = match Key::from_parts(self.kind, &segments) {
                Ok(key) => key,
                Err(invalid) => {
                    self.pass.problem(&path.join("/"), &name, invalid.to_string());
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            self.pass.state.borrow_mut().current = Some(path);
            let entry = map.next_value_seed(One(self.pass, self.kind))?;
            let mut state = self.pass.state.borrow_mut();
            state.current = None;
            state.document.entries.insert(key, entry);
        }
        Ok(())
    }
}

// === impl One ===

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value of {}", self.1.shape())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Entry, E> {
        match self.1 {
            // All of their fields have defaults, so naming them is enough.
            Kind::Zones => Ok(Entry::Zone(ZoneSpec::default())),
            Kind::Services => Ok(Entry::Service(Arc::default())),
            _ => Err(E::custom(format!("is empty; {} needs a value", self.1.shape()))),
        }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Entry, E> {
        self.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        let mut track = Track::new();
        let read = Entry::read(self.1, serde_path_to_error::Deserializer::new(deserializer, &mut track));
        if read.is_err() {
            self.0.state.borrow_mut().field = Some(track.path());
        }
        read
    }
}

#[cfg(test)]
mod tests;
