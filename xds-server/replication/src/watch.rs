//! One watch of a prefix until it breaks: whole revisions in order, signs of life, and why it ended. Reconnecting is the
//! caller's.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use etcd_client::{EventType, WatchOptions, WatchStream};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    assemble::{Assembler, OrderViolation},
    client::{Cluster, EtcdError, Member, after_prefix, range_start},
    revision::{Change, Op, Revision, SourceRevision},
};

/// A watch that stays silent this long after it was asked for its progress is dead.
const SILENCE: Duration = Duration::from_secs(8);

/// A watch.
pub(crate) struct Watch {
    cluster: Arc<Cluster>,
    stream: WatchStream,
    assembler: Assembler,
    ready: VecDeque<News>,
    /// Between two questions for progress.
    ask_every: Duration,
    heard: Instant,
    asked: bool,
}

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Whole revisions, in order.
    Revisions(Vec<SourceRevision>),
    /// There is nothing else up to this revision, if the server's version is to be trusted with that.
    Progress(Revision),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchEnd {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(transparent)]
    Order(#[from] OrderViolation),
    /// What it should begin with is gone.
    #[error("watch the {side} from revision {from}: what is before {compacted} is compacted")]
    Compacted { side: &'static str, from: Revision, compacted: Revision },
}

// === impl Watch ===

impl Watch {
    /// Watches everything under `prefix` that comes after `after`.
    pub(crate) async fn open(
        cluster: &Arc<Cluster>,
        member: &Member,
        prefix: &[u8],
        after: Revision,
        ask_every: Duration,
    ) -> Result<Self, WatchEnd> {
        let options = WatchOptions::new()
            .with_range(after_prefix(prefix))
            .with_start_revision(after.next().0)
            // Without fragments a long history comes in messages over gRPC's limits, and in one piece in memory.
            .with_fragment();
        let opening = async { member.watch().watch(range_start(prefix), Some(options)).await };
        let stream = cluster.ask(opening).await?;
        Ok(Self {
            cluster: Arc::clone(cluster),
            stream,
            assembler: Assembler::after(after),
            ready: VecDeque::new(),
            ask_every,
            heard: Instant::now(),
            asked: false,
        })
    }

    /// What comes next. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> Result<News, WatchEnd> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return Ok(news);
            }
            let wait = if self.asked { SILENCE } else { self.ask_every };
            let message = tokio::select! {
                biased;
                message = self.stream.message() => message,
                () = tokio::time::sleep_until(self.heard + wait) => {
                    if self.asked {
                        let silent = format!("its watch has been silent for {} s", SILENCE.as_secs());
                        return Err(self.cluster.unreachable(silent).into());
                    }
                    self.asked = true;
                    self.heard = Instant::now();
                    if let Err(error) = self.stream.request_progress().await {
                        return Err(self.cluster.error(error).into());
                    }
                    continue;
                }
            };
            (self.heard, self.asked) = (Instant::now(), false);
            let response = message
                .map_err(|error| self.cluster.error(error))?
                .ok_or_else(|| self.cluster.unreachable("it ended the watch without a word".to_owned()))?;
            if response.canceled() {
                return Err(self.ended(&response));
            }
            let progress = response.events().is_empty() && !response.created();
            let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            let seen_ms = now_ms();
            let response = response.0;
            let events = response.events.into_iter().filter_map(change);
            let whole = self.assembler.take(events, response.fragment, seen_ms)?;
            if !whole.is_empty() {
                self.ready.push_back(News::Revisions(whole));
            }
            if progress && !self.assembler.is_open() {
                self.ready.push_back(News::Progress(Revision(revision)));
            }
        }
    }

    fn ended(&self, response: &etcd_client::WatchResponse) -> WatchEnd {
        let (side, compacted) = (self.cluster.side(), Revision(response.compact_revision()));
        if compacted.0 > 0 {
            return WatchEnd::Compacted { side, from: self.assembler.last().next(), compacted };
        }
        let why = match response.cancel_reason() {
            "" => "it cancelled the watch without a reason".to_owned(),
            why => format!("it cancelled the watch: {why}"),
        };
        if why.contains("permission denied") {
            return EtcdError::Denied { side, why }.into();
        }
        self.cluster.unreachable(why).into()
    }
}

/// The wall clock in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// An event of a kind that nobody knows yet cannot be replicated; it is left out, and the digests will tell.
fn change(event: etcd_client::proto::PbEvent) -> Option<(Revision, Change)> {
    let kv = event.kv?;
    let op = match EventType::try_from(event.r#type) {
        Ok(EventType::Put) => Op::Put { value: kv.value, lease: kv.lease },
        Ok(EventType::Delete) => Op::Delete,
        Err(_) => return None,
    };
    Some((Revision(kv.mod_revision), Change { key: kv.key, op }))
}
