//! What is replicated and where it goes: the source's prefix, patterns over keys, kinds of events, a first revision, and the
//! anchored rewrite of the prefix. Pure; the one place that both the stream and the comparison of the two sides ask, so that
//! they cannot disagree about which keys count.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{
    options::OptionsError,
    revision::{Change, Op, Revision, SourceRevision},
};

/// Which keys of the source are replicated, and under which names.
#[derive(Debug, Clone)]
pub struct Rules {
    source_prefix: Vec<u8>,
    destination_prefix: Vec<u8>,
    /// Never replicated on either side: the replicators' own keys.
    reserved: Vec<u8>,
    include: Option<GlobSet>,
    exclude: GlobSet,
    realtime: Vec<Vec<u8>>,
    puts: bool,
    deletes: bool,
    from: Revision,
    leases: bool,
}

/// A revision as the destination shall see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// The source's revision.
    pub revision: Revision,
    /// When it reached us, in milliseconds since 1970.
    pub seen_ms: u64,
    /// Whether it may not wait.
    pub realtime: bool,
    /// What to do, under the destination's names; empty when the rules leave nothing.
    pub changes: Vec<Change>,
}

// === impl Mapped ===

impl Mapped {
    /// Bytes of its keys and values.
    pub fn size(&self) -> usize {
        self.changes.iter().map(|change| change.key.len() + change.op.size()).sum()
    }
}

// === impl Rules ===

impl Rules {
    /// Rules that replicate everything under `source_prefix` to `destination_prefix`, but for keys under `reserved`.
    pub fn new(source_prefix: &str, destination_prefix: &str, reserved: &str) -> Self {
        Self {
            source_prefix: source_prefix.as_bytes().to_vec(),
            destination_prefix: destination_prefix.as_bytes().to_vec(),
            reserved: reserved.as_bytes().to_vec(),
            include: None,
            exclude: GlobSet::empty(),
            realtime: Vec::new(),
            puts: true,
            deletes: true,
            from: Revision(0),
            leases: true,
        }
    }

    /// Replicates only keys that match one of `include` (all, when there is none) and none of `exclude`. Patterns are globs
    /// over the whole key of the source: `*` stays within one path segment, `**` does not.
    ///
    /// # Errors
    /// Names the pattern that is none.
    pub fn with_patterns(mut self, include: &[String], exclude: &[String]) -> Result<Self, OptionsError> {
        if !include.is_empty() {
            self.include = Some(globs(include)?);
        }
        self.exclude = globs(exclude)?;
        Ok(self)
    }

    /// Keys whose changes go out at once; all, when there is no prefix. Changes of other keys are collected for a while.
    pub fn with_realtime(mut self, prefixes: &[String]) -> Self {
        self.realtime = prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
        self
    }

    /// Whether puts are replicated. Without them nothing new comes to the destination: what it has and the source deletes goes.
    pub const fn with_puts(mut self, puts: bool) -> Self {
        self.puts = puts;
        self
    }

    /// Whether deletes are replicated. Without them the destination keeps what the source forgot.
    pub const fn with_deletes(mut self, deletes: bool) -> Self {
        self.deletes = deletes;
        self
    }

    /// Leaves alone what was written before this revision and never since.
    pub const fn with_from(mut self, from: Revision) -> Self {
        self.from = from;
        self
    }

    /// Whether leased keys keep a lease at the destination.
    pub const fn with_leases(mut self, leases: bool) -> Self {
        self.leases = leases;
        self
    }

    /// The range of the source.
    pub fn source_prefix(&self) -> &[u8] {
        &self.source_prefix
    }

    /// The range of the destination.
    pub fn destination_prefix(&self) -> &[u8] {
        &self.destination_prefix
    }

    /// Whether anything comes through at all.
    pub(crate) const fn are_something(&self) -> bool {
        self.puts || self.deletes
    }

    /// Whether everything under the prefix comes through but what patterns leave out.
    pub(crate) fn are_all(&self) -> bool {
        self.deletes && !self.leaves_alone(Revision(0))
    }

    /// Whether what the source has not may not be at the destination either.
    pub const fn deletes(&self) -> bool {
        self.deletes
    }

    /// The destination's name for a key of the source; `None` when it is not replicated. The prefix is replaced where it
    /// stands, at the beginning, and nowhere else.
    pub fn map_key(&self, key: &[u8]) -> Option<Vec<u8>> {
        let rest = key.strip_prefix(self.source_prefix.as_slice())?;
        if !self.selects(key) {
            return None;
        }
        let mapped = [self.destination_prefix.as_slice(), rest].concat();
        (!self.is_reserved(&mapped)).then_some(mapped)
    }

    /// Whether a key of the destination is one that replication writes.
    pub fn owns(&self, key: &[u8]) -> bool {
        self.unmap_key(key).is_some()
    }

    /// The source's name for a key of the destination; `None` when it is not one that replication writes.
    pub fn unmap_key(&self, key: &[u8]) -> Option<Vec<u8>> {
        let rest = key.strip_prefix(self.destination_prefix.as_slice())?;
        let name = [self.source_prefix.as_slice(), rest].concat();
        self.map_key(&name).is_some().then_some(name)
    }

    /// Whether an entry of the source is not replicated, since puts are not or since it was last written too early; whatever the
    /// destination has in its place is left alone.
    pub fn leaves_alone(&self, modified: Revision) -> bool {
        !self.puts || modified < self.from
    }

    /// The lease that a key has at the destination: the source's own number, or none.
    pub const fn map_lease(&self, lease: i64) -> i64 {
        if self.leases { lease } else { 0 }
    }

    /// A revision as the destination shall see it.
    pub fn map(&self, source: &SourceRevision) -> Mapped {
        let mut mapped = Mapped {
            revision: source.revision,
            seen_ms: source.seen_ms,
            realtime: false,
            changes: Vec::with_capacity(source.changes.len()),
        };
        if source.revision < self.from {
            return mapped;
        }
        for change in &source.changes {
            let op = match &change.op {
                Op::Put { value, lease } if self.puts => {
                    Op::Put { value: value.clone(), lease: self.map_lease(*lease) }
                }
                Op::Delete if self.deletes => Op::Delete,
                Op::Put { .. } | Op::Delete => continue,
            };
            if let Some(key) = self.map_key(&change.key) {
                mapped.realtime |= self.is_realtime(&change.key);
                mapped.changes.push(Change { key, op });
            }
        }
        mapped
    }

    fn is_realtime(&self, key: &[u8]) -> bool {
        self.realtime.is_empty() || self.realtime.iter().any(|prefix| key.starts_with(prefix))
    }

    fn is_reserved(&self, key: &[u8]) -> bool {
        key.starts_with(&self.reserved)
    }

    fn selects(&self, key: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::OsStr::from_bytes(key);
        !self.is_reserved(key)
            && self.include.as_ref().is_none_or(|globs| globs.is_match(path))
            && !self.exclude.is_match(path)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, OptionsError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| OptionsError::Pattern {
            pattern: pattern.clone(),
            why: error.kind().to_string(),
        })?);
    }
    set.build().map_err(|error| OptionsError::Pattern {
        pattern: patterns.join(", "),
        why: error.kind().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Rules {
        Rules::new("/app/", "/copy/app/", "/zonebreak/v1/replication/")
    }

    #[test]
    fn a_prefix_is_replaced_at_the_beginning_alone() {
        assert_eq!(rules().map_key(b"/app/x/app/y").unwrap(), b"/copy/app/x/app/y");
        assert_eq!(rules().map_key(b"/other/app/x"), None);
        assert_eq!(rules().map_key(b"/app"), None);
        assert_eq!(Rules::new("", "", "/z/").map_key(&[0, 255]).unwrap(), [0, 255]);
        assert_eq!(Rules::new("/app/", "", "/z/").map_key(b"/app/x").unwrap(), b"x");
    }

    #[test]
    fn the_replicators_own_keys_are_never_replicated_nor_pruned() {
        let all = Rules::new("", "", "/zonebreak/v1/replication/");
        assert_eq!(all.map_key(b"/zonebreak/v1/replication/west"), None);
        assert!(!all.owns(b"/zonebreak/v1/replication/west"));
        assert!(all.owns(b"/zonebreak/v1/services/a"));
        // Not by way of a rewrite either.
        let sly = Rules::new("/a/", "/zonebreak/v1/", "/zonebreak/v1/replication/");
        assert_eq!(sly.map_key(b"/a/replication/west"), None);
    }

    #[test]
    fn patterns_choose_keys_and_bad_ones_are_named() {
        let rules =
            rules().with_patterns(&["/app/*/config".into(), "/app/k/**".into()], &["**/secret*".into()]);
        let rules = rules.unwrap();
        for (key, wanted) in [
            ("/app/a/config", true),
            ("/app/a/b/config", false),
            ("/app/k/1/2", true),
            ("/app/k/1/secret-2", false),
            ("/app/other", false),
        ] {
            assert_eq!(rules.map_key(key.as_bytes()).is_some(), wanted, "{key}");
        }
        let error = Rules::new("/", "/", "/z/").with_patterns(&["/a/[".into()], &[]).unwrap_err();
        assert!(error.to_string().contains("\"/a/[\""), "{error}");
    }

    #[test]
    fn what_the_rules_leave_out_does_not_come_through() {
        let put = |key: &str| Change { key: key.into(), op: Op::Put { value: vec![1], lease: 7 } };
        let source = |revision| SourceRevision {
            revision: Revision(revision),
            seen_ms: 3,
            changes: vec![put("/app/a"), Change { key: b"/app/b".to_vec(), op: Op::Delete }],
        };
        let rules = rules().with_deletes(false).with_from(Revision(10)).with_leases(false);
        assert!(rules.map(&source(9)).changes.is_empty());
        let mapped = rules.map(&source(10));
        assert_eq!(
            mapped.changes,
            [Change { key: b"/copy/app/a".to_vec(), op: Op::Put { value: vec![1], lease: 0 } }]
        );
        assert!(rules.leaves_alone(Revision(9)) && !rules.leaves_alone(Revision(10)));
        assert_eq!(rules.map_lease(7), 0);
        let rules = rules.with_deletes(true).with_puts(false);
        assert_eq!(rules.map(&source(10)).changes, [Change { key: b"/copy/app/b".to_vec(), op: Op::Delete }]);
        assert!(rules.leaves_alone(Revision(10)) && rules.are_something());
        assert!(!rules.with_deletes(false).are_something());
    }

    #[test]
    fn urgent_keys_make_their_revision_urgent() {
        let rules = rules().with_realtime(&["/app/shifts/".into()]);
        let of = |key: &str| SourceRevision {
            revision: Revision(1),
            seen_ms: 0,
            changes: vec![Change { key: key.into(), op: Op::Delete }],
        };
        assert!(rules.map(&of("/app/shifts/az-a")).realtime);
        assert!(!rules.map(&of("/app/endpoints/x")).realtime);
    }

    proptest! {
        #[test]
        fn the_rewrite_is_one_to_one_and_keeps_the_order(a: Vec<u8>, b: Vec<u8>) {
            let rules = rules();
            let whole = |rest: &[u8]| [b"/app/", rest].concat();
            let (x, y) = (rules.map_key(&whole(&a)).unwrap(), rules.map_key(&whole(&b)).unwrap());
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert!(rules.owns(&x));
        }
    }
}
