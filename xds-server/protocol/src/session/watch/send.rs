//! What a type sends next, by comparing what the client has with what it should have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::compose::{Gone, distinct};
use super::content::{Chosen, Content};
use super::errors::absent;
use super::room::Room;
use super::state::{InFlight, Watch};
use crate::resource::{Resource, ResourceError};
use crate::session::event::Resources;
use crate::session::held::Held;
use crate::session::names::Names;
use crate::type_set::{Errors, TypeSet};
use crate::types::{ChangeId, Protocol, TypeUrl, Version};
use crate::{codec, wire};

/// What a type may send at this moment.
pub(crate) struct Rules<'a> {
    /// What the client should have.
    pub goal: &'a Arc<TypeSet>,
    /// The point of the stream's history this goal belongs to.
    pub point: u64,
    /// What the publisher calls that point.
    pub change: ChangeId,
    /// Whether changes to what the client has may be sent, and not only what it asked for.
    pub changes: bool,
    /// Whether the removal of a name that is not in the goal may be sent.
    pub removable: &'a dyn Fn(&str) -> bool,
    /// Whether a removal is part of what this type must have answered, and not only of the tidying up after all types.
    pub removals_count: bool,
    /// Whether a name that is not in the goal will soon be in it, so that it must not be called absent.
    pub coming: &'a dyn Fn(&str) -> bool,
    /// What to send under a name that was asked for and is not in the goal any more.
    pub promised: &'a dyn Fn(&Arc<str>) -> Option<&'a Arc<Resource>>,
    /// The most bytes of resources, names and errors in one response, as far as it can be split.
    pub max_bytes: usize,
}

/// The parts of a response that a watch decides.
#[derive(Debug)]
pub(crate) struct Draft {
    pub version: Version,
    pub nonce: Arc<str>,
    pub resources: Resources,
    pub removed: Vec<Arc<str>>,
    pub refreshed: Vec<Arc<Resource>>,
    pub unresolved: Vec<Arc<str>>,
    pub errors: Vec<(Arc<str>, Arc<ResourceError>)>,
    pub heartbeat: bool,
    /// What the client will ask for because of what is new to it here.
    pub children: Children,
}

/// What a client will ask for because it takes resources.
#[derive(Debug)]
pub(crate) enum Children {
    /// These.
    Chosen(Vec<(TypeUrl, Arc<str>)>),
    /// Those of every resource of this set.
    OfAll(Arc<TypeSet>),
}

/// What to send now.
#[derive(Debug, Default)]
struct Choice {
    content: Chosen,
    /// Whether some resource has to wait, refused ones aside.
    held_back: bool,
    /// Whether some removal has to wait.
    kept: bool,
}

// === impl Watch ===

impl Watch {
    /// Sends all of this set again even if nothing changed, as far as the client subscribes to it.
    pub(crate) fn repeat_all(&mut self, set: &TypeSet) {
        if !self.due.have_all_of(set) {
            set.iter().for_each(|resource| self.repeat(resource.name()));
        }
    }

    /// Sends this name again even if nothing changed, when the client subscribes to it.
    pub(crate) fn repeat(&mut self, name: &Arc<str>) {
        if self.subscription.covers(name) {
            self.due.insert(name.clone());
        }
    }

    /// Whether there is nothing to decide at this point: something is under way, or the client has its goal and waits for nothing.
    /// That is so nearly always, so it is asked first.
    pub(crate) fn stays(&mut self, goal: &Arc<TypeSet>, point: u64) -> bool {
        if let Some(in_flight) = &mut self.in_flight {
            // The same content reached a newer point: its ACK will stand for that one too.
            if in_flight.point.is_some_and(|brings| brings != point) && in_flight.goal.same_content(goal) {
                in_flight.point = Some(point);
            }
            return true;
        }
        let at_rest = self.held.is_all_of(goal)
            && self.due.is_empty()
            && !self.owed
            && self.strays.is_empty()
            && self.resume.is_none()
            && self.rejected.is_empty()
            && self.nack.is_none()
            && self.told.is_empty()
            && goal.errors().is_empty()
            && goal.ttl().is_none();
        if at_rest {
            self.reach(point);
        }
        at_rest
    }

    /// Decides what to send, if anything may be sent, and counts it as under way. Nothing is when this is asked.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        serial: u64,
        nonce: impl FnOnce() -> Arc<str>,
        past: impl FnOnce(&str) -> Option<Arc<TypeSet>>,
        rules: &Rules<'_>,
    ) -> Option<Draft> {
        let goal = rules.goal;
        if self.takes_all(rules) {
            return Some(self.send_all(now, serial, nonce(), rules));
        }
        self.resume_from(past);
        let subscription = &self.subscription;
        self.held.rebase(goal, |name| subscription.covers(name), |name| subscription.names_exactly(name));
        self.prune_strays(goal);
        self.prune_refused(goal);
        self.clear_errors(goal);
        self.expand_collections(goal);

        let full_state = self.tells_full_state();
        let mut room = Room::new(rules.max_bytes, !full_state);
        let Choice { content, held_back, kept } = self.choose(rules, &mut room);
        // A client that comes back waits for nothing: its answer may wait for what it will bring.
        let owed = self.owed && !(self.resumed && (held_back || kept));
        // A state-of-the-world client that named an absent listener or cluster learns it from the full state.
        let absent: Vec<&Arc<str>> = self.due.iter().filter(|name| !(rules.coming)(name)).collect();
        let asked_absent = full_state && !absent.is_empty();
        let mut errors = self.errors(&absent, goal);
        let news = !content.is_empty() || owed || asked_absent || !errors.is_empty();
        let alive = self.beat(now, goal, &mut room);
        if !news {
            self.drop_answered(rules, &Errors::new());
            if !held_back {
                self.reach(rules.point);
            }
            if alive.is_empty() {
                return None;
            }
        }

        let version = if goal.has_explicit_version() || self.protocol == Protocol::Delta {
            goal.version().clone()
        } else {
            self.held.sum_with(&content).version()
        };
        let nonce = nonce();
        let mut resources =
            if full_state { self.full_state(&content) } else { distinct(content.values().flatten()) };
        let mut refreshed = alive;
        if !refreshed.is_empty() {
            let sent: BTreeSet<&Arc<str>> = resources.iter().map(|resource| resource.name()).collect();
            refreshed.retain(|alive| !sent.contains(alive.name()));
        }
        if self.protocol == Protocol::Sotw {
            resources.append(&mut refreshed);
        }
        let untold = if errors.is_empty() { Errors::new() } else { cut(&mut errors, room, &resources) };
        self.starts_to_age(now, &resources);
        let Gone { removed, unresolved } =
            if full_state { Gone::default() } else { self.gone(&content, goal) };
        let draft = Draft {
            version: version.clone(),
            nonce: nonce.clone(),
            children: Children::Chosen(
                content.values().flatten().flat_map(|resource| resource.children()).cloned().collect(),
            ),
            resources: resources.into(),
            removed,
            refreshed,
            unresolved,
            errors: errors.iter().map(|(name, error)| (name.clone(), error.clone())).collect(),
            heartbeat: !news,
        };
        content.keys().for_each(|name| {
            self.due.take(name);
        });
        if news {
            self.drop_answered(rules, &untold);
            self.owed = false;
        }
        self.last_nonce = Some(nonce.clone());
        self.sent = Some(version.clone());
        let point = (news && !held_back && untold.is_empty()).then_some(rules.point);
        // That a name is absent needs no clearing up: what is born under it is news.
        let errors = errors.into_iter().filter(|(name, _)| goal.errors().contains_key(name)).collect();
        let goal = goal.clone();
        self.in_flight = Some(InFlight {
            nonce,
            serial,
            at: now,
            version,
            goal,
            content: Content::Chosen(content),
            errors,
            heartbeat: !news,
            point,
            change: rules.change,
        });
        Some(draft)
    }

    /// Whether the client has nothing and is to be given all that there is, and nothing else is to be said. The answer is then what
    /// comparing it name by name would come to.
    fn takes_all(&self, rules: &Rules<'_>) -> bool {
        let goal = rules.goal;
        let asked = self.due.are_all_of(goal);
        !goal.is_empty()
            && goal.is_plain()
            && self.held.is_nothing()
            && self.subscription.covers_all(goal)
            && !self.subscription.has_globs()
            && (self.due.is_empty() || asked)
            && (rules.changes || asked || self.owed)
            && self.resume.is_none()
            && !self.resumed
            && self.strays.is_empty()
            && self.rejected.is_empty()
            && self.nack.is_none()
            && self.told.is_empty()
            && (self.tells_full_state() || goal.response_len(self.protocol) <= rules.max_bytes)
    }

    fn send_all(&mut self, now: Instant, serial: u64, nonce: Arc<str>, rules: &Rules<'_>) -> Draft {
        let goal = rules.goal;
        self.due = Names::default();
        self.owed = false;
        self.last_nonce = Some(nonce.clone());
        self.sent = Some(goal.version().clone());
        self.in_flight = Some(InFlight {
            nonce: nonce.clone(),
            serial,
            at: now,
            version: goal.version().clone(),
            goal: goal.clone(),
            content: Content::All(goal.clone()),
            errors: Errors::new(),
            heartbeat: false,
            point: Some(rules.point),
            change: rules.change,
        });
        Draft {
            version: goal.version().clone(),
            nonce,
            resources: Resources::All(goal.clone()),
            removed: Vec::new(),
            refreshed: Vec::new(),
            unresolved: Vec::new(),
            errors: Vec::new(),
            heartbeat: false,
            children: Children::OfAll(goal.clone()),
        }
    }

    /// What the client is to be told of: the errors that are news to it, and in state of the world that names are absent, if it
    /// reads that.
    fn errors(&self, absentees: &[&Arc<str>], goal: &TypeSet) -> Errors {
        let mut errors = if goal.errors().is_empty() { Errors::new() } else { self.errors_to_tell(goal) };
        if self.features.errors && self.protocol == Protocol::Sotw {
            for name in absentees.iter().filter(|name| goal.get(name).is_none()) {
                errors.entry((*name).clone()).or_insert_with(absent);
            }
        }
        errors
    }

    fn choose(&self, rules: &Rules<'_>, room: &mut Room) -> Choice {
        let full_state = self.tells_full_state();
        let mut choice = Choice::default();
        let Choice { content, held_back, kept } = &mut choice;
        let mut promised = Vec::new();
        let mut fits =
            |name: &str, new: Option<&Resource>| room.takes(|| self.bytes_of(name, new, rules.goal));
        let differing = self.held.differing();
        let due_only = self.due.iter().filter(|name| !differing.contains_key(*name));
        for name in differing.keys().chain(due_only) {
            let due = self.due.contains(name);
            let first = self.owed && !self.resumed && self.held.of(name).is_nothing();
            match rules.goal.get(name) {
                Some(resource) => {
                    if !due && self.is_refused(name, Some(resource), rules.goal) {
                        continue;
                    }
                    if (due || first || rules.changes) && fits(name, Some(resource)) {
                        content.insert(name.clone(), Some(resource.clone()));
                    } else {
                        *held_back = true;
                    }
                }
                None if rules.goal.errors().contains_key(name) => {
                    // The error is the answer; those who may not read it and have nothing are told that there is nothing.
                    let silent = self.features.errors || self.protocol == Protocol::Sotw;
                    if due && !silent && self.held.of(name).is_nothing() {
                        if fits(name, None) {
                            content.insert(name.clone(), None);
                        } else {
                            *held_back = true;
                        }
                    }
                }
                None if due => {
                    if (rules.coming)(name) {
                        *held_back = true;
                    } else if let Some(resource) = (rules.promised)(name) {
                        promised.push((name, resource));
                    } else if self.protocol == Protocol::Delta {
                        // xds_protocol.rst, "Knowing When a Requested Resource Does Not Exist": "the server will send a
                        // DeltaDiscoveryResponse message that contains that resource's name in the removed_resources field".
                        if fits(name, None) {
                            content.insert(name.clone(), None);
                        } else {
                            *held_back = true;
                        }
                    }
                }
                None => {
                    // xds_protocol.rst, "Deleting Resources": other types have no way to say it in state of the world.
                    let sayable = full_state || self.protocol == Protocol::Delta;
                    if sayable && !self.is_refused(name, None, rules.goal) {
                        if (rules.removable)(name) && fits(name, None) {
                            content.insert(name.clone(), None);
                        } else {
                            *kept = true;
                            *held_back |= rules.removals_count;
                        }
                    }
                }
            }
        }
        for name in self.strays.iter().filter(|name| !self.wants_by_alias(rules.goal, name)) {
            if !rules.changes {
                *held_back = true;
            } else if rules.goal.get(name).is_none() && !(rules.removable)(name) {
                *kept = true;
            } else if !self.is_refused(name, None, rules.goal) {
                if fits(name, None) {
                    content.insert(name.clone(), None);
                } else {
                    *kept = true;
                }
            }
        }
        // On its own: were it refused, what is still wanted should not be refused with it.
        let alone = content.is_empty();
        for (name, resource) in promised {
            if alone && fits(name, Some(resource)) {
                content.insert(name.clone(), Some(resource.clone()));
            } else {
                *held_back = true;
            }
        }
        choice
    }

    /// Compares what a state-of-the-world client says it has with what we know of: once, as soon as there is a goal.
    fn resume_from(&mut self, past: impl FnOnce(&str) -> Option<Arc<TypeSet>>) {
        let Some(version) = self.resume.take() else { return };
        // By names, the version says what was sent for names that may have been dropped and asked for again since: gRPC keeps it from
        // one stream to the next. xds_protocol.rst, "ACK/NACK and resource type instance version": not to resend what "the client
        // had already seen on the previous stream" takes "that the client is not subscribing to a new resource".
        // By a wildcard, it is "generally safe [...] for wildcard requests for LDS and CDS", of which every change is told.
        if self.type_url.is_full_state()
            && self.subscription.is_wildcard()
            && let Some(set) = past(&version)
        {
            self.held = Held::all_of(&set);
            self.owed = false;
            self.resumed = false;
            self.acked = Some(Version::new(&version));
        }
    }

    /// The client has all that it was to have at this point, but for what it refused.
    pub(super) fn reach(&mut self, point: u64) {
        self.answered = self.answered.max(point);
        if !self.lacks_refused() {
            self.accepted = self.accepted.max(point);
        }
    }

    /// Whether the client uses something older than it should because of a refusal. A removal that it refused changes nothing
    /// about what it uses, but for a listener.
    pub(super) fn lacks_refused(&self) -> bool {
        let listens = self.type_url == TypeUrl::LISTENER;
        self.rejected.values().any(|rejected| listens || rejected.content.is_some())
    }

    fn is_refused(&self, name: &Arc<str>, content: Option<&Arc<Resource>>, goal: &TypeSet) -> bool {
        self.rejected.get(name).is_some_and(|rejected| {
            same(&rejected.content, &content.cloned())
                && (rejected.guilty
                    || self.rejected_goal.as_ref().is_some_and(|last| last.same_content(goal)))
        })
    }

    /// Forgets refusals of content that is no longer wanted.
    fn prune_refused(&mut self, goal: &TypeSet) {
        if !self.rejected.is_empty() {
            let (held, strays) = (&self.held, &self.strays);
            self.rejected.retain(|name, rejected| {
                let wanted = goal.get(name);
                let stray = strays.contains(name) && rejected.content.is_none();
                stray || same(&rejected.content, &wanted.cloned()) && !held.of(name).is(wanted)
            });
        }
        if self.rejected.is_empty() {
            self.rejected_goal = None;
            self.turned |= self.nack.take().is_some();
        }
    }

    /// Forgets the names that were asked for and do not exist, where the protocol has no word for that, or it was said.
    fn drop_answered(&mut self, rules: &Rules<'_>, untold: &Errors) {
        let errors = rules.goal.errors();
        if !errors.is_empty() {
            self.due.retain(|name| !errors.contains_key(name));
        }
        if self.protocol == Protocol::Sotw && !self.due.is_empty() {
            self.due.retain(|name: &Arc<str>| {
                let promised = (rules.promised)(name).is_some();
                rules.goal.get(name).is_some()
                    || (rules.coming)(name)
                    || promised
                    || untold.contains_key(name)
            });
        }
    }
}

/// Leaves only those errors that fit into a response with these resources. Answers the others.
fn cut(errors: &mut Errors, room: Room, resources: &[Arc<Resource>]) -> Errors {
    let mut room = room.beside(resources.iter().map(|resource| wire::bytes_len(resource.any().len())).sum());
    let untold = |(name, error): &(&Arc<str>, &Arc<ResourceError>)| {
        !room.takes(|| wire::bytes_len(codec::error_len(name, error)))
    };
    let untold: Errors =
        errors.iter().filter(untold).map(|(name, error)| (name.clone(), error.clone())).collect();
    errors.retain(|name, _| !untold.contains_key(name));
    untold
}

/// Whether two contents, or two removals, are the same.
pub(super) fn same(a: &Option<Arc<Resource>>, b: &Option<Arc<Resource>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same_content(b),
        (None, None) => true,
        _ => false,
    }
}
