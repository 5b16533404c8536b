//! Two listings side by side: what they have under the same name after their prefixes. For comparing keys with their tags, and the
//! tags of both sides. Holds one entry of each at a time.

use etcd_client::KeyValue;

use crate::{client::EtcdError, listing::Listing};

/// A walk over two prefixes.
pub(super) struct Join {
    left: Side,
    right: Side,
}

struct Side {
    listing: Listing,
    prefix: usize,
    head: Option<KeyValue>,
}

/// What is under one name.
pub(super) struct Both {
    pub rest: Vec<u8>,
    pub left: Option<KeyValue>,
    pub right: Option<KeyValue>,
}

// === impl Join ===

impl Join {
    /// Of two listings and the lengths of their prefixes.
    pub(super) fn new(left: (Listing, usize), right: (Listing, usize)) -> Self {
        Self { left: Side::new(left), right: Side::new(right) }
    }

    /// The next name that either has.
    pub(super) async fn next(&mut self) -> Result<Option<Both>, EtcdError> {
        self.left.fill().await?;
        self.right.fill().await?;
        let (left, right) = (self.left.rest(), self.right.rest());
        let Some(rest) = [left, right].into_iter().flatten().min().map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        let (first, second) = (left == Some(&rest), right == Some(&rest));
        let take = |side: &mut Side, yes: bool| if yes { side.head.take() } else { None };
        Ok(Some(Both { left: take(&mut self.left, first), right: take(&mut self.right, second), rest }))
    }
}

// === impl Side ===

impl Side {
    fn new((listing, prefix): (Listing, usize)) -> Self {
        Self { listing, prefix, head: None }
    }

    async fn fill(&mut self) -> Result<(), EtcdError> {
        if self.head.is_none() {
            self.head = self.listing.next().await?;
        }
        Ok(())
    }

    fn rest(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|kv| kv.key().get(self.prefix..).unwrap_or_default())
    }
}
