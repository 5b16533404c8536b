//! What a client's requests change: answers to responses, and subscriptions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::beat::Beat;
use super::brought::{Brought, whole};
use super::content::{Chosen, Content};
use super::send::same;
use super::state::{InFlight, Rejected, Watch};
use crate::resource::Resource;
use crate::session::attribution;
use crate::session::event::Nack;
use crate::session::heard::Heard;
use crate::session::held::{Held, Holds};
use crate::session::subscription::Change;
use crate::type_set::TypeSet;
use crate::types::{Protocol, TypeUrl};

/// The most bytes of a client's message that are read and kept. Envoy's are shorter; others' may be of any length.
const MESSAGE: usize = 4096;

/// The most names kept with a refusal.
const NAMED: usize = 100;

/// What a request's nonce and error detail say.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nothing: a first request, or one that only changes the subscription.
    None,
    /// The client took the response of this serial number.
    Ack { latency: Duration, serial: u64, content: Content, heartbeat: bool },
    /// The client refused it.
    Nack { nack: Nack, serial: u64, content: Chosen },
    /// A state-of-the-world request that belongs to an older response: to be ignored, but for what it leaves out.
    Stale,
}

// === impl Watch ===

impl Watch {
    /// Takes the part of a request that answers a response.
    pub(crate) fn answer(&mut self, now: Instant, request: &Heard) -> Answer {
        let nonce = request.nonce();
        let stale = !nonce.is_empty() && self.last_nonce.as_deref().is_some_and(|last| last != nonce);
        if stale && self.protocol == Protocol::Sotw {
            // xds_protocol.rst, "Resource updates": "The management server should not send a DiscoveryResponse for any
            // DiscoveryRequest that has a stale nonce." The client will repeat what it wants with the newer nonce, but not what it
            // did not want in between: what it dropped and asks for again it does not have any more.
            self.subscription.overhear(&request.subscribe());
            return Answer::Stale;
        }
        let Some(in_flight) = self.in_flight.take_if(|in_flight| *in_flight.nonce == *nonce) else {
            return Answer::None;
        };
        // xds_protocol.rst, "ACK and NACK semantics summary": "NACK signifies unsuccessful configuration and is indicated by
        // the presence of the error_detail field." The version says nothing.
        match request.error() {
            None => self.accept(now, in_flight),
            Some(message) => self.refuse(now, in_flight, message),
        }
    }

    fn accept(&mut self, now: Instant, in_flight: InFlight) -> Answer {
        self.told.extend(in_flight.errors);
        match &in_flight.content {
            Content::All(set) if self.held.is_nothing() && self.subscription.covers_all(set) => {
                self.held = Held::all_of(set);
                self.rejected.retain(|name, _| set.place(name).is_none());
            }
            content => {
                for (name, resource) in content.iter() {
                    self.rejected.remove(name);
                    self.strays.remove(name);
                    let holds = || resource.cloned().map_or(Holds::Nothing, Holds::This);
                    let covered = self.subscription.covers(name);
                    let had = if covered { self.held.set(name, holds()) } else { Holds::Nothing };
                    if let Some(resource) = resource {
                        self.has_by_all_names(resource, &had, content, &in_flight.goal);
                    }
                }
            }
        }
        self.resumed = false;
        self.acked = Some(in_flight.version);
        self.reach(in_flight.point.unwrap_or(0));
        Answer::Ack {
            latency: now.saturating_duration_since(in_flight.at),
            serial: in_flight.serial,
            content: in_flight.content,
            heartbeat: in_flight.heartbeat,
        }
    }

    fn refuse(&mut self, now: Instant, in_flight: InFlight, message: &str) -> Answer {
        let message = shortened(message);
        // There is nothing else to do about an error than to say it.
        self.told.extend(in_flight.errors);
        if in_flight.heartbeat {
            self.beat = Beat::Refused;
        }
        let brought = in_flight.content.into_chosen();
        let names: BTreeSet<Arc<str>> =
            brought.iter().map(|(name, content)| own_name(name, content).clone()).collect();
        let count = names.len();
        let mut blamed = attribution::blamed(message, &names);
        // A full state repeats what the client has: if nothing new is named it may have taken that and refused something else.
        let guessed = self.tells_full_state() && blamed.is_empty();
        if count == 1 || blamed.is_empty() {
            blamed = names.into_iter().collect();
        }
        let attributed = count == 1 || blamed.len() < count;
        for (name, content) in &brought {
            let again = self.rejected.get(name).is_some_and(|before| same(&before.content, content));
            // They are in the order of names.
            let certain = attributed && blamed.binary_search(own_name(name, content)).is_ok();
            let news = !self.held.of(name).is(content.as_ref());
            if news && (!certain || guessed) && self.subscription.covers(name) {
                self.held.doubt(name, content.as_ref());
            }
            if let (false, Some(resource)) = (certain, content) {
                self.may_keep(name, &Holds::This(resource.clone()));
            }
            // A removal has no content to wait for.
            let guilty = content.is_some() && (certain || again);
            self.rejected.insert(name.clone(), Rejected { content: content.clone(), guilty });
        }
        self.rejected_goal = Some(in_flight.goal);
        self.turned = true;
        // An answer all the same: what it means for other types is decided by what the client then has.
        self.answered = self.answered.max(in_flight.point.unwrap_or(0));
        blamed.truncate(NAMED);
        let nack = Nack {
            version: in_flight.version,
            nonce: in_flight.nonce,
            change: in_flight.change,
            message: Arc::from(message),
            resources: blamed,
            at: now,
        };
        self.nack = Some(nack.clone());
        Answer::Nack { nack, serial: in_flight.serial, content: brought }
    }

    /// Takes the part of a request that says what is wanted. `known` is the newest content of the type, which is the first of
    /// `contents`: the others came before it.
    pub(crate) fn subscribe<'a>(
        &mut self,
        request: &Heard,
        first: bool,
        known: &Arc<TypeSet>,
        contents: impl Iterator<Item = &'a Arc<TypeSet>>,
    ) {
        let mut missed = Vec::new();
        let mut change = match request.protocol() {
            Protocol::Sotw => {
                if first && !request.version().is_empty() {
                    self.resume = Some(request.version().to_owned());
                    self.resumed = true;
                }
                if let Some(change) = self.subscription.drop_missed() {
                    missed = self.held.all();
                    self.follow(change, false);
                }
                self.subscription.replace(&self.type_url, &request.subscribe(), known)
            }
            Protocol::Delta => {
                let (subscribe, unsubscribe) = (request.subscribe(), request.unsubscribe());
                self.subscription.adjust(&self.type_url, &subscribe, &unsubscribe, known)
            }
        };
        if first && self.type_url == TypeUrl::VIRTUAL_HOST && request.protocol() == Protocol::Delta {
            // vhds.rst, "Joining/Reconnecting to a management server": a client without a wish yet waits for what is "likely
            // useful" to it. Nothing is, and that is said.
            self.owed = true;
        }
        // discovery.proto, initial_resource_versions: "should only be populated in the first message in a stream" of the type; what
        // the client has in that version need not be sent again.
        let brings = first && request.versions_count() > 0;
        if brings && let Some(whole) = whole(request, &self.subscription, contents) {
            change.asked.remove_all_of(whole);
            change.new.remove_all_of(whole);
            self.follow(change, false);
            self.held = Held::all_of(whole);
            self.resumed = true;
            return;
        }
        let brought = brings.then(|| Brought::new(request.versions(), &self.subscription, known));
        if let Some(brought) = &brought {
            brought.answers(&mut change, known);
        }
        self.follow(change, first && self.resume.is_some());
        for (name, had) in missed {
            // It may have been dropped and asked for again before this came, and then the client has it still.
            let asks = self.subscription.covers(&name) && matches!(self.held.of(&name), Holds::Nothing);
            if asks && !matches!(had, Holds::Nothing) {
                self.held.doubt(&name, had.possible().next());
            }
        }
        if let Some(brought) = brought {
            self.take_up(brought, known);
        }
    }

    /// The client has just begun with the type, and has this of it already.
    fn take_up(&mut self, brought: Brought, known: &Arc<TypeSet>) {
        self.resumed |= brought.same > 0 || !brought.others.is_empty();
        let places = || known.iter().zip(&brought.places);
        // Told as differences from what is nearer: from all that there is, or from nothing.
        if brought.same > known.len() / 2 {
            self.held = Held::all_of(known);
            for (resource, _) in places().filter(|(_, same)| !**same) {
                if self.subscription.covers(resource.name()) {
                    self.held.set(resource.name(), Holds::Nothing);
                }
            }
        } else {
            for (resource, _) in places().filter(|(_, same)| **same) {
                self.held.begin(resource.name(), Holds::Unseen(Some(resource.version().clone())));
            }
        }
        self.strays.extend(brought.strays);
        for (name, version) in brought.others {
            self.due.take(&name);
            let same = known.get(&name).filter(|resource| *resource.version() == version);
            self.held.set(&name, same.map_or(Holds::Unseen(Some(version)), |it| Holds::This(it.clone())));
        }
    }

    /// `unseen`: the client names what an earlier stream gave it, and we do not know what that is.
    fn follow(&mut self, change: Change, unseen: bool) {
        self.turned |= !change.is_nothing();
        if change.wildcard_began {
            // What the wildcard adds is news to the client, whatever the set we last compared with.
            let kept = self.kept_without_a_wildcard(&change.new, &change.globs_began);
            self.held.narrow(&kept);
            self.recall_all();
            self.owed = true;
        }
        if change.wildcard_ended {
            let kept = self.kept_without_a_wildcard(&change.asked, &change.globs_began);
            let had = self.held.differing().clone();
            self.held.narrow(&kept);
            had.iter().for_each(|(name, had)| self.may_keep(name, had));
            self.owed = false;
        }
        self.follow_collections(&change);
        if !self.told.is_empty() {
            for name in change.asked.iter().chain(&change.dropped) {
                // Asked again, answered again.
                self.told.remove(name);
            }
        }
        if unseen || !self.held.is_nothing() {
            for name in change.new.iter() {
                self.held.begin(name, if unseen { Holds::Unseen(None) } else { Holds::Nothing });
            }
            self.recall(&change.asked, &change.new);
        }
        // xds_protocol.rst, "How the client specifies what resources to return": "the server must resend any newly requested
        // resources, even if it previously sent those"; "Subscribing to Resources": "the server must still provide those
        // resources in the response".
        if !unseen {
            self.due.extend(change.asked);
        }
        for name in change.dropped {
            if self.subscription.covers(&name) {
                // xds_protocol.rst, "Unsubscribing from Resources": under a wildcard "the server must send a response that
                // includes the specific resource in either".
                if self.protocol == Protocol::Delta {
                    self.due.insert(name);
                }
            } else {
                self.let_go(&name);
            }
        }
        if change.wildcard_ended {
            let subscription = &self.subscription;
            self.due.retain(|name| subscription.covers(name));
            self.rejected.retain(|name, _| subscription.covers(name));
        }
    }
}

/// The name the client knows this by, whatever it asked for it by.
fn own_name<'a>(asked: &'a Arc<str>, content: &'a Option<Arc<Resource>>) -> &'a Arc<str> {
    content.as_ref().map_or(asked, |resource| resource.name())
}

fn shortened(message: &str) -> &str {
    message.get(..message.floor_char_boundary(MESSAGE)).unwrap_or_default()
}
