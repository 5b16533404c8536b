//! What a view holds at one moment: every type's resources, immutable, and how a publisher builds the next one.
//!
//! A builder reuses whatever did not change, by content. It never publishes; that is the hub's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::by_type::ByType;
use crate::error::SnapshotError;
use crate::name;
use crate::resource::{Resource, ResourceError};
use crate::type_set::{Errors, TypeSet};
use crate::types::{ChangeId, TypeUrl, Version};

/// How many earlier contents of a type a snapshot remembers, so that a state-of-the-world client which comes back with one of
/// their versions is sent what changed since, and is not met with removals first. Sixteen covers a reconnect during a burst of changes; each
/// costs one list of pointers.
const PAST: usize = 16;

/// Names of resources, by their type.
pub type NamesByType = BTreeMap<TypeUrl, BTreeSet<Arc<str>>>;

/// One view's content: for each type, its resources.
#[derive(Debug, Default)]
pub struct Snapshot {
    change: ChangeId,
    types: ByType<Arc<TypeSet>>,
    /// Earlier contents of the types, newest first.
    past: BTreeMap<TypeUrl, Vec<Arc<TypeSet>>>,
    /// Whether all clusters together lead to all endpoints, once that was asked.
    whole: OnceLock<bool>,
}

/// Collects the resources of a snapshot.
#[derive(Debug)]
pub struct SnapshotBuilder {
    change: ChangeId,
    previous: Option<Arc<Snapshot>>,
    /// Whether what `previous` holds is the starting point, or only a source of shared parts.
    edit: bool,
    put: BTreeMap<TypeUrl, BTreeMap<Arc<str>, Arc<Resource>>>,
    removed: BTreeMap<TypeUrl, BTreeSet<Arc<str>>>,
    failed: BTreeMap<TypeUrl, Errors>,
    versions: BTreeMap<TypeUrl, Version>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Starts a snapshot that will hold exactly what is put into it.
    pub fn builder(change: ChangeId) -> SnapshotBuilder {
        SnapshotBuilder {
            change,
            previous: None,
            edit: false,
            put: BTreeMap::new(),
            removed: BTreeMap::new(),
            failed: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    /// Starts a snapshot from all that this one holds.
    pub fn edit(self: &Arc<Self>, change: ChangeId) -> SnapshotBuilder {
        SnapshotBuilder { edit: true, previous: Some(self.clone()), ..Self::builder(change) }
    }

    /// The publisher's label.
    pub fn change(&self) -> ChangeId {
        self.change
    }

    /// The resources of a type; the empty set when there are none.
    pub fn set(&self, type_url: &TypeUrl) -> &Arc<TypeSet> {
        self.types.get(type_url).unwrap_or(TypeSet::empty())
    }

    /// The types that hold anything, in the order in which they are sent.
    pub fn types(&self) -> impl Iterator<Item = (&TypeUrl, &Arc<TypeSet>)> {
        self.types.iter()
    }

    /// One resource.
    pub fn get(&self, type_url: &TypeUrl, name: &str) -> Option<&Arc<Resource>> {
        self.set(type_url).get(name)
    }

    /// What resources lead to and the snapshot does not have, such as a cluster's endpoints. A client would wait for it until
    /// its own timeout, Envoy with all its clusters: a cluster without endpoints still needs an empty assignment.
    pub fn missing_children(&self) -> Vec<(TypeUrl, Arc<str>)> {
        let children =
            self.types.values().flat_map(|set| set.iter()).flat_map(|resource| resource.children());
        children.filter(|(type_url, name)| self.get(type_url, name).is_none()).cloned().collect()
    }

    /// Whether the endpoints here are just what all clusters here lead to.
    pub(crate) fn leads_to_all_endpoints(&self) -> bool {
        *self.whole.get_or_init(|| {
            let endpoints = self.set(&TypeUrl::ENDPOINT);
            let mut led_to = vec![false; endpoints.len()];
            for (type_url, name) in self.set(&TypeUrl::CLUSTER).iter().flat_map(|cluster| cluster.children())
            {
                if *type_url != TypeUrl::ENDPOINT {
                    return false;
                }
                if let Some(led_to) = endpoints.place(name).and_then(|place| led_to.get_mut(place)) {
                    *led_to = true;
                }
            }
            endpoints.is_plain() && !endpoints.is_empty() && led_to.into_iter().all(|led_to| led_to)
        })
    }

    /// The names under which this and `old` do not hold the same.
    pub fn changed_since(&self, old: &Self) -> NamesByType {
        let types: BTreeSet<&TypeUrl> =
            self.types().chain(old.types()).map(|(type_url, _)| type_url).collect();
        let of = |type_url: &TypeUrl| {
            self.set(type_url).changed_since(old.set(type_url)).iter().cloned().collect()
        };
        let changed = types.into_iter().map(|type_url| (type_url.clone(), of(type_url)));
        changed.filter(|(_, names): &(_, BTreeSet<_>)| !names.is_empty()).collect()
    }

    /// Whether a client in sync with one is in sync with the other.
    pub fn same_content(&self, other: &Self) -> bool {
        self.agrees(other, TypeSet::same_content)
    }

    /// Whether clients are told the same of both: the contents are equal, and so are the versions.
    pub(crate) fn reads_the_same(&self, other: &Self) -> bool {
        self.agrees(other, TypeSet::reads_the_same)
    }

    fn agrees(&self, other: &Self, same: impl Fn(&TypeSet, &TypeSet) -> bool) -> bool {
        let covers = |a: &Self, b: &Self| a.types.iter().all(|(type_url, set)| same(set, b.set(type_url)));
        covers(self, other) && covers(other, self)
    }

    /// The present content of a type and those remembered, newest first.
    pub(crate) fn contents(&self, type_url: &TypeUrl) -> impl Iterator<Item = &Arc<TypeSet>> {
        std::iter::once(self.set(type_url)).chain(self.past.get(type_url).into_iter().flatten())
    }

    /// The present or a remembered content of a type that had this version; none where a version chosen by the
    /// publisher has stood for different contents.
    pub(crate) fn by_version(&self, type_url: &TypeUrl, version: &str) -> Option<&Arc<TypeSet>> {
        let mut found = self.contents(type_url).filter(|set| set.version().as_str() == version);
        let first = found.next()?;
        found.all(|other| other.same_content(first)).then_some(first)
    }
}

// === impl SnapshotBuilder ===

impl SnapshotBuilder {
    /// Shares with `previous` whatever turns out to have the same content. Every publisher that replaces a view's content
    /// should say what it replaces: it is what makes an unchanged type cost nothing.
    #[must_use]
    pub fn based_on(mut self, previous: &Arc<Snapshot>) -> Self {
        self.previous = Some(previous.clone());
        self
    }

    /// Adds a resource, or replaces the one of that name which an edit started from.
    ///
    /// # Errors
    /// An empty name, the name `*` or that of a collection, or a name put twice with different content.
    pub fn put(&mut self, resource: impl Into<Arc<Resource>>) -> Result<&mut Self, SnapshotError> {
        let resource = resource.into();
        let (type_url, name) = (resource.type_url().clone(), resource.name().clone());
        if name.is_empty() {
            return Err(SnapshotError::EmptyName { type_url });
        }
        if &*name == "*" || name::is_glob(&name) {
            return Err(SnapshotError::WildcardName { type_url, name });
        }
        if let Some(removed) = self.removed.get_mut(&type_url) {
            removed.remove(&name);
        }
        if let Some(failed) = self.failed.get_mut(&type_url) {
            failed.remove(&name);
        }
        let named = self.put.entry(type_url.clone()).or_default();
        // xds_protocol.rst, "Duplicate Resource Names": the client would refuse the whole response.
        if named.get(&name).is_some_and(|other| !other.same_content(&resource)) {
            return Err(SnapshotError::Duplicate { type_url, name });
        }
        named.insert(name, resource);
        Ok(self)
    }

    /// Takes a resource out; a name that is not there is no error.
    pub fn remove(&mut self, type_url: &TypeUrl, name: &str) -> &mut Self {
        let name: Arc<str> = Arc::from(name::normal(name));
        if let Some(named) = self.put.get_mut(type_url) {
            named.remove(&name);
        }
        if let Some(failed) = self.failed.get_mut(type_url) {
            failed.remove(&name);
        }
        self.removed.entry(type_url.clone()).or_default().insert(name);
        self
    }

    /// Says that a resource cannot be had at the moment, and why. Clients are told once and keep what they have of it; the
    /// error stands until the resource is put again, or removed (discovery.proto, `resource_errors`).
    ///
    /// The name may also be that of a collection, or `*`: then all of it is in error for those who ask for it.
    pub fn fail(&mut self, type_url: &TypeUrl, name: &str, error: ResourceError) -> &mut Self {
        self.remove(type_url, name);
        let name = Arc::from(name::normal(name));
        self.failed.entry(type_url.clone()).or_default().insert(name, Arc::new(error));
        self
    }

    /// Gives a type a version of the publisher's choice, told to clients as it is. Without it the version is a hash of the
    /// content. Whether anything is sent is decided by content either way.
    pub fn version(&mut self, type_url: &TypeUrl, version: Version) -> &mut Self {
        self.versions.insert(type_url.clone(), version);
        self
    }

    /// The snapshot.
    pub fn build(mut self) -> Snapshot {
        let previous = self.previous.take().unwrap_or_default();
        let mut touched: BTreeSet<TypeUrl> = self.put.keys().cloned().collect();
        touched.extend(self.versions.keys().cloned());
        touched.extend(self.removed.keys().chain(self.failed.keys()).cloned());
        let mut types = if self.edit { previous.types.clone() } else { ByType::default() };
        for type_url in touched {
            let old = previous.types.get(&type_url);
            let mut resources = BTreeMap::new();
            let mut errors = Errors::new();
            if self.edit {
                errors.extend(previous.set(&type_url).errors().clone());
                resources.extend(
                    previous
                        .set(&type_url)
                        .iter()
                        .map(|resource| (resource.name().clone(), resource.clone())),
                );
            }
            self.removed.remove(&type_url).unwrap_or_default().iter().for_each(|name| {
                resources.remove(name);
                errors.remove(name);
            });
            resources.extend(self.put.remove(&type_url).unwrap_or_default());
            errors.extend(self.failed.remove(&type_url).unwrap_or_default());
            errors.retain(|name, _| !resources.contains_key(name));
            let version = self.versions.remove(&type_url);
            types.insert(type_url, TypeSet::build(resources, errors, version, old));
        }
        let past = past(&previous, &types);
        Snapshot { change: self.change, types, past, whole: OnceLock::new() }
    }
}

/// The earlier contents worth remembering once `types` replaces `previous`.
fn past(previous: &Snapshot, types: &ByType<Arc<TypeSet>>) -> BTreeMap<TypeUrl, Vec<Arc<TypeSet>>> {
    let mut past = previous.past.clone();
    for (type_url, old) in previous.types.iter() {
        if types.get(type_url).is_none_or(|new| !Arc::ptr_eq(new, old)) {
            let remembered = past.entry(type_url.clone()).or_default();
            remembered.insert(0, old.clone());
            remembered.truncate(PAST);
        }
    }
    past
}
