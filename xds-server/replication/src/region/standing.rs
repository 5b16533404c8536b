//! What a replicator is to a destination before it writes anything there: one that follows as always, one that brings back a
//! region that was the owner once, or one that must not begin. Pure.

use super::{
    RegionError,
    own::{self, Held},
};
use crate::{
    checkpoint::{Checkpoint, ClusterId, Role},
    revision::Revision,
};

/// What is known of both sides.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The source's etcd.
    pub source: ClusterId,
    /// The destination's.
    pub destination: ClusterId,
    /// The prefix at the source, and at the destination.
    pub prefixes: (&'a str, &'a str),
    /// The destination's checkpoint.
    pub checkpoint: Option<&'a Checkpoint>,
    /// The source's checkpoint of the other direction: it has one when it was a destination once.
    pub reverse: Option<&'a Checkpoint>,
    /// The source's records.
    pub at_source: &'a [Held],
    /// The destination's records.
    pub at_destination: &'a [Held],
}

/// What a replicator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It follows.
    Follows,
    /// The destination was the source's source until the source was promoted.
    Returns {
        /// Since this epoch.
        epoch: u64,
        /// The revision of the destination that the source had when it was promoted: what came after is the destination's alone.
        safe: Revision,
    },
}

/// Judges; with `overwrite`, as an operator who said that what is there does not count.
///
/// # Errors
/// When two links would write the same keys.
pub fn judge(view: &View<'_>, overwrite: bool) -> Result<Standing, RegionError> {
    let known = view.checkpoint.map_or(0, |known| known.epoch);
    // Where the checkpoint is gone, the record still says how long the destination has been an owner itself.
    let own = view.at_destination.iter().map(|held| (&held.prefix, &held.ownership));
    let own = own.filter(|(prefix, own)| *prefix == view.prefixes.1 && own.cluster == view.destination);
    let owner_since = own.map(|(_, own)| own.epoch).max().unwrap_or(0);
    if let Some(reverse) = view.reverse
        && reverse.role == Role::Primary
        && reverse.source_cluster == view.destination
        && (reverse.prefixes.1.as_str(), reverse.prefixes.0.as_str()) == view.prefixes
        && reverse.epoch > known.max(owner_since)
    {
        return Ok(Standing::Returns { epoch: reverse.epoch, safe: reverse.source_revision });
    }
    // A destination that was promoted says so by its checkpoint, and in better words.
    if view.checkpoint.is_some_and(|known| known.role == Role::Primary) {
        return Ok(Standing::Follows);
    }
    for held in view.at_source {
        let ownership = &held.ownership;
        let promoting = held.prefix == view.prefixes.0
            && view.checkpoint.is_some_and(|known| known.source_cluster == view.source)
            && ownership.epoch > known;
        if ownership.cluster == view.destination && own::overlap(&held.prefix, view.prefixes.0) && !promoting
        {
            return Err(RegionError::Overlap {
                prefix: held.prefix.clone(),
                region: ownership.region.to_string(),
                epoch: ownership.epoch,
                key: own::key(&held.prefix),
            });
        }
    }
    for held in view.at_destination {
        let ownership = &held.ownership;
        if !own::overlap(&held.prefix, view.prefixes.1) {
            continue;
        }
        if held.prefix != view.prefixes.1 {
            return Err(RegionError::Taken {
                prefix: held.prefix.clone(),
                region: ownership.region.to_string(),
                key: own::key(&held.prefix),
            });
        }
        if ownership.cluster == view.destination && ownership.epoch >= known.max(1) && !overwrite {
            return Err(RegionError::Owned {
                prefix: held.prefix.clone(),
                region: ownership.region.to_string(),
                epoch: ownership.epoch,
            });
        }
    }
    Ok(Standing::Follows)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::region::{Ownership, Region};

    const A: ClusterId = ClusterId(0xa);
    const B: ClusterId = ClusterId(0xb);

    fn held(prefix: &str, cluster: ClusterId, epoch: u64) -> Held {
        let ownership =
            Ownership::new(Region::of_cluster(cluster), cluster, epoch, "eve", Timestamp::UNIX_EPOCH);
        Held { prefix: prefix.to_owned(), ownership, mod_revision: 7 }
    }

    fn checkpoint(source: ClusterId, destination: ClusterId, epoch: u64, role: Role) -> Checkpoint {
        let prefixes = ("/a/".to_owned(), "/a/".to_owned());
        let genesis = Checkpoint::genesis(source, destination, prefixes, Uuid::nil());
        Checkpoint { epoch, role, source_revision: Revision(9), ..genesis }
    }

    /// A replicator from A to B over `/a/`.
    fn view<'a>(at_source: &'a [Held], at_destination: &'a [Held]) -> View<'a> {
        View {
            source: A,
            destination: B,
            prefixes: ("/a/", "/a/"),
            checkpoint: None,
            reverse: None,
            at_source,
            at_destination,
        }
    }

    #[test]
    fn a_new_link_follows() {
        assert_eq!(judge(&view(&[], &[]), false), Ok(Standing::Follows));
        let (own, there) = ([held("/a/", A, 1)], [held("/a/", A, 1), held("/b/", B, 4)]);
        assert_eq!(judge(&view(&own, &there), false), Ok(Standing::Follows));
    }

    #[test]
    fn two_directions_may_not_overlap() {
        for prefix in ["/a/", "/a/b/", "/"] {
            let back = [held(prefix, B, 1)];
            let error = judge(&view(&back, &[]), true).unwrap_err();
            assert!(matches!(error, RegionError::Overlap { .. }), "{error}");
        }
        assert_eq!(judge(&view(&[held("/b/", B, 1)], &[]), false), Ok(Standing::Follows));
    }

    #[test]
    fn two_links_into_one_destination_may_not_overlap() {
        let error = judge(&view(&[], &[held("/a/b/", ClusterId(3), 1)]), true).unwrap_err();
        assert!(matches!(&error, RegionError::Taken { key, .. } if key.ends_with("/own//a/b/")), "{error}");
    }

    #[test]
    fn a_destination_that_owns_the_prefix_is_left_alone_unless_told_otherwise() {
        let own = [held("/a/", B, 3)];
        assert!(matches!(judge(&view(&[], &own), false), Err(RegionError::Owned { epoch: 3, .. })));
        assert_eq!(judge(&view(&[], &own), true), Ok(Standing::Follows));
    }

    #[test]
    fn a_promotion_under_way_does_not_stop_its_own_replicator() {
        let (known, fenced) = (checkpoint(A, B, 1, Role::Replica), [held("/a/", B, 2)]);
        let view = View { checkpoint: Some(&known), ..view(&fenced, &[]) };
        assert_eq!(judge(&view, false), Ok(Standing::Follows));
    }

    #[test]
    fn an_old_owner_returns_when_the_new_one_says_so_at_a_later_epoch() {
        let promoted = checkpoint(B, A, 4, Role::Primary);
        let none = View { reverse: Some(&promoted), ..view(&[], &[]) };
        let returns = Ok(Standing::Returns { epoch: 4, safe: Revision(9) });
        assert_eq!(judge(&none, false), returns);
        let before = checkpoint(A, B, 3, Role::Primary);
        assert_eq!(judge(&View { checkpoint: Some(&before), ..none }, false), returns);
        let since = checkpoint(A, B, 4, Role::Replica);
        assert_eq!(judge(&View { checkpoint: Some(&since), ..none }, false), Ok(Standing::Follows));
        let of_another = checkpoint(ClusterId(3), A, 4, Role::Primary);
        assert_eq!(judge(&View { reverse: Some(&of_another), ..none }, false), Ok(Standing::Follows));
    }

    /// The destination was the source of a replica that was promoted at epoch 2, and took the prefix back at 3.
    #[test]
    fn an_owner_that_lost_its_checkpoint_is_no_former_owner() {
        let (own, stale) = ([held("/a/", B, 3)], checkpoint(B, A, 2, Role::Primary));
        let lost = View { reverse: Some(&stale), ..view(&[], &own) };
        assert!(!matches!(judge(&lost, false), Ok(Standing::Returns { .. })));
        let later = checkpoint(B, A, 4, Role::Primary);
        let returns = View { reverse: Some(&later), ..view(&[], &own) };
        assert!(matches!(judge(&returns, false), Ok(Standing::Returns { epoch: 4, .. })));
    }
}
