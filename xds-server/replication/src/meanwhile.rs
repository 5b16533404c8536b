//! While the destination does not answer: follows the source into the spool all the same, so that what the source acknowledges is
//! here when its region dies. Writes to neither etcd, and drops nothing of the log.
//!
//! It begins where the log ends, which needs no word of the destination; an empty log has no such place, and waits for the first
//! comparison. It ends when the destination answers: then the replicator begins again, with a log that reaches further.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    client::EtcdError,
    destination::Destination,
    error::ReplicationError,
    revision::Revision,
    run::{Context, Replicator},
    source::{Feed, Follow, SourceNews},
    spool::SpoolError,
};

/// Between two questions whether the destination is back.
const ASK: Duration = Duration::from_millis(500);

/// Whether nothing can be done but to wait for the destination.
pub(crate) fn is_away(error: &ReplicationError) -> bool {
    matches!(error, ReplicationError::Etcd(EtcdError::Unreachable { side: "destination", .. }))
}

// === impl Replicator ===

impl Replicator {
    /// Follows the source until the destination answers, or `cancel`.
    ///
    /// # Errors
    /// When the source is not the one that it was, or the disk fails.
    pub(crate) async fn follow_meanwhile(
        &mut self,
        cancel: &CancellationToken,
    ) -> Result<(), ReplicationError> {
        let witness = self.witness().await?;
        let Some(spool) = self.spool.take_if(|spool| spool.tail().revision > Revision(0)) else {
            return Ok(());
        };
        let context = self.context.clone();
        let follow = Follow {
            cluster: context.source.clone(),
            id: spool.cluster(),
            prefix: context.options.rules.source_prefix().to_vec(),
            backlog: context.options.backlog,
            ask_every: (context.options.heartbeat / 2).max(Duration::from_millis(200)),
            known: Revision(0),
            witness,
        };
        tracing::warn!(
            after = spool.tail().revision.0,
            "the destination does not answer; following the source into the spool meanwhile"
        );
        let tail = spool.follow();
        let mut feed = Feed::start(follow, spool, Revision(0));
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            () = answers(&context.destination) => Ok(()),
            ended = context.hear_meanwhile(&mut feed) => ended,
        };
        let through = tail.borrow().revision.0;
        self.spool = feed.stop().await;
        tracing::info!(through, "let go of the source to begin again");
        ended
    }
}

// === impl Context ===

impl Context {
    /// What the source does meanwhile, until that is beyond mending.
    async fn hear_meanwhile(&self, feed: &mut Feed) -> Result<(), ReplicationError> {
        let metrics = &self.metrics;
        let mut lost = false;
        while let Some(news) = feed.news.recv().await {
            match news {
                SourceNews::Connected { head } => {
                    lost = false;
                    metrics.connected("source", true);
                    self.lacks(head);
                }
                SourceNews::Progress { revision, .. } => self.lacks(revision),
                SourceNews::Lost(why) => {
                    metrics.connected("source", false);
                    if !std::mem::replace(&mut lost, true) {
                        tracing::warn!("failed to {why}; trying again");
                    }
                }
                SourceNews::Compare(why) => {
                    tracing::warn!(why, "the log cannot go on before both sides were compared");
                }
                SourceNews::Spool(error @ SpoolError::Full { .. }) => {
                    tracing::warn!("failed to {error}; letting go of the source until it answers");
                }
                SourceNews::Strange(why) => return Err(ReplicationError::Strange(why)),
                SourceNews::Spool(error) => return Err(error.into()),
            }
            metrics.spool_bytes.set(i64::try_from(feed.spool_bytes()).unwrap_or(i64::MAX));
            metrics.spool_oldest.set(feed.spool_oldest_ms() as f64 / 1000.0);
        }
        // It is followed no more, and that was said why: what is left is the destination's return.
        std::future::pending().await
    }

    /// Tells how far the destination is behind, where this process has seen what it has.
    fn lacks(&self, head: Revision) {
        let held = Revision(self.metrics.revision.get());
        if held > Revision(0) {
            self.metrics.behind.set(i64::try_from(head.since(held)).unwrap_or(i64::MAX));
        }
    }
}

/// Waits until the destination answers, whatever it says.
async fn answers(destination: &Destination) {
    while let Err(EtcdError::Unreachable { .. }) = destination.read().await {
        tokio::time::sleep(ASK).await;
    }
}
