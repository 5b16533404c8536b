//! Carries publications to the hub: to all at once, or through the waves, with what was refused held back. Decides nothing: see
//! [`super::waves`] and [`super::quarantine`].
//!
//! A change that is on its way is overtaken by the next one. When that is urgent it goes to all at once, with what the first one
//! brought: drains and health wait for nobody's policy. Endpoints wait a second at most.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use zonebreak_xds::{ChangeId, Hub, Refusal, ViewKey};

use super::{
    history::Caused,
    publisher::Publication,
    quarantine::{Named, Quarantine, Views},
    state::State,
    waves::{Next, Waves},
};
use crate::{
    model::QuarantineRow,
    telemetry::audit::{Action, Event, Severity},
};

/// Between two looks at who has answered: a proxy on the same network takes about as long.
const LOOK: Duration = Duration::from_millis(5);

/// How long endpoints wait for a change on its way.
const ROOM: Duration = Duration::from_secs(1);

/// A publication and where it comes from.
#[derive(Debug)]
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
#[derive(Debug, Default)]
pub struct Rollout {
    quarantine: Quarantine,
    on_its_way: Option<(Change, Waves, Instant)>,
}

/// A view as operators know it.
pub fn named(view: &ViewKey) -> &str {
    if view.as_str().is_empty() { "(no zone)" } else { view.as_str() }
}

// === impl Rollout ===

impl Rollout {
    /// Takes a change. Gives it back once it is with everybody; nothing while it is on its way.
    pub fn begin(&mut self, state: &State, hub: &Hub, mut change: Change) -> Option<Change> {
        let overtaken = self.on_its_way.take();
        if let Some((older, ..)) = &overtaken {
            state.metrics.wave("overtaken");
            tracing::info!(
                change = older.publication.change,
                by = change.publication.change,
                "overtaken on its way"
            );
        }
        self.hold_back(state, &mut change.publication);
        let publication = &mut change.publication;
        // Against what everybody has: an overtaken change brought its views to a few only.
        let is_new =
            |(view, new): &&(ViewKey, Arc<_>)| hub.snapshot(view).is_none_or(|old| !old.same_content(new));
        publication.changed = publication.views.iter().filter(is_new).map(|(view, _)| view.clone()).collect();
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
            let sizes = state.running().effective.config.waves.sizes();
            let now = Instant::now();
            if let Some(waves) =
                Waves::begin(now, sizes, &state.xds.followers(publication.changed.iter().cloned()))
            {
                hub.try_out(tried(publication), waves.streams().iter().copied());
                self.on_its_way = Some((change, waves, now));
                return None;
            }
        }
        Some(publish(hub, change))
    }

    /// When to look after the change on its way.
    pub fn due(&self) -> Option<Instant> {
        self.on_its_way.as_ref().map(|(_, _, looked)| *looked + LOOK)
    }

    /// When endpoints that are due at `due` may go.
    pub fn room(&self, due: Instant) -> Instant {
        self.on_its_way.as_ref().map_or(due, |(_, waves, _)| due.max(waves.began() + ROOM))
    }

    /// Looks after the change on its way. Gives it back once it is with everybody.
    pub fn look(&mut self, state: &State, hub: &Hub) -> Option<Change> {
        let (mut change, mut waves, _) = self.on_its_way.take()?;
        let (now, number) = (Instant::now(), change.publication.change);
        let status = state.xds.trial(waves.streams(), waves.began());
        let followers = state.xds.followers(change.publication.changed.iter().cloned());
        match waves.look(now, &status, &followers) {
            Next::Wait => {
                self.on_its_way = Some((change, waves, now));
                None
            }
            Next::Try(streams) => {
                tracing::debug!(
                    change = number,
                    wave = waves.wave(),
                    streams = streams.len(),
                    "the next wave"
                );
                hub.try_out(tried(&change.publication), streams);
                self.on_its_way = Some((change, waves, now));
                None
            }
            Next::All => {
                if waves.late() {
                    tracing::warn!(
                        change = number,
                        "the first proxies did not answer in time; it goes to all"
                    );
                }
                state.metrics.wave(if waves.late() { "late" } else { "passed" });
                Some(publish(hub, change))
            }
            Next::Halt(refusals) => {
                state.metrics.wave("halted");
                self.withhold(hub, &change.publication, &refusals);
                self.hold_back(state, &mut change.publication);
                Some(publish(hub, change))
            }
        }
    }

    fn withhold(&mut self, hub: &Hub, publication: &Publication, refusals: &[Refusal]) {
        let (now, number) = (Timestamp::now(), publication.change);
        let good = |view: &ViewKey| hub.snapshot(view);
        let new = self.quarantine.withhold(now, number, refusals, &publication.views, good);
        for (named, withheld) in self.quarantine.all().filter(|(named, _)| new.contains(*named)) {
            let (kind, name) = words(named);
            tracing::error!(
                change = number,
                kind,
                name,
                node = withheld.node,
                message = withheld.message,
                "in quarantine: a proxy refused it; everybody keeps the last good version until it changes"
            );
            let reason = format!("{kind} {name} was refused by {}: {}", withheld.node, withheld.message);
            Event::own(Severity::Critical, Action::ResourceQuarantined, reason).record();
        }
    }

    /// Puts the good in the place of what was refused.
    fn hold_back(&mut self, state: &State, publication: &mut Publication) {
        let (views, released): (Views, Vec<Named>) = match self.quarantine.apply(publication.views.clone()) {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(%error, "failed to hold back what was refused; it goes out, and proxies refuse it");
                return;
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
    }
}

fn words((type_url, name): &Named) -> (String, &str) {
    (type_url.short().to_uppercase(), name)
}

/// The views that a change makes others.
fn tried(publication: &Publication) -> Views {
    let changed = |(view, _): &&(ViewKey, Arc<_>)| publication.changed.contains(view);
    publication.views.iter().filter(changed).cloned().collect()
}

fn publish(hub: &Hub, change: Change) -> Change {
    hub.publish(change.publication.views.iter().cloned());
    hub.remove(&change.publication.removed);
    change
}
