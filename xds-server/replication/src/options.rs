//! What a replicator is told: which two etcds, which keys, how fast, how much disk, and what to do about leases and strangers.
//! Checks what types alone cannot; opens nothing.

use std::{path::PathBuf, time::Duration};

use crate::{batch::Limits, overlap::Overlap, region::Region, rules::Rules};

/// What the replicators' own keys start with, at either side.
pub const RESERVED: &str = "/zonebreak/v1/replication/";

/// One of the two etcds.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ClusterOptions {
    /// Client URLs of its members, such as `https://10.0.0.1:2379`. Each gets a connection of its own.
    pub endpoints: Vec<String>,
    /// User, where etcd asks for one.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// TLS, for endpoints that begin with `https://`.
    pub tls: Option<TlsOptions>,
}

/// TLS towards an etcd.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Certificates to trust, PEM; the machine's own when absent.
    pub ca: Option<Vec<u8>>,
    /// Client certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must have, where it is not the URL's host.
    pub server_name: Option<String>,
}

/// What to do about keys that somebody else wrote at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StrangerPolicy {
    /// They are put back to what the source has.
    #[default]
    Repair,
    /// They are counted and logged.
    Report,
}

/// Everything that a replicator is told.
#[derive(Debug, Clone)]
pub struct ReplicationOptions {
    /// The stream's name: several may end in one destination, with prefixes that do not overlap.
    pub stream: String,
    /// Where the changes come from. Only read.
    pub source: ClusterOptions,
    /// Where they go.
    pub destination: ClusterOptions,
    /// What the source's region is called; by the ID of its etcd, when nobody said.
    pub source_region: Option<Region>,
    /// The same of the destination's.
    pub destination_region: Option<Region>,
    /// Which keys, under which names.
    pub rules: Rules,
    /// What a transaction of the destination may hold.
    pub limits: Limits,
    /// Directory of the spool, for this stream alone.
    pub spool: PathBuf,
    /// Disk that the spool may take, in bytes.
    pub spool_bytes: u64,
    /// How long delivered changes stay in the spool at most; while there is room, when 0.
    pub spool_keep_for: Duration,
    /// How long changes of keys that are not realtime wait for others.
    pub debounce: Duration,
    /// Between two signs of life at the destination.
    pub heartbeat: Duration,
    /// Between two full comparisons of both sides; never, when 0.
    pub scrub: Duration,
    /// Revisions behind from which on the two sides are compared rather than history read.
    pub backlog: u64,
    /// Strangers' writes.
    pub strangers: StrangerPolicy,
    /// How long leased keys live at least, from when the destination is promoted, for whoever renews them to register them there;
    /// as long as their leases have left, when less than a second.
    pub lease_grace: Duration,
    /// Set where both regions write the prefix; without it the destination only follows.
    pub overlap: Option<Overlap>,
    /// Whether a destination that holds other keys under the prefix, or the checkpoint of another source, may be overwritten.
    pub overwrite: bool,
}

/// Why options make no sense. Each finishes the sentence "failed to ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A pattern that cannot be used.
    #[error("use the key pattern {pattern:?}: {why}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        why: String,
    },
    /// An endpoint that cannot be used.
    #[error("use the endpoint {endpoint:?} of the {side}: {why}")]
    Endpoint {
        /// `source` or `destination`.
        side: &'static str,
        /// As written.
        endpoint: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Anything else.
    #[error("use these replication settings: {0}")]
    Setting(String),
}

// === impl ClusterOptions ===

impl std::fmt::Debug for ClusterOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterOptions")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl ClusterOptions {
    /// An etcd without TLS and without users.
    pub fn plain(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub(crate) fn validate(&self, side: &'static str) -> Result<(), OptionsError> {
        if self.endpoints.is_empty() {
            return Err(OptionsError::Setting(format!("the {side} has no endpoints")));
        }
        if self.user.is_some() != self.password.is_some() {
            return Err(OptionsError::Setting(format!(
                "the {side} has a user without a password or a password without a user"
            )));
        }
        for endpoint in &self.endpoints {
            let fail = |why| Err(OptionsError::Endpoint { side, endpoint: endpoint.clone(), why });
            match (endpoint.split_once("://"), &self.tls) {
                (Some(("http", rest)), None) | (Some(("https", rest)), Some(_)) if !rest.is_empty() => {}
                (Some(("https", _)), None) => return fail("it wants TLS, and none is configured"),
                (Some(("http", _)), Some(_)) => return fail("TLS is configured, so write https://"),
                _ => return fail("one looks like http://127.0.0.1:2379"),
            }
        }
        Ok(())
    }
}

// === impl ReplicationOptions ===

impl ReplicationOptions {
    /// Replicates `prefix` from one etcd to the other, with the defaults of everything else.
    pub fn new(
        stream: &str,
        prefix: &str,
        source: ClusterOptions,
        destination: ClusterOptions,
        spool: PathBuf,
    ) -> Self {
        Self {
            stream: stream.to_owned(),
            source,
            destination,
            source_region: None,
            destination_region: None,
            rules: Rules::new(prefix, prefix, RESERVED),
            limits: Limits::default(),
            spool,
            spool_bytes: 1 << 30,
            spool_keep_for: Duration::ZERO,
            debounce: Duration::from_millis(100),
            heartbeat: Duration::from_secs(5),
            scrub: Duration::from_secs(3600),
            backlog: 20_000,
            strangers: StrangerPolicy::default(),
            lease_grace: Duration::from_secs(300),
            overlap: None,
            overwrite: false,
        }
    }

    /// The key of the checkpoint.
    pub fn checkpoint_key(&self) -> String {
        format!("{RESERVED}{}", self.stream)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.source.validate("source")?;
        self.destination.validate("destination")?;
        let setting = |why: String| Err(OptionsError::Setting(why));
        if self.stream.is_empty()
            || !self.stream.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return setting(format!(
                "the stream's name {:?} must be letters, digits, '-', '_' and '.'",
                self.stream
            ));
        }
        let shared = self.source.endpoints.iter().find(|url| self.destination.endpoints.contains(url));
        if let Some(url) = shared {
            return setting(format!("{url} is both the source and the destination"));
        }
        if self.limits.operations == 0 || self.limits.operations > 10_000 {
            return setting("a transaction has 1 to 10000 operations".to_owned());
        }
        if !self.rules.are_something() {
            return setting(
                "with neither replicate.puts nor replicate.deletes nothing is replicated".to_owned(),
            );
        }
        if self.spool_bytes < crate::spool::MIN_BYTES {
            return setting(format!(
                "the spool needs at least {} MiB of disk",
                crate::spool::MIN_BYTES >> 20
            ));
        }
        if let Some(overlap) = &self.overlap {
            overlap.validate()?;
            if !self.rules.are_all() {
                return setting(
                    "two regions that both write (replicate.overlap) tell each other everything: leave replicate.puts, \
                     replicate.deletes and replicate.from_revision as they are by default"
                        .to_owned(),
                );
            }
            if self.limits.operations < 8 {
                return setting("with replicate.overlap a transaction has at least 8 operations".to_owned());
            }
        }
        if self.heartbeat < Duration::from_millis(100) {
            return setting("a heartbeat more often than every 100 ms is only load".to_owned());
        }
        Ok(())
    }
}

/// Reads the prefix pair of a checkpoint.
pub(crate) fn prefixes(rules: &Rules) -> (String, String) {
    // As everybody else who reads and writes records has them: they were text when they came in.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(rules.source_prefix()), text(rules.destination_prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ReplicationOptions {
        let (a, b) = (ClusterOptions::plain(["http://a:1"]), ClusterOptions::plain(["http://b:1"]));
        ReplicationOptions::new("west", "/app/", a, b, PathBuf::from("spool"))
    }

    #[test]
    fn options_are_checked_and_say_why_not() {
        options().validate().unwrap();
        type Spoil = fn(&mut ReplicationOptions);
        let cases: [(Spoil, &str); 10] = [
            (|o| o.source.endpoints.clear(), "the source has no endpoints"),
            (|o| o.destination.endpoints = vec!["b:1".into()], "one looks like http://"),
            (|o| o.source.endpoints = vec!["https://a:1".into()], "it wants TLS"),
            (|o| o.source.tls = Some(TlsOptions::default()), "write https://"),
            (|o| o.source.user = Some("u".into()), "a user without a password"),
            (|o| o.destination = o.source.clone(), "both the source and the destination"),
            (|o| o.stream = "a/b".into(), "letters, digits"),
            (|o| o.limits.operations = 0, "1 to 10000"),
            (|o| o.spool_bytes = 1, "MiB of disk"),
            (|o| o.rules = o.rules.clone().with_puts(false).with_deletes(false), "nothing is replicated"),
        ];
        for (spoil, says) in cases {
            let mut options = options();
            spoil(&mut options);
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    /// A record's key and a checkpoint hold it as a writer's own program has it, or no guard finds it.
    #[test]
    fn a_prefix_stays_the_text_that_it_is() {
        for odd in ["/zürich/", "/a\"b/", "/back\\slash/"] {
            let rules = Rules::new(odd, "/to/", RESERVED);
            assert_eq!(prefixes(&rules), (odd.to_owned(), "/to/".to_owned()));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut options = options();
        options.source.password = Some("hunter2".into());
        options.source.tls =
            Some(TlsOptions { identity: Some((b"c".into(), b"key8".into())), ..TlsOptions::default() });
        let text = format!("{options:?}");
        assert!(!text.contains("hunter2") && !text.contains("key8"));
    }
}
