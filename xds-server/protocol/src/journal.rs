//! What became of each change: how many streams were to take it, got it, have it, or refused it, and how long that took.
//!
//! The publisher announces a change just before the hub has it; streams tell how far they have come. A change that another
//! overtakes is taken with it: a stream that holds the later one is done with both. The journal only counts, and holds the last
//! [`KEPT`] changes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::now;
use crate::session::Nack;
use crate::types::{ChangeId, TypeUrl, ViewKey};

/// Changes remembered: some ten seconds of the busiest topology, days of a quiet one.
const KEPT: usize = 256;

/// Refusals told in full for one change. A change that many refuse is refused for one reason.
const TOLD: usize = 16;

/// Latencies fall into buckets that grow by a tenth, from 0.1 ms to some 100 s: a percentile is off by at most 10 %.
const BUCKETS: usize = 146;
const FIRST: f64 = 1e-4;
const GROWTH: f64 = 1.1;

/// One change.
#[derive(Clone, Debug)]
pub struct ChangeStatus {
    /// The publisher's label.
    pub change: ChangeId,
    /// When it was given to the hub.
    pub published_at: SystemTime,
    /// Streams that followed one of its views then.
    pub streams: usize,
    /// Of those, the ones that were sent something of it, or of a later one before they had it.
    pub sent: usize,
    /// Of those, the ones that hold all of it, or of a later one; also those that needed to be sent nothing.
    pub acked: usize,
    /// Of those, the ones that refused something while it was the newest.
    pub refused: usize,
    /// Of those, the ones that went away before they had it.
    pub gone: usize,
    /// From the publication until half of those that it concerned and that have it had it. Whom it passed over had it at once.
    pub p50: Option<Duration>,
    /// Likewise for 99 of 100.
    pub p99: Option<Duration>,
    /// Likewise for the last one.
    pub last: Option<Duration>,
    /// Who refused it and why, the first ones.
    pub refusals: Vec<Refusal>,
}

/// A client that refused a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `node.id`.
    pub node: String,
    /// The type of the response it refused.
    pub type_url: TypeUrl,
    /// What it said.
    pub message: Arc<str>,
    /// The resources it blames.
    pub resources: Vec<Arc<str>>,
}

/// How far one stream has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    sent: ChangeId,
    acked: ChangeId,
    refused: ChangeId,
}

/// The last changes, and the newest that was announced.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    newest: ChangeId,
    rows: VecDeque<Row>,
}

#[derive(Debug)]
struct Row {
    change: ChangeId,
    at: (Instant, SystemTime),
    views: BTreeSet<ViewKey>,
    streams: usize,
    sent: usize,
    acked: usize,
    refused: usize,
    gone: usize,
    /// Of those that have it, the ones that it concerned.
    timed: usize,
    last: Duration,
    latencies: Box<[u32; BUCKETS]>,
    refusals: Vec<Refusal>,
}

// === impl Journal ===

impl Journal {
    /// A change is about to be published in these views, which `count` of the streams follow. `count` is asked while no stream
    /// can join, so that each stream either counts or starts from this change.
    pub(crate) fn announce(&self, change: ChangeId, views: BTreeSet<ViewKey>, count: impl FnOnce() -> usize) {
        let mut inner = self.inner();
        inner.newest = inner.newest.max(change);
        if views.is_empty() {
            return;
        }
        let streams = count();
        inner.rows.push_back(Row::new(change, views, streams));
        if inner.rows.len() > KEPT {
            inner.rows.pop_front();
        }
    }

    /// A stream joins while `join` runs: it has everything that was announced so far as far as anybody counts.
    pub(crate) fn join(&self, join: impl FnOnce()) -> Reached {
        let inner = self.inner();
        join();
        Reached { sent: inner.newest, acked: inner.newest, refused: inner.newest }
    }

    /// A stream was sent something of `change`.
    pub(crate) fn sent(&self, view: &ViewKey, reached: &mut Reached, change: ChangeId) {
        self.each(view, &mut reached.sent, change, |row| row.sent += 1);
    }

    /// A stream holds all of `change`, since `now`.
    pub(crate) fn acked(&self, view: &ViewKey, reached: &mut Reached, change: ChangeId, now: Instant) {
        self.have(view, reached, change, |row| row.have(now));
    }

    /// A stream holds all of `change`, which was published without concerning it: it took no time that could be told.
    pub(crate) fn held(&self, view: &ViewKey, reached: &mut Reached, change: ChangeId) {
        self.have(view, reached, change, |row| row.acked += 1);
    }

    /// A stream refused something while `change` was the newest that it was given.
    pub(crate) fn refused(
        &self,
        view: &ViewKey,
        reached: &mut Reached,
        change: ChangeId,
        refusal: impl FnOnce() -> Refusal,
    ) {
        if reached.refused >= change {
            return;
        }
        reached.refused = change;
        let mut inner = self.inner();
        // Only the newest can have brought what is refused.
        if let Some(row) =
            inner.rows.iter_mut().rev().find(|row| row.change <= change && row.views.contains(view))
        {
            row.refused += 1;
            if row.refusals.len() < TOLD {
                row.refusals.push(refusal());
            }
        }
    }

    /// A stream that had come so far went away.
    pub(crate) fn left(&self, view: &ViewKey, mut reached: Reached) {
        self.each(view, &mut reached.acked, ChangeId(u64::MAX), |row| row.gone += 1);
    }

    /// The changes, the newest first.
    pub(crate) fn changes(&self) -> Vec<ChangeStatus> {
        self.inner().rows.iter().rev().map(Row::status).collect()
    }

    fn have(&self, view: &ViewKey, reached: &mut Reached, change: ChangeId, count: impl FnMut(&mut Row)) {
        // What it has it will not be sent, and need not have been: a change may hold nothing for it.
        reached.sent = reached.sent.max(change);
        self.each(view, &mut reached.acked, change, count);
    }

    /// Does `count` to every row of the view after `from` up to `to`, which becomes the new `from`.
    fn each(&self, view: &ViewKey, from: &mut ChangeId, to: ChangeId, mut count: impl FnMut(&mut Row)) {
        if *from >= to {
            return;
        }
        let mut inner = self.inner();
        let since = std::mem::replace(from, to);
        // From the newest on: nearly always one row is all there is.
        let rows = inner.rows.iter_mut().rev().take_while(|row| row.change > since);
        rows.filter(|row| row.change <= to && row.views.contains(view)).for_each(&mut count);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole journal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reached ===

impl Reached {
    /// The newest change that the stream is known to hold.
    pub(crate) fn acked(&self) -> ChangeId {
        self.acked
    }
}

// === impl Row ===

impl Row {
    fn new(change: ChangeId, views: BTreeSet<ViewKey>, streams: usize) -> Self {
        Self {
            change,
            at: (now(), SystemTime::now()),
            views,
            streams,
            sent: 0,
            acked: 0,
            refused: 0,
            gone: 0,
            timed: 0,
            last: Duration::ZERO,
            latencies: Box::new([0; BUCKETS]),
            refusals: Vec::new(),
        }
    }

    fn have(&mut self, now: Instant) {
        let latency = now.saturating_duration_since(self.at.0);
        self.acked += 1;
        self.timed += 1;
        self.last = self.last.max(latency);
        if let Some(count) = self.latencies.get_mut(bucket(latency)) {
            *count += 1;
        }
    }

    /// The latency that this share of the streams which it concerned and which have it did not exceed.
    fn percentile(&self, share: f64) -> Option<Duration> {
        let rank = (share * self.timed as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let counts = self.latencies.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        counts.map(|bucket| Duration::from_secs_f64(FIRST * GROWTH.powi(bucket as i32)).min(self.last))
    }

    fn status(&self) -> ChangeStatus {
        ChangeStatus {
            change: self.change,
            published_at: self.at.1,
            streams: self.streams,
            sent: self.sent,
            acked: self.acked,
            refused: self.refused,
            gone: self.gone,
            p50: self.percentile(0.5),
            p99: self.percentile(0.99),
            last: (self.timed > 0).then_some(self.last),
            refusals: self.refusals.clone(),
        }
    }
}

/// The first bucket whose bound is not below the latency.
fn bucket(latency: Duration) -> usize {
    let steps = (latency.as_secs_f64() / FIRST).ln() / GROWTH.ln();
    // A float becomes the nearest integer that there is, and nothing is 0.
    (steps.ceil() as usize).min(BUCKETS - 1)
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn of(node: &str, type_url: &TypeUrl, nack: &Nack) -> Self {
        Self {
            node: node.to_owned(),
            type_url: type_url.clone(),
            message: nack.message.clone(),
            resources: nack.resources.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn views(names: &[&str]) -> BTreeSet<ViewKey> {
        names.iter().map(|name| ViewKey::new(name)).collect()
    }

    fn counts(status: &ChangeStatus) -> [usize; 5] {
        [status.streams, status.sent, status.acked, status.refused, status.gone]
    }

    fn refusal() -> Refusal {
        let (type_url, message) = (TypeUrl::CLUSTER, Arc::from("bad"));
        Refusal { node: "n".into(), type_url, message, resources: Vec::new() }
    }

    #[test]
    fn a_stream_that_has_a_later_change_has_those_before_it() {
        let (journal, a) = (Journal::default(), ViewKey::new("a"));
        let mut stream = journal.join(|| ());
        for change in 1..=3 {
            journal.announce(ChangeId(change), views(&["a"]), || 1);
        }
        journal.sent(&a, &mut stream, ChangeId(2));
        journal.sent(&a, &mut stream, ChangeId(3));
        journal.acked(&a, &mut stream, ChangeId(3), Instant::now());
        journal.acked(&a, &mut stream, ChangeId(3), Instant::now());
        let seen: Vec<_> = journal.changes().iter().map(counts).collect();
        assert_eq!(seen, [[1, 1, 1, 0, 0]; 3], "each counts once");
        // The fourth holds nothing for it, and the fifth does.
        for change in 4..=5 {
            journal.announce(ChangeId(change), views(&["a"]), || 1);
        }
        journal.held(&a, &mut stream, ChangeId(4));
        journal.sent(&a, &mut stream, ChangeId(5));
        let seen: Vec<_> = journal.changes().iter().take(2).map(counts).collect();
        assert_eq!(seen, [[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]);
    }

    #[test]
    fn a_change_counts_the_streams_of_its_views_and_those_that_were_there() {
        let (journal, a, b) = (Journal::default(), ViewKey::new("a"), ViewKey::new("b"));
        let (mut one, mut other) = (journal.join(|| ()), journal.join(|| ()));
        journal.announce(ChangeId(1), views(&["a"]), || 1);
        let mut late = journal.join(|| ());
        for (view, stream) in [(&a, &mut one), (&b, &mut other), (&a, &mut late)] {
            journal.sent(view, stream, ChangeId(1));
            journal.acked(view, stream, ChangeId(1), Instant::now());
        }
        assert_eq!(counts(&journal.changes()[0]), [1, 1, 1, 0, 0]);
        journal.announce(ChangeId(2), BTreeSet::new(), || panic!("nobody is concerned"));
        assert_eq!(journal.changes().len(), 1);
    }

    #[test]
    fn a_refusal_is_counted_at_the_change_that_brought_it_and_a_loss_at_all_it_did_not_reach() {
        let (journal, a) = (Journal::default(), ViewKey::new("a"));
        let mut stream = journal.join(|| ());
        journal.announce(ChangeId(1), views(&["a"]), || 1);
        journal.announce(ChangeId(2), views(&["a"]), || 1);
        journal.sent(&a, &mut stream, ChangeId(2));
        journal.refused(&a, &mut stream, ChangeId(2), refusal);
        journal.refused(&a, &mut stream, ChangeId(2), refusal);
        journal.left(&a, stream);
        let seen: Vec<_> = journal.changes().iter().map(counts).collect();
        assert_eq!(seen, [[1, 1, 0, 1, 1], [1, 1, 0, 0, 1]]);
        assert_eq!(journal.changes()[0].refusals, [refusal()]);
    }

    #[test]
    fn percentiles_are_right_within_a_tenth_and_never_beyond_the_last() {
        let mut row = Row::new(ChangeId(1), views(&["a"]), 1000);
        let start = row.at.0;
        for n in 1..=1000 {
            row.have(start + Duration::from_micros(n * 100));
        }
        let status = row.status();
        let near = |found: Option<Duration>, wanted: f64| {
            let found = found.unwrap().as_secs_f64();
            assert!((wanted..=wanted * 1.1).contains(&found), "{found} for {wanted}");
        };
        near(status.p50, 0.05);
        near(status.p99, 0.099);
        assert_eq!(status.last, Some(Duration::from_millis(100)));
        // Whom the change passes over makes it no faster.
        let (journal, a) = (Journal::default(), ViewKey::new("a"));
        let mut streams = [journal.join(|| ()), journal.join(|| ())];
        journal.announce(ChangeId(1), views(&["a"]), || 2);
        journal.held(&a, &mut streams[0], ChangeId(1));
        let untold = &journal.changes()[0];
        assert_eq!((untold.acked, untold.p50, untold.last), (1, None, None));
        journal.acked(&a, &mut streams[1], ChangeId(1), now() + Duration::from_secs(1));
        near(journal.changes()[0].p50, 1.0);
        assert_eq!(journal.changes()[0].acked, 2);
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::from_secs(9999))), (0, BUCKETS - 1));
    }

    #[test]
    fn old_changes_are_forgotten() {
        let journal = Journal::default();
        for change in 1..=1000 {
            journal.announce(ChangeId(change), views(&["a"]), || 0);
        }
        let kept = journal.changes();
        assert_eq!((kept.len(), kept[0].change), (KEPT, ChangeId(1000)));
    }
}
