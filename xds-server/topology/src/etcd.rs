//! Talking to etcd: where it is, how to reach one member that answers, and a whole listing at one revision. Holds no state.
//!
//! One client talks to one member. The balancer of `etcd-client` goes on using a member that is dead, so that with one of
//! three gone a fifth of the calls fail for as long as it is; instead, [`connect`](EtcdOptions::connect) tries the members in
//! turn and hands out the first that answers a linearizable read, and whoever loses it connects again.

use std::{future::Future, sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, GetOptions, WatchClient};
use tonic::Code;

use crate::{
    model::Topology,
    registry::{Listed, Registry},
    tls::EtcdTls,
};

/// The default prefix of every key.
pub const DEFAULT_PREFIX: &str = "/zonebreak/v1/";

/// Keys in one page of a listing.
const PAGE: i64 = 1000;

/// The largest message read. etcd sends what happened while nobody watched in one message, well over gRPC's usual 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;

/// etcd's servers drop connections that ping more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Where etcd is and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Client URLs of the members, such as `https://10.0.0.1:2379`; `http://` may be left out.
    pub endpoints: Vec<String>,
    /// What every key starts with; ends with a slash.
    pub prefix: String,
    /// For endpoints that are `https://`.
    pub tls: EtcdTls,
    /// User, where etcd asks for one.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// For one member to answer at first.
    pub connect_timeout: Duration,
    /// For one request to be answered.
    pub request_timeout: Duration,
}

/// Why talking to etcd failed. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// The options make no sense.
    #[error("use these etcd settings: {0}")]
    Options(String),
    /// A file that [`EtcdTls`] names cannot be used now; it may be in a moment, while certificates are renewed.
    #[error("use {file} with etcd: {why}")]
    Certificates {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// No member answers.
    #[error(
        "reach etcd at {endpoints}: {why}. Check that it runs and that the address is a client URL of it"
    )]
    Unreachable {
        /// The members tried.
        endpoints: String,
        /// What the last one did.
        why: String,
    },
    /// It answers, and wants another user.
    #[error("read or write etcd as this user: {0}. Check the user, the password and its roles")]
    Denied(String),
    /// Another region's word counts.
    #[error(
        "write {key}: region {region} owns {prefix:?} (epoch {epoch}), and this etcd is another's. Write to that region's etcd; it \
         is replicated to here"
    )]
    NotOwner {
        /// What was to be written.
        key: String,
        /// The prefix that is owned.
        prefix: String,
        /// The owner.
        region: String,
        /// Since this epoch.
        epoch: u64,
    },
    /// It answers with an error.
    #[error("carry out a request in etcd: {0}")]
    Failed(String),
}

/// Every key under a prefix, as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The revision.
    pub revision: i64,
    /// Which etcd answered: tells a new cluster from the old one.
    pub cluster: u64,
    /// The keys, without the prefix, in order.
    pub entries: Vec<Listed>,
}

// === impl EtcdOptions ===

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: DEFAULT_PREFIX.to_owned(),
            tls: EtcdTls::default(),
            user: None,
            password: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
        }
    }
}

impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// Checks what types alone cannot.
    pub fn validate(&self) -> Result<(), EtcdError> {
        let fail = |why: String| Err(EtcdError::Options(why));
        if self.endpoints.is_empty() {
            return fail("name at least one endpoint, such as http://127.0.0.1:2379".to_owned());
        }
        if self.tls.is_some()
            && let Some(plain) = self.endpoints.iter().find(|endpoint| !encrypted(endpoint))
        {
            return fail(format!("certificates are given, and {plain} does without: write https://"));
        }
        if let Some(odd) =
            self.endpoints.iter().find(|e| e.trim().is_empty() || e.contains(char::is_whitespace))
        {
            return fail(format!("{odd:?} is no URL; one looks like http://127.0.0.1:2379"));
        }
        if !self.prefix.ends_with('/') {
            return fail(format!("the prefix {:?} must end with a slash", self.prefix));
        }
        if self.user.is_some() != self.password.is_some() {
            return fail("a user and a password go together".to_owned());
        }
        Ok(())
    }

    /// A client of the first member that answers, in the order given.
    pub async fn connect(&self) -> Result<Client, EtcdError> {
        self.connect_from(0).await
    }

    /// A client of the first member that answers, starting with number `first`, so that a caller that lost one moves on.
    pub(crate) async fn connect_from(&self, first: usize) -> Result<Client, EtcdError> {
        self.validate()?;
        let count = self.endpoints.len();
        let mut last = None;
        for endpoint in self.endpoints.iter().cycle().skip(first % count).take(count) {
            match self.connect_to(endpoint).await {
                Ok(client) => return Ok(client),
                // A wrong password is wrong everywhere, and so is a file that is not there.
                Err(error @ (EtcdError::Denied(_) | EtcdError::Certificates { .. })) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        let why = match last {
            Some(EtcdError::Unreachable { why, .. } | EtcdError::Failed(why)) => why,
            Some(other) => other.to_string(),
            None => "there is none".to_owned(),
        };
        Err(EtcdError::Unreachable { endpoints: self.endpoints.join(", "), why })
    }

    async fn connect_to(&self, endpoint: &str) -> Result<Client, EtcdError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
            .with_keep_alive_while_idle(true)
            // Without it, a member cut off from its peers serves watches that never say anything.
            .with_require_leader(true);
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        if encrypted(endpoint) {
            options = options.with_tls(self.tls.read().await?);
        }
        let probe = GetOptions::new().with_prefix().with_count_only();
        let connecting = async {
            let mut client = Client::connect([endpoint], Some(options)).await?;
            // Connecting is lazy; only an answer proves that somebody is there.
            client.get(self.prefix.as_str(), Some(probe)).await?;
            Ok(client)
        };
        within(self.connect_timeout, connecting).await
    }

    /// Every key under the prefix that starts with `sub`, as of one revision.
    pub(crate) async fn list(&self, client: &Client, sub: &str) -> Result<Listing, EtcdError> {
        let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
        let mut start = format!("{}{sub}", self.prefix).into_bytes();
        let end = after_prefix(&start);
        let mut listing = Listing::default();
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            if listing.revision > 0 {
                options = options.with_revision(listing.revision);
            }
            let mut page = within(self.request_timeout, kv.get(start, Some(options))).await?;
            if listing.revision == 0 {
                let header = page.header();
                listing.revision = header.map_or(0, etcd_client::ResponseHeader::revision);
                listing.cluster = header.map_or(0, etcd_client::ResponseHeader::cluster_id);
            }
            let more = page.more();
            let kvs = page.take_kvs();
            start = kvs.last().map(|kv| [kv.key(), b"\0"].concat()).unwrap_or_default();
            let empty = kvs.is_empty();
            listing.entries.extend(kvs.into_iter().map(|kv| {
                let (mod_revision, lease) = (kv.mod_revision(), kv.lease());
                let (key, value) = kv.into_key_value();
                Listed { key: self.strip(&key), value, mod_revision, lease }
            }));
            if !more || empty {
                return Ok(listing);
            }
        }
    }

    /// The topology as it is now: one listing, read once.
    pub async fn topology(&self) -> Result<Arc<Topology>, EtcdError> {
        let listing = self.list(&self.connect().await?, "").await?;
        let mut registry = Registry::default();
        registry.reset(listing.entries, listing.revision);
        Ok(registry.topology())
    }

    /// A client for watches, which may read large messages.
    pub(crate) fn watcher(client: &Client) -> WatchClient {
        client.watch_client().max_decoding_message_size(MAX_MESSAGE)
    }

    /// The whole key, with the prefix.
    pub fn key(&self, relative: &str) -> String {
        format!("{}{relative}", self.prefix)
    }

    /// The key without the prefix. Bytes that are no text cannot be a key of ours and show as such.
    pub(crate) fn strip(&self, key: &[u8]) -> String {
        String::from_utf8_lossy(key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key)).into_owned()
    }
}

fn encrypted(endpoint: &str) -> bool {
    endpoint.starts_with("https://")
}

/// Runs a request for at most `limit`, and says in our words what went wrong.
pub(crate) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, EtcdError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(EtcdError::from),
        Err(_) => Err(EtcdError::Unreachable {
            endpoints: "the member in use".to_owned(),
            why: format!("no answer within {} ms", limit.as_millis()),
        }),
    }
}

impl From<etcd_client::Error> for EtcdError {
    fn from(error: etcd_client::Error) -> Self {
        let unreachable = |why: String| {
            // rustls says it of both sides: "invalid peer certificate: ...", "received fatal alert: BadCertificate".
            let trust = if ["ertificate", "native certs"].iter().any(|word| why.contains(word)) {
                ": see etcd.ca_file, etcd.cert_file, etcd.key_file"
            } else {
                ""
            };
            Self::Unreachable { endpoints: "the member in use".to_owned(), why: why + trust }
        };
        match error {
            etcd_client::Error::GRpcStatus(status) => match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => Self::Denied(status.message().to_owned()),
                // "authentication failed, ..." and "user name is empty", of `rpctypes/error.go`.
                Code::InvalidArgument
                    if ["authentication", "user name"].iter().any(|w| status.message().contains(w)) =>
                {
                    Self::Denied(status.message().to_owned())
                }
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                    unreachable(status.message().to_owned())
                }
                _ => Self::Failed(status.message().to_owned()),
            },
            etcd_client::Error::InvalidArgs(why) => Self::Options(why),
            etcd_client::Error::InvalidUri(why) => Self::Options(why.to_string()),
            other => unreachable(other.to_string()),
        }
    }
}

/// The first key after every key that starts with `prefix`, as etcd ranges want it.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_say_why_not() {
        EtcdOptions::default().validate().unwrap();
        for (options, says) in [
            (EtcdOptions { endpoints: vec![], ..Default::default() }, "at least one endpoint"),
            (
                EtcdOptions {
                    endpoints: vec!["https://a:1".into(), "b:1".into()],
                    tls: EtcdTls { ca_file: Some("ca.pem".into()), identity: None },
                    ..Default::default()
                },
                "b:1 does without",
            ),
            (EtcdOptions { endpoints: vec![" ".into()], ..Default::default() }, "is no URL"),
            (EtcdOptions { prefix: "/x".into(), ..Default::default() }, "must end with a slash"),
            (EtcdOptions { user: Some("u".into()), ..Default::default() }, "go together"),
        ] {
            assert!(options.validate().unwrap_err().to_string().contains(says), "{options:?}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let options = EtcdOptions { password: Some("hunter2".into()), ..Default::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn prefixes_end_where_the_next_key_begins() {
        assert_eq!(after_prefix(b"/a/"), b"/a0");
        assert_eq!(after_prefix(&[b'a', 255, 255]), b"b");
        assert_eq!(after_prefix(&[255]), [0]);
    }
}
