//! One stream's rim: requests, snapshots and time go into the session, its effects go out.
//!
//! The response stream drives itself: it has no task and no queue of its own beyond what one step asked to send. A client that
//! does not read is therefore not polled, and costs no more memory than that; so nothing that others wait for may be held here.
//! It decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::sync::watch;
use tonic::Status;

use crate::admission::Entrance;
use crate::clock::now;
use crate::hub::Subscription;
use crate::inbound::Inbound;
use crate::ledger::{Entry, Progress};
use crate::server::Shared;
use crate::session::{Effect, Event, Heard, Response};
use crate::snapshot::Snapshot;
use crate::types::{TypeUrl, ViewKey};

#[cfg(test)]
mod tests;

/// How long an aged stream may wait for the answers under way, and how often it looks.
const AGE_GRACE: Duration = Duration::from_secs(5);
const AGE_LOOK: Duration = Duration::from_millis(50);

/// A stream that is being served.
struct Served {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    requests: Inbound,
    /// What the client is to get, from the moment that it says who it is until it follows that.
    chosen: Option<ViewKey>,
    view: Option<Subscription>,
    entrance: Entrance,
    draining: watch::Receiver<bool>,
    /// When the stream has had its time, and when it has had all its grace.
    aged: Option<(Instant, Instant)>,
    outbox: VecDeque<Response>,
    end: Option<Status>,
    over: bool,
}

/// What woke the stream.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Wake {
    Event(Event),
    /// The client closed its side, or went away.
    Closed,
    Failed(Status),
    Drained,
    Aged,
}

/// Serves one stream until either side ends it.
pub(crate) fn serve(
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    requests: Inbound,
) -> impl Stream<Item = Result<Response, Status>> + Send + 'static {
    let draining = shared.draining();
    let aged = shared.age_of(entry.id()).map(|age| now() + age).map(|at| (at, at + AGE_GRACE));
    let served = Served {
        shared,
        entry,
        requests,
        chosen: None,
        view: None,
        entrance: Entrance::Open,
        draining,
        aged,
        outbox: VecDeque::new(),
        end: None,
        over: false,
    };
    futures::stream::unfold(served, async |mut served| served.next().await.map(|item| (item, served)))
}

// === impl Served ===

impl Served {
    /// The next response, or the status the stream ends with, or its plain end.
    async fn next(&mut self) -> Option<Result<Response, Status>> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Some(Ok(response));
            }
            if let Some(status) = self.end.take() {
                self.over = true;
                return Some(Err(status));
            }
            if self.over {
                return None;
            }
            match self.wake().await {
                Wake::Event(event) => {
                    self.catch_up(&event);
                    self.step(event);
                    // A client that floods us with requests shares its thread with the others.
                    tokio::task::coop::consume_budget().await;
                }
                Wake::Closed => return None,
                Wake::Failed(status) => {
                    self.shared.metrics().stream_failed();
                    self.end = Some(status);
                }
                Wake::Drained => {
                    self.end = Some(Status::unavailable("the server is shutting down; connect to another"));
                }
                Wake::Aged => self.age(),
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let now = now();
        let deadline = self.entry.session().deadline(now);
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let aged = self.aged.map(|(at, _)| at);
        let age = async {
            match aged {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let snapshot = async {
            match &mut self.view {
                Some(view) => {
                    if self.entrance.is_early() {
                        view.published().await;
                        self.entrance = self.shared.admission().enter();
                    }
                    self.entrance.admitted().await;
                    view.next().await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // An error means that the server is gone, which ends its streams as well.
            _ = self.draining.wait_for(|draining| *draining) => Wake::Drained,
            request = self.requests.message() => match request {
                Ok(Some(request)) => Wake::Event(Event::Heard(request)),
                Ok(None) => Wake::Closed,
                Err(status) => Wake::Failed(status),
            },
            snapshot = snapshot => Wake::Event(Event::Snapshot(snapshot)),
            () = timer => Wake::Event(Event::Timer),
            () = age => Wake::Aged,
        }
    }

    /// Brings the stream to the newest snapshot before anything else is: it is not woken for those that do not concern it.
    fn catch_up(&mut self, event: &Event) {
        if !matches!(event, Event::Snapshot(_))
            && !self.entrance.is_waiting()
            && let Some(snapshot) = self.view.as_mut().and_then(Subscription::newer)
        {
            self.step(Event::Snapshot(snapshot));
        }
    }

    /// What passed the stream over until it was given this took no time, whatever its client does now.
    fn credit(&mut self, snapshot: &Snapshot) {
        let woken_for = self.view.as_mut().and_then(Subscription::concerned_since);
        self.entry.credit(snapshot, woken_for, self.shared.journal());
    }

    /// Ends the stream at a quiet moment, or looks again a little later.
    fn age(&mut self) {
        let now = now();
        let patient = |(_, last)| now < last;
        if self.entry.session().is_waiting() && self.aged.is_some_and(patient) {
            self.aged = self.aged.map(|(_, last)| (now + AGE_LOOK, last));
        } else {
            self.aged = None;
            self.end =
                Some(Status::unavailable("the stream has had its time; open another, here or elsewhere"));
        }
    }

    fn step(&mut self, event: Event) {
        if let Event::Heard(request) = &event {
            self.shared.metrics().request(&TypeUrl::new(request.type_url()));
            self.recognise(request);
        }
        let given = matches!(event, Event::Snapshot(_));
        if let Event::Snapshot(snapshot) = &event {
            self.credit(snapshot);
        }
        let now = now();
        let mut session = self.entry.session();
        let effects = session.step(now, event);
        let turned = session.turned();
        drop(session);
        let answered = given || effects.iter().any(|effect| matches!(effect, Effect::Acked { .. }));
        for effect in effects {
            self.take(effect);
        }
        if let (Some(view), Some(interests)) = (&mut self.view, turned) {
            view.listen(interests);
        }
        if answered {
            self.entry.report(self.shared.journal(), Progress::Answered(now));
        }
        let (entry, entrance) = (&self.entry, &mut self.entrance);
        entrance.leave_if(|| answered && entry.has_all());
    }

    /// A client that comes back says in its first request what it has.
    fn recognise(&mut self, request: &Heard) {
        if self.view.is_none()
            && let Some(node) = request.node()
        {
            let view = self.chosen.insert(self.shared.view_of(node));
            if let Some(snapshot) = self.shared.hub().snapshot_for(self.entry.id(), view) {
                self.entry.session().recognise(snapshot);
            }
        }
    }

    fn take(&mut self, effect: Effect) {
        let metrics = self.shared.metrics();
        let (stream, node) = (self.entry.id().0, self.entry.node_id());
        match effect {
            Effect::Identified(node) => {
                let view = self.chosen.take().unwrap_or_else(|| self.shared.view_of(&node));
                self.entry.identify(&node, view.clone(), self.shared.journal());
                let node = self.entry.node_id();
                tracing::debug!(stream, node, %view, protocol = %self.entry.protocol(), "stream opened");
                self.entrance = Entrance::Early;
                self.view = Some(self.shared.hub().subscribe(self.entry.id(), view));
            }
            Effect::Send(response) if response.heartbeat => {
                metrics.heartbeat(&response.type_url);
                self.outbox.push_back(response);
            }
            Effect::Send(response) => {
                metrics.response(&response.type_url, response.resources.len(), response.encoded_len());
                tracing::debug!(
                    stream, node, kind = response.type_url.short(), version = %response.version,
                    resources = response.resources.len(), removed = response.removed.len(), "response"
                );
                self.entry.report(self.shared.journal(), Progress::Sent);
                self.outbox.push_back(response);
            }
            Effect::Acked { type_url, latency } => metrics.acked(&type_url, latency),
            Effect::Nacked { type_url, nack } => {
                metrics.nacked(&type_url);
                self.entry.report(self.shared.journal(), Progress::Refused(&type_url, &nack));
                tracing::warn!(
                    stream, node, kind = type_url.short(), version = %nack.version, message = &*nack.message,
                    resources = ?nack.resources, "client refused a response; it keeps what it had until this changes"
                );
            }
            Effect::GateExpired { waiting_for, waited } => {
                metrics.gate_expired();
                let types: Vec<_> = waiting_for.iter().map(TypeUrl::short).collect();
                tracing::warn!(
                    stream,
                    node,
                    ?types,
                    waited_ms = waited.as_millis(),
                    "client did not answer in time; the change goes on without its acknowledgement"
                );
            }
            Effect::End(error) => {
                metrics.stream_failed();
                tracing::warn!(stream, node, %error, "ending a stream because of what the client sent");
                self.end = Some(error.into());
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.closed(&self.entry);
    }
}
