//! The proof, for people and for the scrub: both sides read for real, at the one revision at which they must be equal, and
//! compared key by key. And the short answer, of the checkpoint alone. Changes nothing.

use std::time::Duration;

use prometheus::Registry;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    checkpoint::Checkpoint,
    client::EtcdError,
    compare::{Comparison, Difference},
    digest::{Digest, bucket},
    error::ReplicationError,
    listing::Listing,
    metrics::Metrics,
    options::{ReplicationOptions, prefixes},
    overlap::equal,
    region::{Ownership, Unfinished, records, tell_apart},
    revision::Revision,
    run::Context,
    watch::now_ms,
};

/// For a destination to be whole, before the comparison gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a comparison came to.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// The source's revision that was read.
    pub source_revision: Revision,
    /// The destination's revision that was read.
    pub destination_revision: Revision,
    /// Keys of the source that are replicated.
    pub keys: u64,
    /// The source's digest.
    pub source_digest: Digest,
    /// The destination's digest.
    pub destination_digest: Digest,
    /// What the checkpoint says; `None` where both regions write.
    pub checkpoint_digest: Option<Digest>,
    /// Buckets, of 256, in which the sides differ.
    pub buckets: Vec<usize>,
    /// Keys that differ.
    pub differences: u64,
    /// Keys that differ because both regions wrote them and nobody decided yet.
    pub conflicts: u64,
    /// The first of them.
    pub examples: Vec<Example>,
    /// The same, as they are.
    #[serde(skip)]
    pub keys_named: Vec<Vec<u8>>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// A key that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// The destination's key, printable.
    pub key: String,
    /// `missing`, `value`, `lease` or `extra`.
    pub difference: &'static str,
    /// Its bucket.
    pub bucket: usize,
}

/// What a destination says of itself, and what the source says now.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The stream.
    pub stream: String,
    /// The checkpoint; `None` before the first replicator.
    pub checkpoint: Option<Checkpoint>,
    /// The source's latest revision, if it answers.
    pub source_head: Option<Revision>,
    /// Revisions between the two, those of other prefixes included.
    pub behind: Option<u64>,
    /// How old the destination's state may be, in milliseconds, by the time at which it was known to be the source's.
    pub age_ms: Option<u64>,
    /// Why the source did not answer.
    pub source_error: Option<String>,
    /// Who owns the prefix, as the source says; `None` where it has no record, does not answer, or does not let us see it.
    pub owner_at_source: Option<Ownership>,
    /// The same as the destination says. Where they differ a promotion is under way, or did not come to its end.
    pub owner_at_destination: Option<Ownership>,
    /// A promotion that fenced the source and has not told it that it came to its end.
    pub unfinished: Option<Unfinished>,
}

/// Compares both sides, naming at most `examples` keys.
///
/// # Errors
/// When a side cannot be read, nothing was ever replicated here, or the destination is not whole for longer than it may take.
pub async fn verify(options: ReplicationOptions, examples: usize) -> Result<Proof, ReplicationError> {
    verify_saying(options, examples, |_| {}).await
}

/// [`verify`], which tells `waits` once what it waits for, if it has to.
///
/// # Errors
/// As [`verify`].
pub async fn verify_saying(
    options: ReplicationOptions,
    examples: usize,
    waits: impl FnMut(&str),
) -> Result<Proof, ReplicationError> {
    options.validate()?;
    let context = context(options)?;
    // No waiting makes a whole destination of one that no replicator ever had. Where both regions write there is no checkpoint to miss.
    if context.options.overlap.is_none() && context.destination.read().await?.0.is_none() {
        return Err(ReplicationError::NothingHere { stream: context.options.stream.clone() });
    }
    compare(&context, examples, waits).await
}

/// Reads the checkpoint, and the source's revision beside it.
///
/// # Errors
/// When the destination cannot be read, or its checkpoint is damaged.
pub async fn status(options: ReplicationOptions) -> Result<Status, ReplicationError> {
    options.validate()?;
    let context = context(options)?;
    let (source, found) = tokio::join!(context.source.connect(), context.destination.read());
    let checkpoint = match found?.0 {
        Some((bytes, _)) => Some(Checkpoint::decode(&bytes)?),
        None => None,
    };
    let (from, to) = prefixes(&context.options.rules);
    let owner_at_source = match &source {
        Ok(member) => records::owner(&context.source, member, &from).await?,
        Err(_) => None,
    };
    let here = context.destination.member().await?;
    let owner_at_destination = records::owner(&context.destination.cluster, &here, &to).await?;
    let (source_head, source_error) = match source {
        Ok(member) => (Some(member.head), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let known = checkpoint.as_ref().filter(|known| known.source_revision.0 > 0);
    let unfinished = checkpoint.as_ref().and_then(|known| Unfinished::seen(owner_at_source.as_ref(), known));
    Ok(Status {
        stream: context.options.stream.clone(),
        behind: known.zip(source_head).map(|(known, head)| head.since(known.source_revision)),
        age_ms: known.map(|known| now_ms().saturating_sub(known.source_ms)),
        checkpoint,
        source_head,
        source_error,
        unfinished,
        owner_at_source,
        owner_at_destination,
    })
}

pub(crate) fn context(options: ReplicationOptions) -> Result<Context, ReplicationError> {
    let metrics = Metrics::new(&Registry::new())
        .map_err(|error| crate::options::OptionsError::Setting(error.to_string()))?;
    Ok(Context::new(options, metrics))
}

pub(crate) async fn compare(
    context: &Context,
    examples: usize,
    mut waits: impl FnMut(&str),
) -> Result<Proof, ReplicationError> {
    let (begun, mut said) = (Instant::now(), false);
    if context.options.overlap.is_some() {
        return equal::compare(context, examples, begun).await;
    }
    loop {
        let why = match once(context, examples, begun).await {
            Ok(Some(proof)) => return Ok(proof),
            Ok(None) if begun.elapsed() < PATIENCE => {
                "the destination is between two revisions of the source"
            }
            // The source compacts just behind its latest revision: the next checkpoint is not compacted yet.
            Err(ReplicationError::Etcd(EtcdError::Compacted { .. })) if begun.elapsed() < PATIENCE => {
                "the source has compacted the revision that the destination is at"
            }
            Ok(None) => {
                let why =
                    "it has been between two revisions of the source, or without a replicator, all the time";
                return Err(EtcdError::Refused { side: "destination", why: why.to_owned() }.into());
            }
            Err(error) => return Err(error),
        };
        if !std::mem::replace(&mut said, true) {
            let seconds = PATIENCE.as_secs();
            waits(&format!("{why}: waiting, {seconds} s at most, for a replicator to bring it further"));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// One try; `None` while the destination is not whole.
async fn once(context: &Context, examples: usize, begun: Instant) -> Result<Option<Proof>, ReplicationError> {
    let (found, at) = context.destination.read().await?;
    let Some((bytes, _)) = found else { return Ok(None) };
    let checkpoint = Checkpoint::decode(&bytes)?;
    if !checkpoint.is_whole() {
        return Ok(None);
    }
    let (source, member) = (context.source.connect().await?, context.destination.member().await?);
    tell_apart(source.cluster, member.cluster)?;
    let (rules, at) = (&context.options.rules, Revision(at));
    let mut comparison = Comparison::new(
        rules,
        Listing::gently(&context.source, &source, rules.source_prefix(), checkpoint.source_revision),
        Listing::start(&context.destination.cluster, &member, rules.destination_prefix(), at),
    );
    let (mut differences, mut named, mut keys_named) = (0, Vec::new(), Vec::new());
    while let Some(finding) = comparison.next().await? {
        differences += 1;
        if named.len() < examples {
            named.push(Example {
                key: finding.change.key.escape_ascii().to_string(),
                difference: match finding.difference {
                    Difference::Missing => "missing",
                    Difference::Value => "value",
                    Difference::Lease => "lease",
                    Difference::Extra => "extra",
                },
                bucket: bucket(&finding.change.key),
            });
            keys_named.push(finding.change.key);
        }
    }
    let (expected, found) = (comparison.expected, comparison.found);
    Ok(Some(Proof {
        source_revision: checkpoint.source_revision,
        destination_revision: at,
        keys: expected.keys(),
        source_digest: expected.digest(),
        destination_digest: found.digest(),
        checkpoint_digest: Some(checkpoint.digest),
        buckets: expected.differing_buckets(&found),
        differences,
        conflicts: 0,
        examples: named,
        keys_named,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}
