//! A promotion that fenced its source and has not said that it came to its end: it is under way, or it was cut off. Told from what both
//! etcds say; what to do about it is an operator's, and each way is one command. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::{Ownership, Region};
use crate::checkpoint::{Checkpoint, Role};

/// A promotion whose source does not know that it came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    /// Whose promotion.
    pub region: Region,
    /// The epoch that it gave it.
    pub epoch: u64,
    /// By whom.
    pub actor: String,
    /// When the source was fenced.
    pub since: Timestamp,
    /// Whether the destination was taken: it is the owner then, and only the source was not told. Otherwise nobody may write.
    pub taken: bool,
}

// === impl Unfinished ===

impl Unfinished {
    /// What a source's record says beside the checkpoint of its destination.
    pub fn seen(fence: Option<&Ownership>, destination: &Checkpoint) -> Option<Self> {
        let fence =
            fence.filter(|fence| fence.pending && fence.cluster == destination.destination_cluster)?;
        Some(Self {
            region: fence.region.clone(),
            epoch: fence.epoch,
            actor: fence.actor.clone(),
            since: fence.since,
            taken: destination.role == Role::Primary && destination.epoch >= fence.epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::checkpoint::ClusterId;

    #[test]
    fn a_fence_that_nobody_confirmed_is_told_with_what_became_of_it() {
        let (west, east) = (ClusterId(1), ClusterId(2));
        let of = |epoch, role| Checkpoint {
            epoch,
            role,
            ..Checkpoint::genesis(west, east, ("/a/".to_owned(), "/a/".to_owned()), Uuid::nil())
        };
        let done = Ownership::new(Region::new("east").unwrap(), east, 2, "eve", Timestamp::UNIX_EPOCH);
        let fence = Ownership { pending: true, ..done.clone() };
        let seen = |fence: &Ownership, epoch, role| {
            Unfinished::seen(Some(fence), &of(epoch, role)).map(|it| it.taken)
        };
        assert_eq!(seen(&fence, 1, Role::Replica), Some(false));
        assert_eq!(seen(&fence, 2, Role::Primary), Some(true));
        assert_eq!(seen(&fence, 1, Role::Primary), Some(false), "an owner of before is not yet this one");
        assert_eq!(seen(&done, 2, Role::Primary), None);
        assert_eq!(
            seen(&Ownership { cluster: ClusterId(3), ..fence }, 1, Role::Replica),
            None,
            "of another link"
        );
        assert_eq!(Unfinished::seen(None, &of(1, Role::Replica)), None);
    }
}
