//! A stream: what the client asked for, what its view holds, and what is therefore sent, as a pure state machine.
//!
//! It has no clock, no socket and no task: [`Session::step`] takes the time and an event and answers with effects.
//!
//! # The states
//!
//! - *Unidentified*: nothing was heard. The first request must name its node, and makes the session ask for the node's view.
//! - *Without a view*: the node is known, its view was never published. Subscriptions are recorded and nothing is answered:
//!   an answer now could only say "empty", and a client takes that at its word.
//! - *Serving*: each type is idle or awaits the answer to one response ([`super::watch`]); across types an aggregated stream
//!   keeps the order of [`super::order`].
//! - *Ended*: by an error of the client's. Nothing moves it.
//!
//! Every event ends in the same place, [`Session::pump`]: move the stages, offer each type the chance to send, until nothing
//! moves. So what is sent never depends on which event came first, only on what is so.
//!
//! # The constants
//!
//! See [`SessionOptions`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Effect, Event, Features, Response};
use super::heard::Heard;
use super::order::{Expired, FIRST, Order, Point, Watches};
use super::watch::{Answer, Children, Content, Rules, Watch};
use crate::error::ProtocolError;
use crate::interest::Interests;
use crate::snapshot::Snapshot;
use crate::type_set::TypeSet;
use crate::types::{Protocol, Scope, StreamId, TypeUrl};

/// The limits and waits of a stream.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// `control_plane.identifier` of every response; left out when empty.
    pub control_plane: Arc<str>,
    /// How long a change waits for an ACK that does not come before it goes on without. 15 s: what clients themselves wait
    /// for a resource (xds_protocol.rst, "Knowing When a Requested Resource Does Not Exist"), so a proxy that has not
    /// answered by then has given up on its own side too.
    pub gate_timeout: Duration,
    /// How long a client that comes back has to say what it holds before anything is removed, and a client that took a
    /// cluster to ask for its endpoints. Both come in one burst, so 500 ms is generous; it delays nothing but removals.
    pub resume_grace: Duration,
    /// The most names one stream may watch of one type: 65,536, ten times what the largest meshes subscribe to.
    pub max_names: usize,
    /// The most bytes of text that one stream may have remembered: the names it watches, of all types, and what it said of an earlier
    /// stream. 32 MiB, eight of the longest requests there are. Who watches all names that a view holds shares them with it.
    pub max_text_bytes: usize,
    /// The most types one stream may watch: 64; the API has fewer.
    pub max_types: usize,
    /// The most bytes in one response, of resources, of the names of those that are gone, of errors and of heartbeats; what does not
    /// fit follows after the ACK. 3.5 MiB, because gRPC clients refuse more than 4 MiB unless told otherwise. One resource is not
    /// split, nor are the resources of a state-of-the-world response that has to hold them all (see
    /// [`TypeUrl::is_full_state`]); errors beside them may wait.
    pub max_response_bytes: usize,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    options: Arc<SessionOptions>,
    id: StreamId,
    protocol: Protocol,
    scope: Scope,
    identified: bool,
    features: Features,
    ended: bool,
    /// What the view held when the client was not given anything yet.
    known: Option<Arc<Snapshot>>,
    /// How much the client said of an earlier stream, in bytes.
    brought: usize,
    /// Responses sent so far, which makes nonces unique.
    serial: u64,
    order: Order,
    watches: Watches,
}

/// The longest type that may be asked for, in bytes: those of the API have fewer than a hundred. It is kept for each stream, and told to
/// clients and logs.
const TYPE_URL: usize = 1024;

// === impl SessionOptions ===

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            control_plane: Arc::from(""),
            gate_timeout: Duration::from_secs(15),
            resume_grace: Duration::from_millis(500),
            max_names: 65_536,
            max_text_bytes: 32 << 20,
            max_types: 64,
            max_response_bytes: 7 << 19,
        }
    }
}

// === impl Session ===

impl Session {
    /// A stream that was just opened. `id` must be unique in the process: nonces carry it, so that one of another stream is
    /// never taken for one of this.
    pub fn new(options: Arc<SessionOptions>, id: StreamId, protocol: Protocol, scope: Scope) -> Self {
        let order = Order::new(options.gate_timeout, options.resume_grace);
        let (watches, features) = (Watches::default(), Features::default());
        Self {
            options,
            id,
            protocol,
            scope,
            identified: false,
            features,
            ended: false,
            known: None,
            brought: 0,
            serial: 0,
            order,
            watches,
        }
    }

    /// What happens to the stream at `now`, and what is to be done about it.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.ended {
            return effects;
        }
        match event {
            Event::Request(request) => return self.step(now, Event::Heard(request.into())),
            Event::Heard(request) => {
                if let Err(error) = self.request(now, &request, &mut effects) {
                    self.ended = true;
                    effects.push(Effect::End(error));
                    return effects;
                }
            }
            Event::Snapshot(snapshot) => {
                self.known = None;
                self.order.publish(snapshot);
            }
            Event::Timer => {}
        }
        self.pump(now, &mut effects);
        effects
    }

    /// Tells what the view holds to a session that is to wait for it. Nothing is sent because of that; but what the client says it
    /// has, and what it asks for, is nearly always this, and then costs nothing to remember.
    pub fn recognise(&mut self, snapshot: Arc<Snapshot>) {
        if self.order.newest().is_none() {
            self.known = Some(snapshot);
        }
    }

    /// When [`Event::Timer`] is to be given if nothing else happens.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let order = (self.scope == Scope::Aggregated).then(|| self.order.deadline(now, &self.watches));
        let beats = self.watches.values().filter_map(|watch| watch.next_beat());
        order.flatten().into_iter().chain(beats).min()
    }

    /// What concerns the stream, where that may be something else than when this was asked last.
    pub(crate) fn turned(&mut self) -> Option<Interests> {
        if !self.watches.values().any(|watch| watch.has_turned()) {
            return None;
        }
        let mut interests = Interests::default();
        for watch in self.watches.values_mut() {
            interests.insert(watch.type_url().clone(), watch.turn());
        }
        Some(interests)
    }

    /// The newest snapshot given to the session.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.order.newest().map(|point| &point.snapshot)
    }

    /// Whether some response has not been answered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.watches.values().any(|watch| watch.is_in_flight())
    }

    #[cfg(test)]
    pub(crate) fn has_released(&self) -> bool {
        self.order.has_released()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.watches.values().map(Box::as_ref)
    }

    fn request(
        &mut self,
        now: Instant,
        request: &Heard,
        effects: &mut Vec<Effect>,
    ) -> Result<(), ProtocolError> {
        // xds_protocol.rst, "Basic Protocol Overview": "Only the first request on a stream is guaranteed to carry the node
        // identifier."
        if !self.identified {
            let node = request.node().ok_or(ProtocolError::NoNode)?;
            self.features = Features::of(node, self.protocol);
            effects.push(Effect::Identified(Box::new(node.clone())));
            self.identified = true;
        }
        let type_url = self.type_of(request)?;
        let first = !self.watches.contains_key(&type_url);
        if first && self.watches.len() >= self.options.max_types {
            return Err(ProtocolError::TooManyTypes { limit: self.options.max_types });
        }
        if request.versions_count() > self.options.max_names {
            return Err(ProtocolError::TooManyNames { type_url, limit: self.options.max_names });
        }
        self.order.requested(now, first && request.resumes());
        if first && request.resumes() {
            self.brought += request.len();
        }
        if first {
            let watch = Watch::new(type_url.clone(), self.protocol, self.features);
            self.watches.insert(type_url.clone(), Box::new(watch));
        }
        let Some(watch) = self.watches.get_mut(&type_url) else { return Ok(()) };
        match watch.answer(now, request) {
            Answer::None => {}
            Answer::Stale => return Ok(()),
            Answer::Ack { heartbeat: true, .. } => {}
            Answer::Ack { latency, serial, content, heartbeat: false } => {
                self.order.answered(now, &type_url, serial, &content);
                effects.push(Effect::Acked { type_url: type_url.clone(), latency });
            }
            Answer::Nack { nack, serial, mut content } => {
                // Where an older version stays in use, nothing more is to be waited for.
                content.retain(|name, _| watch.has(name));
                self.order.answered(now, &type_url, serial, &Content::Chosen(content));
                effects.push(Effect::Nacked { type_url: type_url.clone(), nack });
            }
        }
        let known = self.order.newest().map(|point| &point.snapshot).or(self.known.as_ref());
        let contents = known.into_iter().flat_map(|snapshot| snapshot.contents(&type_url));
        let known = known.map_or(TypeSet::empty(), |snapshot| snapshot.set(&type_url));
        watch.subscribe(request, first, known, contents);
        if first {
            // What the client says it has is not enough for a cluster it was sent before it said so.
            if let Some(all) = self.order.expected_all(&type_url) {
                watch.repeat_all(all);
            }
            self.order.expected(&type_url).for_each(|name| {
                watch.repeat(name);
            });
        }
        if watch.subscription().len() > self.options.max_names {
            return Err(ProtocolError::TooManyNames { type_url, limit: self.options.max_names });
        }
        let text: usize = self.watches.values().map(|watch| watch.subscription().text()).sum();
        if self.brought + text > self.options.max_text_bytes {
            return Err(ProtocolError::TooMuchText { limit: self.options.max_text_bytes });
        }
        Ok(())
    }

    /// The type a request is about: "required on ADS, implied on the per-type services" (discovery.proto, type_url: "This is
    /// implicit in requests made via singleton xDS APIs ... but is required for ADS").
    fn type_of(&self, request: &Heard) -> Result<TypeUrl, ProtocolError> {
        let asked = request.type_url();
        if asked.len() > TYPE_URL {
            return Err(ProtocolError::LongType { bytes: asked.len(), limit: TYPE_URL });
        }
        match &self.scope {
            Scope::Aggregated if asked.is_empty() => Err(ProtocolError::NoType),
            Scope::Aggregated => Ok(TypeUrl::new(asked)),
            Scope::Single(served) if asked.is_empty() || asked == served.as_str() => Ok(served.clone()),
            Scope::Single(served) => {
                Err(ProtocolError::WrongType { asked: asked.to_owned(), served: served.clone() })
            }
        }
    }

    /// Moves whatever can move. Ends because each round sends (once for each type until it is answered), moves a stage (which
    /// then waits for an answer), or finds a type with nothing to send (once for each snapshot).
    fn pump(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.order.newest().is_none() {
            return;
        }
        loop {
            let mut expired = Vec::new();
            let mut moved = false;
            if self.scope == Scope::Aggregated {
                moved = self.order.advance(now, &self.watches, &mut expired);
            }
            for Expired { waiting_for, waited } in expired {
                effects.push(Effect::GateExpired { waiting_for, waited });
            }
            for at in 0..self.watches.len() {
                moved |= self.offer(now, at, effects);
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets the type at this place send if it may. Answers whether it did, or has come further without: a type with nothing to say
    /// has answered for the newest point as well.
    fn offer(&mut self, now: Instant, at: usize, effects: &mut Vec<Effect>) -> bool {
        let Some((type_url, watch)) = self.watches.at_mut(at) else { return false };
        let goal = match self.scope {
            Scope::Aggregated => self.order.goal(type_url),
            Scope::Single(_) => self.order.newest().map(|point| (point, true)),
        };
        let Some((point, changes)) = goal else { return false };
        let before = (watch.answered(), watch.accepted());
        if watch.stays(point.snapshot.set(type_url), point.number) {
            return before != (watch.answered(), watch.accepted());
        }
        let (type_url, point) = (type_url.clone(), point.clone());
        let response = self.send(now, &type_url, &point, changes);
        let sent = response.is_some();
        effects.extend(response.map(Effect::Send));
        let after = self.watches.get(&type_url).map(|watch| (watch.answered(), watch.accepted()));
        sent || after != Some(before)
    }

    fn send(&mut self, now: Instant, type_url: &TypeUrl, point: &Point, changes: bool) -> Option<Response> {
        let aggregated = self.scope == Scope::Aggregated;
        let newest = self.order.newest()?.clone();
        // Taken out so that the others can be read while it decides.
        let mut watch = self.watches.remove(type_url)?;
        let (order, watches, serial, id) = (&self.order, &self.watches, self.serial + 1, self.id);
        let nonce = || Arc::from(format!("{:x}-{serial:x}", id.0));
        let draft = watch.send(
            now,
            serial,
            nonce,
            |version| newest.snapshot.by_version(type_url, version).cloned(),
            &Rules {
                goal: point.snapshot.set(type_url),
                point: point.number,
                change: point.snapshot.change(),
                changes,
                removable: &|name| !aggregated || order.removable(now, type_url, name, watches),
                removals_count: *type_url == TypeUrl::LISTENER,
                coming: &|name| {
                    newest.number != point.number && newest.snapshot.get(type_url, name).is_some()
                },
                promised: &|name| if aggregated { order.promised(type_url, name) } else { None },
                max_bytes: self.options.max_response_bytes,
            },
        );
        self.watches.insert(type_url.clone(), watch);
        let draft = draft?;
        self.serial = serial;
        if aggregated {
            self.lead_to(type_url, &draft.children);
        }
        Some(Response {
            protocol: self.protocol,
            type_url: type_url.clone(),
            version: draft.version,
            nonce: draft.nonce,
            resources: draft.resources,
            removed: draft.removed,
            refreshed: draft.refreshed,
            unresolved: draft.unresolved,
            errors: draft.errors,
            with_ttl: self.features.ttl,
            heartbeat: draft.heartbeat,
            control_plane: self.options.control_plane.clone(),
        })
    }

    /// Sees to it that what the resources just sent will wait for is sent after them.
    fn lead_to(&mut self, type_url: &TypeUrl, children: &Children) {
        match children {
            Children::Chosen(children) => self.lead_to_children(type_url, children),
            // A client that begins: it has not asked for endpoints, and will for all of them.
            Children::OfAll(_)
                if *type_url == TypeUrl::CLUSTER
                    && !self.watches.contains_key(&TypeUrl::ENDPOINT)
                    && self.order.expect_all(self.serial) => {}
            Children::OfAll(set) => {
                for resource in set.iter() {
                    self.lead_to_children(type_url, resource.children());
                }
            }
        }
    }

    fn lead_to_children(&mut self, type_url: &TypeUrl, children: &[(TypeUrl, Arc<str>)]) {
        for (child_type, child) in children {
            // xds_protocol.rst, "Resource warming": "Warming of Cluster is completed only when a new ClusterLoadAssignment
            // response is supplied by management server even though there is no change in endpoints."
            if let Some(watch) = self.watches.get_mut(child_type) {
                watch.repeat(child);
            }
            if FIRST.contains(type_url) {
                self.order.expect(child_type, child, self.serial);
            }
        }
    }
}
