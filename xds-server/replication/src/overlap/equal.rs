//! Whether two regions that both write hold the same: both sides are read, and keys that differ are looked at again until they do
//! not, are in an open conflict, or have had long enough. Neither side is ever a revision of the other, so that there is no one
//! moment to compare at; what was written a moment ago is on its way. Changes nothing.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::etcd::{self, Names};
use crate::{
    compare::{Comparison, Difference},
    digest::bucket,
    error::ReplicationError,
    listing::Listing,
    revision::Revision,
    run::Context,
    verify::{Example, Proof},
};

/// For what is on its way to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at keys that differ.
const LOOK: Duration = Duration::from_millis(200);

/// Compares both sides, naming at most `examples` keys.
pub(crate) async fn compare(
    context: &Context,
    examples: usize,
    begun: Instant,
) -> Result<Proof, ReplicationError> {
    let (rules, names) = (&context.options.rules, Names::new(&context.options));
    let (source, here) = (context.source.connect().await?, context.destination.member().await?);
    let at = Revision(context.destination.read().await?.1);
    let mut comparison = Comparison::new(
        rules,
        Listing::gently(&context.source, &source, rules.source_prefix(), source.head),
        Listing::start(&context.destination.cluster, &here, rules.destination_prefix(), at),
    );
    let mut differ = BTreeSet::new();
    while let Some(finding) = comparison.next().await? {
        // A lease is of the region where it was granted, and stays there.
        if finding.difference != Difference::Lease
            && let Some(rest) = finding.change.key.strip_prefix(names.here.as_slice())
        {
            differ.insert(rest.to_vec());
        }
    }
    let (mut expected, mut found) = (comparison.expected, comparison.found);
    let (looked, mut conflicts) = (Instant::now(), 0);
    let (mut named, mut keys_named) = (Vec::new(), Vec::new());
    while !differ.is_empty() {
        let rests: Vec<Vec<u8>> = differ.into_iter().collect();
        let open = etcd::exist(&context.destination.cluster, &here, &names.open, &rests).await?;
        let there = etcd::read(&context.source, &source, (&names.there, &names.tags), &rests).await?;
        let ours =
            etcd::read(&context.destination.cluster, &here, (&names.here, &names.tags), &rests).await?;
        (conflicts, named, keys_named, differ) = (0, Vec::new(), Vec::new(), BTreeSet::new());
        for (rest, (open, (there, ours))) in
            rests.into_iter().zip(open.into_iter().zip(there.into_iter().zip(ours)))
        {
            let key = etcd::under(&names.here, &rest);
            for (ledger, value) in [(&mut expected, there.value()), (&mut found, ours.value())] {
                match value {
                    Some(value) => ledger.put(&key, value),
                    None => ledger.delete(&key),
                }
            }
            if there.value() == ours.value() {
                continue;
            }
            differ.insert(rest);
            if open {
                conflicts += 1;
                continue;
            }
            named.push(Example {
                key: key.escape_ascii().to_string(),
                difference: match (there.data.is_some(), ours.data.is_some()) {
                    (true, false) => "missing",
                    (false, true) => "extra",
                    _ => "value",
                },
                bucket: bucket(&key),
            });
            keys_named.push(key);
        }
        // Nothing comes of itself where all that is left is in conflict.
        if named.is_empty() || looked.elapsed() >= PATIENCE {
            break;
        }
        sleep(LOOK).await;
    }
    let differences = named.len() as u64;
    named.truncate(examples);
    keys_named.truncate(examples);
    Ok(Proof {
        source_revision: source.head,
        destination_revision: at,
        keys: expected.keys(),
        source_digest: expected.digest(),
        destination_digest: found.digest(),
        checkpoint_digest: None,
        buckets: expected.differing_buckets(&found),
        differences,
        conflicts,
        examples: named,
        keys_named,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
