//! All resources of one type in one snapshot: sorted, immutable, shared.
//!
//! A set knows which names changed since the set it replaced, so a stream that held that one finds its changes in the time of
//! the change and not of the set. It never changes after it was built.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::name;
use crate::resource::{Fingerprint, Resource, ResourceError};
use crate::types::{Protocol, Version};
use crate::wire;

/// The resources of one type, by name.
///
/// Two snapshots whose content of a type is equal hold the very same set, so "nothing changed" is a pointer comparison.
#[derive(Debug)]
pub struct TypeSet {
    id: u64,
    version: Version,
    explicit: bool,
    fingerprint: Fingerprint,
    /// Sorted by name, no name twice.
    resources: Vec<Arc<Resource>>,
    /// A set with the same names as the one before shares it.
    places: Arc<Places>,
    /// Other names, sorted, each with the place of its resource. None is also a name.
    aliases: Vec<(Arc<str>, usize)>,
    /// Names whose resource cannot be had at the moment; none of them is in `resources`.
    errors: Errors,
    /// The shortest time to live of any resource.
    ttl: Option<Duration>,
    /// The lengths of all entries and of all `Any`s, as fields of a response.
    entries_len: usize,
    anys_len: usize,
    /// Over all names, and over all names with their versions.
    names_sum: Sum,
    versions_sum: Sum,
    /// All resources as somebody is being sent them, for each protocol.
    written: [Mutex<Weak<Vec<Bytes>>>; 2],
    /// What this set replaced, and the names in which the two differ.
    lineage: Option<(u64, Vec<Arc<str>>)>,
}

/// Where each name of a set is in it: streams ask by name, and one that asked for all of them has nothing else to remember.
pub(crate) type Places = HashMap<Arc<str>, usize, BuildHasherDefault<NameHasher>>;

/// The hash of a name. Only a publisher's names are ever put into [`Places`], so no client can have them collide.
#[derive(Debug, Default)]
pub(crate) struct NameHasher(u64);

/// A hash over texts in any order: the sum of a hash for each. So a thousand names that a client says are compared with the
/// thousand of a set at once, and none of them is looked up. Who crafts names that collide fools nobody but himself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

/// Names in error.
pub(crate) type Errors = BTreeMap<Arc<str>, Arc<ResourceError>>;

/// Names in which two sets differ, borrowed where they are known and collected where they are not.
pub(crate) type Changed<'a> = std::borrow::Cow<'a, [Arc<str>]>;

// === impl TypeSet ===

impl TypeSet {
    /// The set with nothing in it.
    pub fn empty() -> &'static Arc<Self> {
        static EMPTY: LazyLock<Arc<TypeSet>> = LazyLock::new(|| {
            let fingerprint = Fingerprint::default();
            Arc::new(TypeSet {
                id: 0,
                version: fingerprint.version(),
                explicit: false,
                fingerprint,
                resources: Vec::new(),
                places: Arc::default(),
                aliases: Vec::new(),
                errors: Errors::new(),
                ttl: None,
                entries_len: 0,
                anys_len: 0,
                names_sum: Sum::default(),
                versions_sum: Sum::default(),
                written: Default::default(),
                lineage: None,
            })
        });
        &EMPTY
    }

    /// A set of these resources. Where `previous` holds the same content its resources are kept, and where nothing at all
    /// changed, `previous` itself is the answer.
    pub(crate) fn build(
        resources: BTreeMap<Arc<str>, Arc<Resource>>,
        errors: Errors,
        explicit: Option<Version>,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let previous = previous.unwrap_or(Self::empty());
        let resources: Vec<_> = resources
            .into_values()
            .map(|new| match previous.named(new.name()) {
                Some(old) if old.same_content(&new) && old.version() == new.version() => old.clone(),
                _ => new,
            })
            .collect();
        let mut changed = differing(&previous.resources, &resources, Arc::ptr_eq);
        let same_version =
            explicit.as_ref().map_or(!previous.explicit, |version| *version == previous.version);
        if changed.is_empty() && same_version && errors == previous.errors {
            return previous.clone();
        }
        add_aliases(&mut changed, &previous.resources, &resources);
        let mut fingerprint = Fingerprint::default();
        resources.iter().for_each(|resource| fingerprint.add(resource));
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            explicit: explicit.is_some(),
            version: explicit.unwrap_or_else(|| fingerprint.version()),
            fingerprint,
            aliases: aliases(&resources),
            errors,
            places: previous.places_of(&resources),
            ttl: resources.iter().filter_map(|resource| resource.ttl()).min(),
            entries_len: resources.iter().map(|resource| wire::bytes_len(resource.entry().len())).sum(),
            anys_len: resources.iter().map(|resource| wire::bytes_len(resource.any().len())).sum(),
            names_sum: Sum::of_names(resources.iter().map(|resource| &**resource.name())),
            versions_sum: Sum::of_versions(
                resources.iter().map(|resource| (&**resource.name(), resource.version().as_str())),
            ),
            written: Default::default(),
            resources,
            lineage: Some((previous.id, changed)),
        })
    }

    /// The version of the whole set: a hash of its content unless the publisher chose one.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Whether the version was chosen by the publisher.
    pub fn has_explicit_version(&self) -> bool {
        self.explicit
    }

    /// The resource of this name, or else of this alias.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        match self.named(name) {
            None if !self.aliases.is_empty() => {
                let at = self.aliases.binary_search_by(|(alias, _)| (**alias).cmp(name)).ok()?;
                self.resources.get(self.aliases.get(at)?.1)
            }
            found => found,
        }
    }

    /// The resource of this very name.
    fn named(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(self.place(name)?)
    }

    /// Where this very name stands among all, which [`TypeSet::iter`] goes by.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// The resource at this place.
    pub(crate) fn at(&self, place: usize) -> Option<&Arc<Resource>> {
        self.resources.get(place)
    }

    /// The places of `next`, sorted as well: this set's own where the names are the same.
    fn places_of(&self, next: &[Arc<Resource>]) -> Arc<Places> {
        let same = next.len() == self.resources.len()
            && next.iter().zip(&self.resources).all(|(new, old)| new.name() == old.name());
        if same {
            return self.places.clone();
        }
        Arc::new(next.iter().enumerate().map(|(at, resource)| (resource.name().clone(), at)).collect())
    }

    /// Whether these are just its names, each once.
    pub(crate) fn is_named<'a>(&self, count: usize, names: impl Iterator<Item = &'a str>) -> bool {
        self.len() == count && self.names_sum == Sum::of_names(names)
    }

    pub(crate) fn versions_sum(&self) -> Sum {
        self.versions_sum
    }

    /// Whether both have resources of the same names. May say no of sets that were built apart.
    pub(crate) fn same_names(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.places, &other.places)
    }

    /// Whether all there is to it are resources that stay, each under one name.
    pub(crate) fn is_plain(&self) -> bool {
        self.aliases.is_empty() && self.errors.is_empty() && self.ttl.is_none()
    }

    /// What the resources of a response take that brings all of them, in bytes, where no resource has a time to live.
    pub(crate) fn response_len(&self, protocol: Protocol) -> usize {
        match protocol {
            Protocol::Sotw => self.anys_len,
            Protocol::Delta => self.entries_len,
        }
    }

    /// All resources in the words of a protocol: those that another is being sent, or else as `write` writes them. They last as long
    /// as somebody holds them.
    pub(crate) fn written(&self, protocol: Protocol, write: impl FnOnce() -> Vec<Bytes>) -> Arc<Vec<Bytes>> {
        let [sotw, delta] = &self.written;
        let written = if protocol == Protocol::Sotw { sotw } else { delta };
        // Nothing in here can panic half-way.
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        written.upgrade().unwrap_or_else(|| {
            let all = Arc::new(write());
            *written = Arc::downgrade(&all);
            all
        })
    }

    /// Whether a resource goes by this name only as an alias.
    pub(crate) fn is_alias(&self, name: &str) -> bool {
        self.aliases.binary_search_by(|(alias, _)| (**alias).cmp(name)).is_ok()
    }

    /// Whether each resource goes by its own name only.
    pub(crate) fn has_no_aliases(&self) -> bool {
        self.aliases.is_empty()
    }

    /// Names whose resource cannot be had at the moment, and why.
    pub fn errors(&self) -> &BTreeMap<Arc<str>, Arc<ResourceError>> {
        &self.errors
    }

    /// The shortest time to live of any resource.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// All resources, by name.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Resource>> {
        self.resources.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is no resource.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Whether a client in sync with one is in sync with the other.
    pub fn same_content(&self, other: &Self) -> bool {
        self.id == other.id
            || (self.fingerprint == other.fingerprint
                && self.resources.len() == other.resources.len()
                && self.errors == other.errors)
    }

    /// Whether a client is told the same of both, word for word: of equal contents the versions may differ that publishers choose.
    pub(crate) fn reads_the_same(&self, other: &Self) -> bool {
        self.id == other.id
            || (self.same_content(other)
                && self.version == other.version
                && self.versions_sum == other.versions_sum)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The names whose content differs between `old` and this set, and the aliases of those.
    pub(crate) fn changed_since(&self, old: &Self) -> Changed<'_> {
        if self.id == old.id {
            return Changed::Borrowed(&[]);
        }
        match &self.lineage {
            Some((parent, changed)) if *parent == old.id => Changed::Borrowed(changed),
            _ => {
                let mut changed =
                    differing(&old.resources, &self.resources, |a, b| Arc::ptr_eq(a, b) || a.same_content(b));
                add_aliases(&mut changed, &old.resources, &self.resources);
                Changed::Owned(changed)
            }
        }
    }
}

// === impl Sum ===

impl Sum {
    fn of_names<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self(names.fold(0, |sum, said| sum.wrapping_add(xxh3_64(name::normal(said).as_bytes()))))
    }

    /// Over names, each with a version.
    pub(crate) fn of_versions<'a>(versions: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let one = |(said, version): (&str, &str)| {
            xxh3_64_with_seed(version.as_bytes(), xxh3_64(name::normal(said).as_bytes()))
        };
        Self(versions.fold(0, |sum, said| sum.wrapping_add(one(said))))
    }
}

// === impl NameHasher ===

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes) ^ self.0.rotate_left(5);
    }

    /// What follows a text and keeps it apart from a next one: there is no next one.
    fn write_u8(&mut self, _end: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<'a> IntoIterator for &'a TypeSet {
    type Item = &'a Arc<Resource>;
    type IntoIter = std::slice::Iter<'a, Arc<Resource>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Walks two sorted lists side by side and names what is in one only or not the same in both.
fn differing(
    old: &[Arc<Resource>],
    new: &[Arc<Resource>],
    same: impl Fn(&Arc<Resource>, &Arc<Resource>) -> bool,
) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return names,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => std::cmp::Ordering::Equal,
            (Some(a), Some(b)) => a.name().cmp(b.name()),
        };
        let a = if order.is_le() { old.next() } else { None };
        let b = if order.is_ge() { new.next() } else { None };
        match (a, b) {
            (Some(a), Some(b)) if same(a, b) => {}
            (_, Some(resource)) | (Some(resource), None) => names.push(resource.name().clone()),
            (None, None) => return names,
        }
    }
}

/// Adds the other names, then and now, of the resources that changed.
fn add_aliases(changed: &mut Vec<Arc<str>>, old: &[Arc<Resource>], new: &[Arc<Resource>]) {
    let resources = changed.iter().flat_map(|name| [find(old, name), find(new, name)]).flatten();
    let aliases: Vec<Arc<str>> = resources.flat_map(|resource| resource.aliases()).cloned().collect();
    changed.extend(aliases);
}

/// The index of other names: the first resource that claims one has it, and a resource's own name is no alias.
fn aliases(resources: &[Arc<Resource>]) -> Vec<(Arc<str>, usize)> {
    let mut aliases: Vec<(Arc<str>, usize)> = Vec::new();
    for (at, resource) in resources.iter().enumerate() {
        let free = resource.aliases().iter().filter(|alias| find(resources, alias).is_none());
        aliases.extend(free.map(|alias| (alias.clone(), at)));
    }
    aliases.sort();
    aliases.dedup_by(|(later, _), (earlier, _)| later == earlier);
    aliases
}

fn find<'a>(resources: &'a [Arc<Resource>], name: &str) -> Option<&'a Arc<Resource>> {
    let at = resources.binary_search_by(|resource| (**resource.name()).cmp(name)).ok()?;
    resources.get(at)
}
