//! What a client has of one type: a pointer to a whole set, and where it differs from that set.
//!
//! A stream in sync costs one pointer here, however many resources it holds. It records what is so and never decides what
//! should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::{Fingerprint, Resource};
use crate::type_set::TypeSet;
use crate::types::Version;

/// What a client has under one name.
#[derive(Clone, Debug)]
pub(crate) enum Holds {
    /// Nothing, whether it was told so or not.
    Nothing,
    /// Something an earlier stream gave it, in this version if it said so.
    Unseen(Option<Version>),
    /// This.
    This(Arc<Resource>),
    /// What it `had` or nothing, or else what it `refused` along with others: Envoy takes the good part of a response it refuses.
    /// It may be `gone` when a removal was among that.
    Doubtful { had: Option<Arc<Resource>>, refused: Option<Arc<Resource>>, gone: bool },
}

/// What a client has of one type. For names it did not subscribe to the answer means nothing.
#[derive(Debug)]
pub(crate) struct Held {
    base: Arc<TypeSet>,
    /// Where the client differs from `base`, and nowhere else.
    overlay: BTreeMap<Arc<str>, Holds>,
    /// Over the resources of the names it subscribed to.
    sum: Fingerprint,
}

// === impl Holds ===

impl Holds {
    /// Whether there is nothing to tell a client that has this and should have `wanted`.
    pub(crate) fn is(&self, wanted: Option<&Arc<Resource>>) -> bool {
        match (self, wanted) {
            (Self::Nothing, None) => true,
            (Self::This(held), Some(wanted)) => held.same_content(wanted),
            (Self::Unseen(Some(version)), Some(wanted)) => version == wanted.version(),
            _ => false,
        }
    }

    /// Whether it may well be nothing.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing | Self::Doubtful { had: None, .. })
    }

    /// Whether nothing can be relied on to be there.
    pub(crate) fn may_be_gone(&self) -> bool {
        self.is_nothing() || matches!(self, Self::Doubtful { gone: true, .. })
    }

    /// What we know the client by.
    pub(crate) fn resource(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::This(resource) => Some(resource),
            Self::Doubtful { had, .. } => had.as_ref(),
            Self::Nothing | Self::Unseen(_) => None,
        }
    }

    /// All that it may be, as far as it is known.
    pub(crate) fn possible(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let refused = if let Self::Doubtful { refused, .. } = self { refused.as_ref() } else { None };
        self.resource().into_iter().chain(refused)
    }
}

// === impl Held ===

impl Held {
    pub(crate) fn nothing() -> Self {
        Self { base: TypeSet::empty().clone(), overlay: BTreeMap::new(), sum: Fingerprint::default() }
    }

    /// All of a set and nothing else.
    pub(crate) fn all_of(set: &Arc<TypeSet>) -> Self {
        Self { base: set.clone(), overlay: BTreeMap::new(), sum: set.fingerprint() }
    }

    /// Whether the client evidently has nothing but this: no name has to be looked at to see it.
    pub(crate) fn is_all_of(&self, set: &Arc<TypeSet>) -> bool {
        self.overlay.is_empty() && Arc::ptr_eq(&self.base, set)
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.is_all_of(TypeSet::empty())
    }

    pub(crate) fn of(&self, name: &str) -> Holds {
        match self.overlay.get(name) {
            Some(holds) => holds.clone(),
            None => self.base.get(name).map_or(Holds::Nothing, |resource| Holds::This(resource.clone())),
        }
    }

    /// Everything under its name, name by name.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, Holds)> {
        let base = self.base.iter().map(|resource| resource.name());
        let alike = base.filter(|name| !self.overlay.contains_key(*name));
        alike.chain(self.overlay.keys()).map(|name| (name.clone(), self.of(name))).collect()
    }

    /// The names in which the client differs from the set last rebased to.
    pub(crate) fn differing(&self) -> &BTreeMap<Arc<str>, Holds> {
        &self.overlay
    }

    pub(crate) fn base(&self) -> &Arc<TypeSet> {
        &self.base
    }

    /// Describes the same holdings as differences from `goal`, for the names that are `covered`.
    /// Aliases are names of their own here, for those who were `named` by them.
    pub(crate) fn rebase(
        &mut self,
        goal: &Arc<TypeSet>,
        covered: impl Fn(&str) -> bool,
        named: impl Fn(&str) -> bool,
    ) {
        if Arc::ptr_eq(&self.base, goal) {
            return;
        }
        let changed = goal.changed_since(&self.base);
        let alias = |name: &str| goal.is_alias(name) || self.base.is_alias(name) && goal.get(name).is_none();
        let theirs: Vec<&Arc<str>> =
            changed.iter().filter(|name| if alias(name) { named(name) } else { covered(name) }).collect();
        for name in theirs {
            // Those in the overlay already are looked at below.
            if !self.overlay.contains_key(name) {
                let holds = self.of(name);
                self.overlay.insert(name.clone(), holds);
            }
        }
        self.overlay.retain(|name, holds| covered(name) && !holds.is(goal.get(name)));
        self.base = goal.clone();
    }

    /// The client has this now. Answers what it had.
    pub(crate) fn set(&mut self, name: &Arc<str>, holds: Holds) -> Holds {
        let had = self.of(name);
        if let Some(old) = had.resource() {
            self.sum.remove(old);
        }
        if let Some(new) = holds.resource() {
            self.sum.add(new);
        }
        self.put(name, holds);
        had
    }

    /// The client has what it had under this name, or what it refused.
    pub(crate) fn doubt(&mut self, name: &Arc<str>, refused: Option<&Arc<Resource>>) {
        let before = self.of(name);
        if matches!(before, Holds::Unseen(_)) {
            self.set(name, Holds::Unseen(None));
            return;
        }
        let gone = refused.is_none() || matches!(before, Holds::Doubtful { gone: true, .. });
        // Of several the one that goes by most names, for the client may know it by any of them.
        let refused = before.possible().chain(refused).max_by_key(|it| it.aliases().len());
        let (had, refused) = (before.resource().cloned(), refused.cloned());
        self.set(name, Holds::Doubtful { had, refused, gone });
    }

    /// The client subscribed to this name and has nothing of it from us.
    pub(crate) fn begin(&mut self, name: &Arc<str>, holds: Holds) {
        self.put(name, holds);
    }

    /// The client no longer subscribes to this name.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(old) = self.of(name).resource() {
            self.sum.remove(old);
        }
        self.overlay.remove(name);
    }

    /// The client subscribes to these names only.
    pub(crate) fn narrow<'a>(&mut self, names: impl IntoIterator<Item = &'a Arc<str>>) {
        let mut kept = Self::nothing();
        for name in names {
            kept.set(name, self.of(name));
        }
        *self = kept;
    }

    /// What `sum` will be once the client took these.
    pub(crate) fn sum_with<'a>(
        &self,
        sent: impl IntoIterator<Item = (&'a Arc<str>, &'a Option<Arc<Resource>>)>,
    ) -> Fingerprint {
        let mut sum = self.sum;
        for (name, resource) in sent {
            if let Some(old) = self.of(name).resource() {
                sum.remove(old);
            }
            if let Some(new) = resource {
                sum.add(new);
            }
        }
        sum
    }

    fn put(&mut self, name: &Arc<str>, holds: Holds) {
        let same_as_base = match (&holds, self.base.get(name)) {
            (Holds::Nothing, None) => true,
            (Holds::This(held), Some(base)) => Arc::ptr_eq(held, base),
            _ => false,
        };
        if same_as_base {
            self.overlay.remove(name);
        } else {
            self.overlay.insert(name.clone(), holds);
        }
    }
}
