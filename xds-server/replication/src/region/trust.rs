//! Whether a source that answers is still the etcd that the destination was made from. One that was rebuilt, or restored from a
//! snapshot, may have its former ID and by now a later revision: to make the destination equal to it would take away what it has
//! lost. Reads both etcds and the change log; takes no lock and changes nothing.
//!
//! ```text
//!  asked                                                                                answer
//!  the source, as of the checkpoint's revision: has it the checkpoint's digest?          yes: trusted    no: refused
//!  ... compacted; the last put in a log that goes as far: has the source exactly it?     yes: trusted    it contradicts: refused
//!  ... written since, or no log here                                                     refused: nobody can tell
//! ```

use super::{RegionError, records, unless_compacted};
use crate::{
    anchors::Word,
    checkpoint::Checkpoint,
    client::{EtcdError, Member},
    compare::{Comparison, Difference},
    error::ReplicationError,
    listing::Listing,
    revision::Revision,
    run::{Context, blocking},
    spool::History,
    witness::Witness,
};

/// Checkpoints that are asked about while the source compacts behind its latest revision.
const TRIES: u32 = 8;

// === impl Context ===

impl Context {
    /// Makes sure that the source has, or had, what the destination took from it.
    ///
    /// # Errors
    /// That it had something else, or that nothing tells.
    pub(super) async fn trust(&self, source: &Member) -> Result<(), ReplicationError> {
        let mut known = Revision(0);
        for _ in 0..TRIES {
            let (found, at) = self.destination.read().await?;
            let Some((checkpoint, _)) = records::decode(found)? else { return Ok(()) };
            let taken = checkpoint.source_revision;
            // Nothing was ever taken.
            if taken == Revision(0) {
                return Ok(());
            }
            // No replicator has brought a later one.
            if taken == known {
                break;
            }
            known = taken;
            match unless_compacted(Box::pin(self.had(source, &checkpoint, Revision(at))).await)?.flatten() {
                Some(true) => return Ok(()),
                Some(false) => {
                    let why = "what it had then is not what the destination took from it. It was rebuilt, or restored from a snapshot; or \
                               other keys are asked for than its replicator does (replicate.include, exclude, from_revision)";
                    return Err(RegionError::SourceDiffers { known, why: why.to_owned() }.into());
                }
                None => {}
            }
        }
        self.ask_witness(source, known).await
    }

    /// Whether the source had at the checkpoint's revision what the checkpoint says of it; `None` where that says nothing.
    pub(crate) async fn had(
        &self,
        source: &Member,
        checkpoint: &Checkpoint,
        at: Revision,
    ) -> Result<Option<bool>, EtcdError> {
        let (rules, here) = (&self.options.rules, self.destination.member().await?);
        let mut comparison = Comparison::new(
            rules,
            Listing::gently(&self.source, source, rules.source_prefix(), checkpoint.source_revision),
            Listing::start(&self.destination.cluster, &here, rules.destination_prefix(), at),
        );
        let mut differs = false;
        while let Some(finding) = comparison.next().await? {
            differs |= finding.difference != Difference::Lease;
        }
        if rules.deletes() {
            return Ok(Some(comparison.expected.digest() == checkpoint.digest));
        }
        // Where deletes are not replicated the destination has more, and the digest is of all that. Between two revisions it differs
        // for that alone.
        Ok(checkpoint.torn.is_none().then_some(!differs))
    }

    /// Whether the source has everything that the destination has, so that to make the two equal takes nothing away.
    pub(crate) async fn loses_nothing(&self, source: &Member, at: Revision) -> Result<bool, EtcdError> {
        let (rules, here) = (&self.options.rules, self.destination.member().await?);
        let mut comparison = Comparison::new(
            rules,
            Listing::gently(&self.source, source, rules.source_prefix(), source.head),
            Listing::start(&self.destination.cluster, &here, rules.destination_prefix(), at),
        );
        while let Some(finding) = comparison.next().await? {
            if matches!(finding.difference, Difference::Value | Difference::Extra) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the log here has of the source, which compacted what would tell.
    async fn ask_witness(&self, source: &Member, known: Revision) -> Result<(), ReplicationError> {
        let directory = self.options.spool.clone();
        let log = blocking(move || {
            let Some(log) = History::open(directory)? else { return Ok(None) };
            let witness = Witness::last(log.recent())?;
            Ok(Some((log, witness)))
        });
        // A log that ends before the checkpoint knows nothing of what came between.
        if let Some((log, Some(witness))) = log.await?
            && log.cluster == source.cluster
            && log.through() >= known
        {
            match witness.ask(&self.source, source).await? {
                Word::Same(_) => return Ok(()),
                Word::Other(why) => return Err(RegionError::SourceDiffers { known, why }.into()),
                Word::Silent => {}
            }
        }
        Err(RegionError::SourceForgot { known }.into())
    }
}
