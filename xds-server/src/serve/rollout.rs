//! Carries publications to the hub: to all at once, or through the waves, with what was refused held back. Decides nothing: see
//! [`super::waves`], [`super::verdict`], [`super::quarantine`] and [`super::untried`].
//!
//! A careful change on its way is overtaken by the next careful one, which holds it and begins anew. One that is not careful
//! goes to all at once, without what is on trial: drains and health wait for nobody's policy, and take nobody's along. Nor do they
//! take anything out of quarantine: what they make another there is tried like a careful change. Endpoints wait a second at most.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use zonebreak_xds::{ChangeId, Follower, Hub, Refusal, Snapshot, StreamId, Trial, TrialAnswer, ViewKey};

use super::{
    history::Caused,
    publisher::Publication,
    quarantine::{Named, Quarantine, Views},
    state::{State, Trying},
    untried,
    verdict::{self, Answer, Testimony},
    waves::{Next, Waves},
};
use crate::{
    model::QuarantineRow,
    telemetry::audit::{Action, Event, Severity},
};

/// Between two looks at who has answered: a proxy on the same network takes about as long.
const LOOK: Duration = Duration::from_millis(5);

/// How many of the proxies that went away are named.
const NAMED: usize = 3;

/// How long endpoints wait for a change on its way.
const ROOM: Duration = Duration::from_secs(1);

/// A publication and where it comes from.
#[derive(Debug, Clone)]
pub struct Change {
    /// What is published.
    pub publication: Publication,
    /// Why, in words.
    pub cause: String,
    /// When the cause was seen.
    pub seen_at: Timestamp,
    /// Whether it is a change to anybody: the joining of a proxy in a zone that nobody asked for before is none.
    pub told: bool,
    /// Whether it goes to a few first.
    pub careful: bool,
}

/// The change on its way, if any, and what is held back.
#[derive(Debug)]
pub struct Rollout {
    quarantine: Quarantine,
    /// The same as text.
    withheld: Arc<str>,
    on_its_way: Option<OnItsWay>,
    /// Streams that did not answer in their time, and have not since.
    silent: BTreeSet<StreamId>,
}

#[derive(Debug)]
struct OnItsWay {
    change: Change,
    waves: Waves,
    since: Timestamp,
    looked: Instant,
    /// The views that are on trial.
    views: BTreeSet<ViewKey>,
    /// Who was given it, and which view each follows: what is left of one that goes away.
    given: BTreeMap<StreamId, (String, ViewKey)>,
}

/// A view as operators know it.
pub fn named(view: &ViewKey) -> &str {
    if view.as_str().is_empty() { "(no zone)" } else { view.as_str() }
}

// === impl Rollout ===

impl Rollout {
    /// Nothing on its way; held back is what an earlier run had in quarantine.
    pub fn new(quarantine: Quarantine) -> Self {
        let withheld = Arc::from(text_of(&quarantine));
        Self { quarantine, withheld, on_its_way: None, silent: BTreeSet::new() }
    }

    /// What is held back, to be kept on disk; the same pointer as long as it is the same.
    pub fn withheld(&self) -> &Arc<str> {
        &self.withheld
    }

    /// Takes a change. Gives back what of it everybody has; nothing while all of it is on its way.
    pub fn begin(&mut self, state: &State, hub: &Hub, mut change: Change) -> Option<Change> {
        let overtaken = self.on_its_way.take();
        let mut released = self.hold_back(state, &mut change.publication);
        let publication = &mut change.publication;
        // Against what everybody has: a change on its way brought its views to a few only.
        publication.changed = changed(hub, publication);
        let publication = &change.publication;
        if change.told && !publication.changed.is_empty() {
            state.history.note(Caused {
                change: publication.change,
                revision: publication.revision,
                cause: change.cause.clone(),
                views: publication.changed.iter().map(|view| named(view).to_owned()).collect(),
                seen_at: change.seen_at,
            });
        }
        let told = if change.told { publication.changed.clone() } else { Vec::new() };
        state.xds.announce(ChangeId(publication.change), told);
        if change.careful {
            return self.try_first(state, hub, overtaken, change);
        }
        let there = |(type_url, name): &Named| {
            change.publication.views.iter().any(|(_, view)| view.get(type_url, name).is_some())
        };
        released.retain(|named| !untried::is_endpoints(&named.0) && there(named));
        match overtaken {
            None if released.is_empty() => Some(publish(hub, change)),
            Some(older) if released.is_empty() => Some(self.go_past(state, hub, older, change)),
            overtaken => {
                let older = overtaken.as_ref().map(|older| &older.change.publication);
                let part = at_once(hub, older, &change, &released);
                hub.publish(part.publication.views.iter().cloned());
                hub.remove(&part.publication.removed);
                // Nobody may be there to try the rest; then all of it is with everybody.
                Some(self.try_first(state, hub, overtaken, change).unwrap_or(part))
            }
        }
    }

    /// Gives a change to a few first. Gives it back if there is nobody to try it, and it went to all.
    fn try_first(
        &mut self,
        state: &State,
        hub: &Hub,
        overtaken: Option<OnItsWay>,
        mut change: Change,
    ) -> Option<Change> {
        if let Some(older) = &overtaken {
            note_overtaken(state, &older.change, &change);
            inherit(&older.change.publication, &mut change.publication);
        }
        let publication = &change.publication;
        // Whoever tries the older one out is to hear of this one as well.
        let also = overtaken.iter().flat_map(|older| older.views.iter().cloned());
        let views: BTreeSet<ViewKey> = changed(hub, publication).into_iter().chain(also).collect();
        let (sizes, now) = (state.running().effective.config.waves.sizes(), Instant::now());
        let refusing = state.xds.refusing();
        let nodes: BTreeSet<&String> = refusing.values().collect();
        let mut passed_over = BTreeMap::clone(&state.passed_over());
        passed_over.retain(|node, _| nodes.contains(node));
        state.pass_over(passed_over);
        let older = overtaken.as_ref();
        let followers = followers(state, hub, publication, older.map(|older| &older.change.publication));
        self.silent = still_silent(state, &self.silent);
        let suspects = refusing.into_keys().chain(self.silent.iter().copied()).collect();
        match Waves::begin(now, sizes, &followers, suspects, older.map(|older| &older.waves)) {
            None => Some(publish(hub, change)),
            Some(waves) => {
                let since = Timestamp::now();
                let given = BTreeMap::new();
                self.try_out(state, hub, OnItsWay { change, waves, since, looked: now, views, given });
                None
            }
        }
    }

    /// Lets a change go to all that is not careful, without what is on trial, which stays so.
    fn go_past(&mut self, state: &State, hub: &Hub, mut older: OnItsWay, mut change: Change) -> Change {
        let mut partial = at_once(hub, Some(&older.change.publication), &change, &[]);
        inherit(&older.change.publication, &mut change.publication);
        hub.publish(partial.publication.views.iter().cloned());
        let rest = changed(hub, &change.publication);
        if rest.is_empty() {
            note_overtaken(state, &older.change, &change);
            partial.publication.removed = change.publication.removed;
            return publish(hub, partial);
        }
        tracing::debug!(
            change = change.publication.change,
            past = older.change.publication.change,
            "went past"
        );
        hub.remove(&partial.publication.removed);
        older.views.extend(rest);
        older.change.publication = change.publication;
        self.try_out(state, hub, older);
        partial
    }

    /// Gives what is on its way to those who try it.
    fn try_out(&mut self, state: &State, hub: &Hub, mut on_its_way: OnItsWay) {
        let OnItsWay { change, waves, views, given, .. } = &mut on_its_way;
        let there = state.xds.trial(waves.streams(), waves.began());
        given.extend(there.into_iter().map(|trial| (trial.stream, (trial.node, trial.view))));
        let of_trial = change.publication.views.iter().filter(|(view, _)| views.contains(view));
        hub.try_out(of_trial.cloned(), waves.streams().iter().copied());
        self.on_its_way = Some(on_its_way);
    }

    /// Whether a change is on its way that not everybody has.
    pub fn is_trying(&self) -> bool {
        self.on_its_way.is_some()
    }

    /// The change on its way, for operators.
    pub fn trying(&self) -> Option<Trying> {
        let OnItsWay { change, waves, since, .. } = self.on_its_way.as_ref()?;
        Some(Trying {
            change: change.publication.change,
            cause: change.cause.clone(),
            since: *since,
            began: waves.began(),
            wave: waves.wave(),
            streams: waves.streams().clone(),
            gone: waves.vanished().iter().cloned().collect(),
        })
    }

    /// When to look after the change on its way.
    pub fn due(&self) -> Option<Instant> {
        self.on_its_way.as_ref().map(|on_its_way| on_its_way.looked + LOOK)
    }

    /// When endpoints that are due at `due` may go.
    pub fn room(&self, due: Instant) -> Instant {
        self.on_its_way.as_ref().map_or(due, |on_its_way| due.max(on_its_way.waves.began() + ROOM))
    }

    /// Looks after the change on its way. Gives it back once it is with everybody.
    pub fn look(&mut self, state: &State, hub: &Hub) -> Option<Change> {
        let mut on_its_way = self.on_its_way.take()?;
        let OnItsWay { change, waves, looked, given, .. } = &mut on_its_way;
        let (now, number) = (Instant::now(), change.publication.change);
        *looked = now;
        let (said, charges) = heard(state, hub, waves, given, &change.publication);
        let publication = &change.publication;
        let holds = |stream: StreamId, (type_url, name): &Named, view: &ViewKey| {
            let brought = view_of(publication, view).and_then(|view| view.get(type_url, name));
            brought.is_some_and(|brought| state.xds.holds(stream, type_url, brought))
        };
        let before = waves.passed_over().clone();
        let next = waves.look(now, &said, || followers(state, hub, publication, None), holds);
        self.silent.extend(waves.silent());
        for node in waves.passed_over().difference(&before) {
            pass_over(state, node, &charges);
        }
        match next {
            Next::Wait => {
                self.on_its_way = Some(on_its_way);
                None
            }
            Next::Try(streams) => {
                tracing::debug!(
                    change = number,
                    wave = waves.wave(),
                    streams = streams.len(),
                    "more of them get it"
                );
                self.try_out(state, hub, on_its_way);
                None
            }
            Next::All => {
                if waves.late() {
                    tracing::warn!(
                        change = number,
                        "the first proxies did not answer in time; it goes to all"
                    );
                }
                state.metrics.publishing.wave(if waves.late() { "late" } else { "passed" });
                Some(publish(hub, on_its_way.change))
            }
            Next::Halt(guilty) => {
                let guilty = charges.into_iter().filter(|(named, _)| guilty.contains(named)).collect();
                self.halt(state, hub, on_its_way, &guilty)
            }
            Next::Abandon(nodes, of) => {
                let guilty = all_of_it(hub, publication, &nodes, of);
                self.halt(state, hub, on_its_way, &guilty)
            }
        }
    }

    /// Withholds these of the change on its way. Gives it back when nothing else is in it.
    fn halt(
        &mut self,
        state: &State,
        hub: &Hub,
        mut on_its_way: OnItsWay,
        guilty: &BTreeMap<Named, Refusal>,
    ) -> Option<Change> {
        state.metrics.publishing.wave("halted");
        let OnItsWay { change, waves, .. } = &mut on_its_way;
        self.withhold(hub, &change.publication, guilty);
        self.hold_back(state, &mut change.publication);
        // Nobody has said yes to the rest: it begins anew, unless there is none.
        if changed(hub, &change.publication).is_empty() {
            return Some(publish(hub, on_its_way.change));
        }
        waves.again(Instant::now());
        self.try_out(state, hub, on_its_way);
        None
    }

    fn withhold(&mut self, hub: &Hub, publication: &Publication, guilty: &BTreeMap<Named, Refusal>) {
        let (now, number) = (Timestamp::now(), publication.change);
        let good = |view: &ViewKey| hub.snapshot(view);
        let new = self.quarantine.withhold(now, number, guilty, &publication.views, good);
        for (named, withheld) in self.quarantine.all().filter(|(named, _)| new.contains(*named)) {
            let (kind, name) = words(named);
            tracing::error!(
                change = number,
                kind,
                name,
                node = withheld.node,
                message = withheld.message,
                "in quarantine: the first proxies refused it or went away; everybody keeps the last good version until it changes"
            );
            let reason = format!("{kind} {name} was refused by {}: {}", withheld.node, withheld.message);
            Event::own(Severity::Critical, Action::ResourceQuarantined, reason).record();
        }
    }

    /// Puts the good in the place of what was refused. Gives the names that are not held back any more.
    fn hold_back(&mut self, state: &State, publication: &mut Publication) -> Vec<Named> {
        let (views, released): (Views, Vec<Named>) = match self.quarantine.apply(publication.views.clone()) {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(%error, "failed to hold back what was refused; it goes out, and proxies refuse it");
                return Vec::new();
            }
        };
        publication.views = views;
        for (kind, name) in released.iter().map(words) {
            tracing::info!(kind, name, "out of quarantine: it changed, and is tried anew");
            Event::own(Severity::Info, Action::ResourceReleased, format_args!("{kind} {name} changed"))
                .record();
        }
        let row = |(named, withheld): (&Named, &super::quarantine::Withheld)| {
            let (kind, name) = words(named);
            QuarantineRow {
                kind,
                name: name.to_owned(),
                since: withheld.since,
                change: withheld.change,
                node: withheld.node.clone(),
                message: withheld.message.clone(),
            }
        };
        state.quarantined(self.quarantine.all().map(row).collect());
        if self.quarantine.take_news() {
            self.withheld = Arc::from(text_of(&self.quarantine));
        }
        released
    }
}

fn text_of(quarantine: &Quarantine) -> String {
    quarantine.to_text().unwrap_or_else(|error| {
        tracing::error!(%error, "failed to write down what is in quarantine; a restart forgets it");
        String::new()
    })
}

fn words((type_url, name): &Named) -> (String, &str) {
    (type_url.short().to_uppercase(), name)
}

/// The views that everybody has in another content.
fn changed(hub: &Hub, publication: &Publication) -> Vec<ViewKey> {
    let is_new =
        |(view, new): &&(ViewKey, Arc<Snapshot>)| hub.snapshot(view).is_none_or(|old| !old.same_content(new));
    publication.views.iter().filter(is_new).map(|(view, _)| view.clone()).collect()
}

fn view_of<'a>(publication: &'a Publication, key: &ViewKey) -> Option<&'a Arc<Snapshot>> {
    publication.views.iter().find(|(known, _)| known == key).map(|(_, view)| view)
}

/// What of a change everybody may have at once: all but what `trial` tries, and but for what it made another of these, which are
/// out of quarantine and nobody has tried.
fn at_once(hub: &Hub, trial: Option<&Publication>, change: &Change, released: &[Named]) -> Change {
    let mut part = change.clone();
    for (key, view) in &mut part.publication.views {
        // Where nobody has anything, nobody is to go on with it.
        let kept = hub.snapshot(key).map_or(Ok(view.clone()), |old| untried::keeping(&old, view, released));
        let found = trial.and_then(|trial| counterpart(hub, trial, key, view));
        let kept = match found {
            Some((old, tried)) => kept.and_then(|kept| untried::without(&old, &tried, &kept)),
            None => kept,
        };
        match kept {
            Ok(kept) => *view = kept,
            Err(error) => {
                tracing::error!(view = named(key), %error, "failed to keep back what is on trial; it goes to all");
            }
        }
    }
    part
}

/// Has the newer publication take out of the hub what the older one was to, once everybody has it.
fn inherit(older: &Publication, newer: &mut Publication) {
    let gone = |key: &&ViewKey| view_of(newer, key).is_none() && !newer.removed.contains(key);
    let more: Vec<ViewKey> = older.removed.iter().filter(gone).cloned().collect();
    newer.removed.extend(more);
}

/// What everybody has of a view, and what is on trial of it. A view that nobody asked for before has neither: it is held
/// against one that is the same now.
fn counterpart(
    hub: &Hub,
    trial: &Publication,
    key: &ViewKey,
    view: &Arc<Snapshot>,
) -> Option<(Arc<Snapshot>, Arc<Snapshot>)> {
    let of = |key: &ViewKey| Some((hub.snapshot(key)?, view_of(trial, key)?.clone()));
    let alike =
        || trial.views.iter().filter(|(_, tried)| tried.same_content(view)).find_map(|(key, _)| of(key));
    of(key).or_else(alike)
}

/// The streams that a change concerns: those that watch something which it makes another than everybody has it, or than
/// those have it who try out one that it overtakes.
fn followers(
    state: &State,
    hub: &Hub,
    publication: &Publication,
    older: Option<&Publication>,
) -> Vec<Follower> {
    let changed = publication.views.iter().map(|(key, view)| {
        let everywhere = hub.snapshot(key).unwrap_or_default();
        let mut names = view.changed_since(&everywhere);
        if let Some(tried) = older.and_then(|older| view_of(older, key)) {
            for (type_url, more) in view.changed_since(tried) {
                names.entry(type_url).or_default().extend(more);
            }
        }
        (key.clone(), names)
    });
    let changed = changed.filter(|(_, names)| !names.is_empty()).collect();
    state.xds.followers(&changed)
}

/// What those say who try a change out, and the first refusal of each resource.
fn heard(
    state: &State,
    hub: &Hub,
    waves: &Waves,
    given: &BTreeMap<StreamId, (String, ViewKey)>,
    publication: &Publication,
) -> (Vec<Testimony>, BTreeMap<Named, Refusal>) {
    let mut charges = BTreeMap::new();
    let mut said = Vec::new();
    for trial in state.xds.trial(waves.streams(), waves.began()) {
        let answer = match trial.answer {
            TrialAnswer::Waiting => Answer::Silent,
            TrialAnswer::Took => Answer::Took,
            TrialAnswer::Refused(refusals) => {
                let (view, good) = (view_of(publication, &trial.view), hub.snapshot(&trial.view));
                let mut refused = BTreeSet::new();
                for refusal in refusals {
                    let meant = view.map(|view| verdict::meant(&refusal, view, good.as_deref()));
                    for named in meant.unwrap_or_default() {
                        charges.entry(named.clone()).or_insert_with(|| refusal.clone());
                        refused.insert(named);
                    }
                }
                Answer::Refuses(refused)
            }
        };
        said.push(Testimony { stream: trial.stream, node: trial.node, view: trial.view, answer });
    }
    let there: BTreeSet<StreamId> = said.iter().map(|testimony| testimony.stream).collect();
    let gone = waves.streams().difference(&there).filter_map(|stream| {
        let (node, view) = given.get(stream)?.clone();
        Some(Testimony { stream: *stream, node, view, answer: Answer::Gone })
    });
    said.extend(gone);
    (said, charges)
}

/// Everything that a change brings, as refused by these proxies: they went away over it and cannot say what it was.
fn all_of_it(
    hub: &Hub,
    publication: &Publication,
    nodes: &BTreeSet<String>,
    of: usize,
) -> BTreeMap<Named, Refusal> {
    let message: Arc<str> = Arc::from(format!("{} of {of} proxies went away after it was sent", nodes.len()));
    let node = nodes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut all = BTreeMap::new();
    for (key, view) in &publication.views {
        let names = view.changed_since(&hub.snapshot(key).unwrap_or_default());
        for (type_url, names) in names {
            for name in names {
                let refusal = Refusal {
                    node: node.clone(),
                    type_url: type_url.clone(),
                    message: message.clone(),
                    resources: vec![name.clone()],
                };
                all.insert((type_url.clone(), name), refusal);
            }
        }
    }
    all
}

/// Those of the streams that have not said anything since.
fn still_silent(state: &State, streams: &BTreeSet<StreamId>) -> BTreeSet<StreamId> {
    let silent = |trial: &Trial| matches!(trial.answer, TrialAnswer::Waiting);
    state
        .xds
        .trial(streams, Instant::now())
        .iter()
        .filter(|trial| silent(trial))
        .map(|it| it.stream)
        .collect()
}

/// Notes that a proxy refuses what others take.
fn pass_over(state: &State, node: &str, charges: &BTreeMap<Named, Refusal>) {
    let Some((named, refusal)) = charges.iter().find(|(_, refusal)| refusal.node == node) else { return };
    let (kind, name) = words(named);
    tracing::warn!(
        node,
        kind,
        name,
        message = &*refusal.message,
        "the proxy refuses what others take: it keeps what it has, and is asked last from now on"
    );
    let mut passed_over = BTreeMap::clone(&state.passed_over());
    passed_over
        .insert(node.to_owned(), format!("refused {kind} {name}, which others took: {}", refusal.message));
    state.pass_over(passed_over);
}

fn note_overtaken(state: &State, older: &Change, by: &Change) {
    state.metrics.publishing.wave("overtaken");
    tracing::info!(change = older.publication.change, by = by.publication.change, "overtaken on its way");
}

fn publish(hub: &Hub, change: Change) -> Change {
    hub.publish(change.publication.views.iter().cloned());
    hub.remove(&change.publication.removed);
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_was_to_go_still_goes_when_the_change_is_overtaken_unless_it_is_back() {
        let key = |name: &&str| ViewKey::new(name);
        let publication = |views: &[&str], removed: &[&str]| Publication {
            views: views.iter().map(|name| (key(name), Arc::default())).collect(),
            removed: removed.iter().map(key).collect(),
            ..Publication::default()
        };
        let older = publication(&["az-a"], &["az-b", "az-c", "az-d"]);
        let mut newer = publication(&["az-a", "az-c"], &["az-d"]);
        inherit(&older, &mut newer);
        assert_eq!(newer.removed, ["az-d", "az-b"].map(ViewKey::new));
    }
}
