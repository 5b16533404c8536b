//! Talking to one etcd: a connection to one member that answers, and what its errors mean for us. Retries nothing; holds no
//! state but which member comes next.
//!
//! Each member has a connection of its own. `etcd-client`'s balancer goes on using a member that is dead; here, whoever loses a
//! member asks for the next one, and is given the first that answers a linearizable read with a leader behind it.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KvClient, ResponseHeader, TlsOptions as Tls,
};
use tonic::Code;

use crate::{
    checkpoint::ClusterId,
    options::{ClusterOptions, RESERVED},
    revision::Revision,
    watch::now_ms,
};

/// For a member to answer at first.
const CONNECT: Duration = Duration::from_secs(3);

/// For one request.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);

/// Servers drop connections that ping more often than every 5 s (`--grpc-keepalive-min-time`); without pings a connection into
/// a black hole hangs for ever.
const KEEPALIVE: (Duration, Duration) = (Duration::from_millis(5_500), Duration::from_secs(3));

/// The largest message read: a page of a listing is made smaller where it would be larger.
const MAX_MESSAGE: usize = 64 << 20;

/// One of the two etcds.
#[derive(Debug)]
pub(crate) struct Cluster {
    side: &'static str,
    options: ClusterOptions,
    /// A key that its user may read.
    probe: Vec<u8>,
    next: AtomicUsize,
}

/// A connection to a member that answered.
#[derive(Clone)]
pub(crate) struct Member {
    pub client: Client,
    pub cluster: ClusterId,
    pub endpoint: String,
    /// The cluster's revision when it answered.
    pub head: Revision,
    /// When it was asked, in milliseconds since 1970: there was nothing later than `head` then.
    pub seen_ms: u64,
}

/// What went wrong with an etcd, by what it means. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// No answer. Whatever was asked may or may not have happened.
    #[error(
        "reach the {side} etcd ({endpoints}): {why}. Check that it runs and that the address is a client URL of it"
    )]
    Unreachable {
        /// `source` or `destination`.
        side: &'static str,
        /// The members tried.
        endpoints: String,
        /// What the last one did.
        why: String,
    },
    /// Another user is wanted.
    #[error(
        "use the {side} etcd as this user: {why}. The source needs read permission on the prefix; the destination read \
             and write on its prefix and on {RESERVED}"
    )]
    Denied {
        /// `source` or `destination`.
        side: &'static str,
        /// Its words.
        why: String,
    },
    /// The revision asked for is not kept any more.
    #[error("read revision {asked} of the {side}: it is compacted")]
    Compacted {
        /// `source` or `destination`.
        side: &'static str,
        /// The revision.
        asked: Revision,
    },
    /// No disk space there: writes are refused until an operator acts.
    #[error(
        "write to the {0} etcd: it is out of space (NOSPACE). Compact and defragment it, then `etcdctl alarm disarm`"
    )]
    NoSpace(&'static str),
    /// The lease named does not exist.
    #[error("use a lease of the {0} etcd: it does not exist")]
    NoLease(&'static str),
    /// An answer longer than we read at once.
    #[error("read from the {0} etcd: its answer is longer than {MAX_MESSAGE} bytes")]
    TooLong(&'static str),
    /// A request larger than it takes, until an operator lets it.
    #[error(
        "write {what} to the {side} etcd: the request is larger than it allows. The source allows more: start every member of the \
         {side} with a larger --max-request-bytes (at least the source's and 4096 bytes more). Nothing is lost: it is tried again"
    )]
    TooLarge {
        /// `source` or `destination`.
        side: &'static str,
        /// The largest of it.
        what: String,
    },
    /// A request that it will never accept.
    #[error("carry out a request in the {side} etcd: {why}")]
    Refused {
        /// `source` or `destination`.
        side: &'static str,
        /// Its words.
        why: String,
    },
}

// === impl Cluster ===

impl Cluster {
    /// One whose user may read what replication itself writes there.
    pub(crate) fn new(side: &'static str, options: ClusterOptions) -> Self {
        Self { side, options, probe: RESERVED.into(), next: AtomicUsize::new(0) }
    }

    /// One whose user may read what starts with `prefix`, and perhaps no more.
    pub(crate) fn reading(side: &'static str, options: ClusterOptions, prefix: &[u8]) -> Self {
        Self { probe: range_start(prefix), ..Self::new(side, options) }
    }

    pub(crate) const fn side(&self) -> &'static str {
        self.side
    }

    /// The first member that answers, beginning with another one than last time it was lost.
    pub(crate) async fn connect(&self) -> Result<Member, EtcdError> {
        let (count, first) = (self.options.endpoints.len().max(1), self.next.load(Ordering::Relaxed));
        let mut last = None;
        for at in 0..count {
            let Some(endpoint) = self.options.endpoints.get((first + at) % count) else { continue };
            match Box::pin(self.try_connect(endpoint)).await {
                Ok(member) => {
                    self.next.store((first + at) % count, Ordering::Relaxed);
                    return Ok(member);
                }
                // A wrong password is wrong everywhere.
                Err(error @ EtcdError::Denied { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        let why = match last {
            Some(EtcdError::Unreachable { why, .. } | EtcdError::Refused { why, .. }) => why,
            Some(other) => other.to_string(),
            None => "it has no endpoints".to_owned(),
        };
        Err(EtcdError::Unreachable { side: self.side, endpoints: self.options.endpoints.join(", "), why })
    }

    /// The member in use was lost: the next connection goes to another one first.
    pub(crate) fn lost(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }

    fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
            .with_keep_alive_while_idle(true)
            // Without it, a member cut off from its peers serves a watch that stays silent for ever.
            .with_require_leader(true);
        if let (Some(user), Some(password)) = (&self.options.user, &self.options.password) {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        if let Some(wanted) = &self.options.tls {
            let mut tls = Tls::new();
            tls = match &wanted.ca {
                Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
                None => tls.with_native_roots(),
            };
            if let Some((certificate, key)) = &wanted.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = &wanted.server_name {
                tls = tls.domain_name(name);
            }
            options = options.with_tls(tls);
        }
        options
    }

    /// How a member is by its own account, with a leader or without, learner or voter: no read is asked of it.
    pub(crate) async fn status(&self) -> Result<etcd_client::StatusResponse, EtcdError> {
        let asking = async {
            let options = self.connect_options();
            Client::connect(&self.options.endpoints, Some(options)).await?.status().await
        };
        self.within(CONNECT, asking).await
    }

    async fn try_connect(&self, endpoint: &str) -> Result<Member, EtcdError> {
        let options = self.connect_options();
        let connecting = async {
            let mut client = Client::connect([endpoint], Some(options)).await?;
            // Connecting is lazy; only the answer to a linearizable read proves that somebody is there, with a leader, and tells a
            // revision that is not behind: a member's account of itself may be, and would look like a source that went back.
            let answer = client.get(self.probe.as_slice(), Some(GetOptions::new().with_count_only())).await?;
            let answer = answer.header().cloned();
            Ok((client, answer))
        };
        let seen_ms = now_ms();
        let (client, header) = self.within(CONNECT, connecting).await?;
        let header = header.as_ref();
        Ok(Member {
            client,
            cluster: ClusterId(header.map_or(0, ResponseHeader::cluster_id)),
            endpoint: endpoint.to_owned(),
            head: Revision(header.map_or(0, ResponseHeader::revision)),
            seen_ms,
        })
    }

    /// Runs a request for at most `limit`, and says in our words what went wrong.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| self.error(error)),
            Err(_) => Err(self.unreachable(format!("no answer within {} ms", limit.as_millis()))),
        }
    }

    /// The same with the usual limit.
    pub(crate) async fn ask<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        self.within(REQUEST, request).await
    }

    pub(crate) fn unreachable(&self, why: String) -> EtcdError {
        EtcdError::Unreachable { side: self.side, endpoints: self.options.endpoints.join(", "), why }
    }

    /// What an error means.
    pub(crate) fn error(&self, error: etcd_client::Error) -> EtcdError {
        let side = self.side;
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            etcd_client::Error::InvalidArgs(why) => return EtcdError::Refused { side, why },
            etcd_client::Error::InvalidUri(why) => return EtcdError::Refused { side, why: why.to_string() },
            other => return self.unreachable(other.to_string()),
        };
        let why = status.message().to_owned();
        match status.code() {
            // The words are those of etcd's `api/v3rpc/rpctypes/error.go`.
            _ if why.contains("required revision has been compacted") => {
                EtcdError::Compacted { side, asked: Revision(0) }
            }
            _ if why.contains("decoded message length too large") => EtcdError::TooLong(side),
            _ if why.contains("too many operations in txn request") => {
                let hint = "lower replicate.max_operations, or raise --max-txn-ops there";
                EtcdError::Refused { side, why: format!("{why}; {hint}") }
            }
            // The second is said before etcd has read it, of one that is 512 KiB larger still.
            _ if ["request is too large", "received message larger than max"]
                .iter()
                .any(|w| why.contains(w)) =>
            {
                EtcdError::TooLarge { side, what: String::new() }
            }
            _ if why.contains("database space exceeded") => EtcdError::NoSpace(side),
            _ if why.contains("requested lease not found") => EtcdError::NoLease(side),
            // A user or a role was changed since our token was given out: the next connection has a new one.
            _ if why.contains("revision of auth store is old") || why.contains("invalid auth token") => {
                self.unreachable(why)
            }
            Code::PermissionDenied | Code::Unauthenticated => EtcdError::Denied { side, why },
            Code::InvalidArgument if ["authentication", "user name"].iter().any(|w| why.contains(w)) => {
                EtcdError::Denied { side, why }
            }
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted => self.unreachable(why),
            // Too many requests: certainly not carried out, but the rest of what comes here may be.
            Code::ResourceExhausted => self.unreachable(why),
            _ => EtcdError::Refused { side, why },
        }
    }
}

// === impl Member ===

impl Member {
    /// For reads and transactions of any size that etcd allows.
    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    /// For watches.
    pub(crate) fn watch(&self) -> etcd_client::WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_MESSAGE)
    }
}

/// The first key after every key that starts with `prefix`, as etcd's ranges want it.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // Everything from there on.
    vec![0]
}

/// A key that a range may begin with: etcd takes no empty one.
pub(crate) fn range_start(prefix: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's words, and what they mean for a transaction.
    #[test]
    fn what_an_etcd_says_is_told_apart_by_what_can_be_done_about_it() {
        let cluster = Cluster::new("destination", ClusterOptions::plain(["http://a:1"]));
        let of = |code, words: &str| {
            cluster.error(etcd_client::Error::GRpcStatus(tonic::Status::new(code, words.to_owned())))
        };
        // Tokens that went stale with a change of users: the next connection has another.
        for (code, words) in [
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::Unavailable, "etcdserver: no leader"),
        ] {
            assert!(matches!(of(code, words), EtcdError::Unreachable { .. }), "{words}");
        }
        for (code, words) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
        ] {
            assert!(matches!(of(code, words), EtcdError::Denied { .. }), "{words}");
        }
        for (code, words) in [
            (Code::InvalidArgument, "etcdserver: request is too large"),
            (Code::ResourceExhausted, "grpc: received message larger than max (2500000 vs. 2097152)"),
        ] {
            let large = of(code, words);
            assert!(matches!(large, EtcdError::TooLarge { .. }), "{large}");
            assert!(large.to_string().contains("--max-request-bytes"));
        }
    }
}
