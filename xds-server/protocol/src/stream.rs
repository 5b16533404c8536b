//! One stream's rim: requests, snapshots and time go into the session, its effects go out.
//!
//! The response stream drives itself: it has no task and no queue of its own beyond what one step asked to send. A client that
//! does not read is therefore not polled, and costs no more memory than that; so nothing that others wait for may be held here.
//! It decides nothing.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::sync::watch;
use tokio::time::Sleep;
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
    /// When the session wants to be told the time.
    deadline: Option<Instant>,
    /// When the stream has had its time, and when it has had all its grace.
    aged: Option<(Instant, Instant)>,
    /// Set for the earliest that was ever waited for, and only then for what is waited for now: with each change comes a wait
    /// that the client's answer ends, and none of them touches the timer.
    timer: Option<Pin<Box<Sleep>>>,
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
    let mut draining = shared.draining();
    if *draining.borrow() {
        draining.mark_changed();
    }
    let aged = shared.age_of(entry.id()).map(|age| now() + age).map(|at| (at, at + AGE_GRACE));
    Served {
        shared,
        entry,
        requests,
        chosen: None,
        view: None,
        entrance: Entrance::Open,
        draining,
        deadline: None,
        aged,
        timer: None,
        outbox: VecDeque::new(),
        end: None,
        over: false,
    }
}

// === impl Served ===

impl Stream for Served {
    type Item = Result<Response, Status>;

    /// The next response, or the status the stream ends with, or its plain end.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let served = self.get_mut();
        loop {
            if let Some(response) = served.outbox.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            if let Some(status) = served.end.take() {
                served.over = true;
                return Poll::Ready(Some(Err(status)));
            }
            if served.over {
                return Poll::Ready(None);
            }
            match ready!(served.poll_wake(context)) {
                Wake::Event(event) => {
                    served.catch_up(&event);
                    served.step(event);
                    // A client that floods us with requests shares its thread with the others.
                    ready!(pin!(tokio::task::coop::consume_budget()).poll(context));
                }
                Wake::Closed => return Poll::Ready(None),
                Wake::Failed(status) => {
                    served.shared.metrics().stream_failed();
                    served.end = Some(status);
                }
                Wake::Drained => {
                    served.end = Some(Status::unavailable("the server is shutting down; connect to another"));
                }
                Wake::Aged => served.age(),
            }
        }
    }
}

impl Served {
    /// Asks everything that may wake the stream, in the order in which it counts. What is asked is asked where it lies: nothing has to
    /// be put into a queue, and taken out again, whenever the stream waits.
    fn poll_wake(&mut self, context: &mut Context<'_>) -> Poll<Wake> {
        self.entry.listen(context.waker());
        // An error means that the server is gone, which ends its streams as well.
        if self.draining.has_changed().unwrap_or(true) {
            return Poll::Ready(Wake::Drained);
        }
        if let Poll::Ready(request) = self.requests.poll_message(context) {
            return Poll::Ready(match request {
                Ok(Some(request)) => Wake::Event(Event::Heard(request)),
                Ok(None) => Wake::Closed,
                Err(status) => Wake::Failed(status),
            });
        }
        if let Poll::Ready(snapshot) = self.poll_snapshot(context) {
            return Poll::Ready(Wake::Event(Event::Snapshot(snapshot)));
        }
        let aged = self.aged.map(|(at, _)| at);
        let Some(at) = self.deadline.into_iter().chain(aged).min() else { return Poll::Pending };
        ready!(self.poll_until(at, context));
        Poll::Ready(if self.deadline == Some(at) { Wake::Event(Event::Timer) } else { Wake::Aged })
    }

    fn poll_snapshot(&mut self, context: &mut Context<'_>) -> Poll<Arc<Snapshot>> {
        let Some(view) = &mut self.view else { return Poll::Pending };
        if self.entrance.is_early() {
            ready!(view.poll_published(context));
            self.entrance = self.shared.admission().enter();
        }
        ready!(self.entrance.poll_admitted(context));
        view.poll_next(context)
    }

    fn poll_until(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if at < timer.deadline() {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(context).is_ready() {
            if at <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
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
        self.deadline = session.deadline(now);
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
