//! The task that follows an etcd prefix. Carries out what [`super::session`] decides and publishes what comes of it.

use std::{future::pending, time::Duration};

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::FutureExt;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Publisher, Source,
    session::{Event, Next, Session},
};
use crate::{
    backoff,
    etcd::{EtcdOptions, within},
    registry::Event as Change,
    saved::Saved,
};

/// Changes that arrived together are published together, for at most this many messages at a time.
const BURST: usize = 256;

/// Follows the prefix until `cancel`: a listing at one revision, then every change from there on. What was published last stays
/// good while etcd is away; what was `saved` by an earlier run is published when etcd is away from the start. Must be called
/// within a tokio runtime.
pub fn watch_etcd(options: EtcdOptions, saved: Option<&Saved>, cancel: CancellationToken) -> Source {
    let (publisher, source) = Publisher::new(Timestamp::now());
    let status = source.status.borrow().clone();
    let task = Follow { options, publisher, session: Session::new(status, saved), member: 0, client: None };
    tokio::spawn(async move {
        cancel.run_until_cancelled(task.run()).await;
    });
    source
}

struct Follow {
    options: EtcdOptions,
    publisher: Publisher,
    session: Session,
    /// The member to try first; moves on with each failure.
    member: usize,
    /// The client of the listing, which the watch goes on with.
    client: Option<etcd_client::Client>,
}

// === impl Follow ===

impl Follow {
    async fn run(mut self) {
        let mut next = Next::List;
        let mut stream: Option<WatchStream> = None;
        loop {
            let event = match next {
                Next::Wait(time) => {
                    stream = None;
                    tokio::time::sleep(time).await;
                    Event::Elapsed
                }
                Next::List => self.list().await,
                Next::Watch { from, until } => match &mut stream {
                    Some(open) => self.changes(open, until).await,
                    None => match self.open(from).await {
                        Ok(open) => {
                            stream = Some(open);
                            Event::Watching
                        }
                        Err(why) => Event::Failed(why),
                    },
                },
            };
            if matches!(event, Event::Failed(_)) {
                self.member = self.member.wrapping_add(1);
                self.client = None;
            }
            next = self.step(event);
        }
    }

    fn step(&mut self, event: Event) -> Next {
        let (next, publish) = self.session.step(Timestamp::now(), event, backoff::coin());
        if publish {
            self.publisher.topology(self.session.registry().topology());
        }
        self.publisher.status(self.session.status().clone());
        next
    }

    async fn list(&mut self) -> Event {
        let listed = async {
            let client = self.options.connect_from(self.member).await?;
            let listing = self.options.list(&client, "").await?;
            Ok::<_, crate::etcd::EtcdError>((client, listing))
        };
        match listed.await {
            Ok((client, listing)) => {
                self.client = Some(client);
                Event::Listed(listing)
            }
            Err(error) => Event::Failed(error.to_string()),
        }
    }

    async fn open(&mut self, from: i64) -> Result<WatchStream, String> {
        let Some(client) = &self.client else { return Err("watch etcd: the connection is gone".to_owned()) };
        // No fragments: a revision then comes in one message, and half a transaction is never published.
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let mut watcher = EtcdOptions::watcher(client);
        let prefix = self.options.prefix.as_str();
        let opening = within(self.options.request_timeout, watcher.watch(prefix, Some(options)));
        opening.await.map_err(|error| error.to_string())
    }

    /// Waits for changes and takes all that are there.
    async fn changes(&self, stream: &mut WatchStream, until: Option<Timestamp>) -> Event {
        let first = tokio::select! {
            message = stream.message() => message,
            () = sleep_until(until) => return Event::Elapsed,
        };
        let (mut changes, mut revision) = (Vec::new(), 0);
        let mut message = Some(first);
        let mut taken = 0;
        while let Some(now) = message {
            match now {
                Ok(Some(response)) if response.canceled() => return Event::Failed(ended(&response)),
                Ok(Some(response)) => self.take(&response, &mut changes, &mut revision),
                Ok(None) => return Event::Failed("watch etcd: it ended the watch without a word".to_owned()),
                Err(error) => {
                    let why = crate::etcd::EtcdError::from(error);
                    return Event::Failed(format!("watch etcd: could not {why}"));
                }
            }
            taken += 1;
            message = if taken < BURST { stream.message().now_or_never() } else { None };
        }
        Event::Changed(changes, revision)
    }

    fn take(&self, response: &WatchResponse, changes: &mut Vec<Change>, revision: &mut i64) {
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let (key, mod_revision) = (self.options.strip(kv.key()), kv.mod_revision());
            *revision = mod_revision.max(*revision);
            changes.push(match event.event_type() {
                EventType::Put => Change::Put { key, value: kv.value().to_vec(), mod_revision },
                EventType::Delete => Change::Delete { key, mod_revision },
            });
        }
    }
}

/// Why etcd ended a watch.
fn ended(response: &WatchResponse) -> String {
    match (response.compact_revision(), response.cancel_reason()) {
        (0, "") => "watch etcd: it cancelled the watch without a reason".to_owned(),
        (0, why) => format!("watch etcd: it cancelled the watch: {why}"),
        (at, _) => format!("watch etcd: revisions before {at} are compacted; listing again"),
    }
}

async fn sleep_until(until: Option<Timestamp>) {
    match until {
        None => pending().await,
        Some(until) => {
            let left = until.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
    }
}
