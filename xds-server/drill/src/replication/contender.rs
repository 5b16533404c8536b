//! Who replicates: each with a pair of etcds of its own, so that none pays for another's history.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, Txn, TxnOp};

use super::{PREFIX, server::Server};
use crate::lab::{Command, Etcd, Lab, LabError, Link, Process, Replicator, ReplicatorOptions, Tool, until};

/// A way to replicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    /// `etcdctl make-mirror`.
    MakeMirror,
    /// `zonebreak replicate run`.
    Zonebreak,
}

/// Where the 80 ms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Far {
    Nowhere,
    /// The source is: the replicator runs next to the destination.
    Source(Duration),
    /// The destination is: it runs next to the source.
    Destination(Duration),
}

/// Two etcds and what is between them.
pub(super) struct Pair {
    pub lab: Lab,
    pub source: Etcd,
    pub destination: Etcd,
    /// Settings of our replicator, as variables.
    pub environment: Vec<(&'static str, String)>,
    links: Vec<Link>,
    urls: (String, String),
}

/// A contender at work.
pub(super) enum Running {
    Mirror(Process),
    Ours(Replicator),
}

// === impl Contender ===

impl Contender {
    /// For tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::MakeMirror => "make-mirror",
            Self::Zonebreak => "zonebreak",
        }
    }
}

// === impl Pair ===

impl Pair {
    pub async fn start(server: &Server, far: Far) -> Result<Self, LabError> {
        let lab = server.lab()?;
        let (source, destination) =
            tokio::try_join!(Etcd::start_named(&lab, "source"), Etcd::start_named(&lab, "destination"))?;
        let mut pair = Self {
            urls: (source.url(), destination.url()),
            lab,
            source,
            destination,
            environment: Vec::new(),
            links: Vec::new(),
        };
        match far {
            Far::Nowhere => {}
            Far::Source(one_way) => pair.urls.0 = pair.link(pair.source.address(), one_way).await?,
            Far::Destination(one_way) => pair.urls.1 = pair.link(pair.destination.address(), one_way).await?,
        }
        Ok(pair)
    }

    async fn link(&mut self, to: std::net::SocketAddr, one_way: Duration) -> Result<String, LabError> {
        let link = Link::open(to, one_way).await?;
        let url = link.url();
        self.links.push(link);
        Ok(url)
    }

    /// What the replicator connects to.
    pub fn urls(&self) -> (String, String) {
        self.urls.clone()
    }

    pub async fn from(&self) -> anyhow::Result<Client> {
        client(&self.source.url()).await
    }

    pub async fn to(&self) -> anyhow::Result<Client> {
        client(&self.destination.url()).await
    }

    pub fn run(&self, contender: Contender) -> Result<Running, LabError> {
        let (source, destination) = self.urls();
        match contender {
            Contender::MakeMirror => {
                let bare = destination.trim_start_matches("http://").to_owned();
                let command = Command::new(self.lab.programs().path(Tool::Etcdctl)?)
                    .args(["make-mirror", "--prefix", PREFIX, "--endpoints", &source, &bare])
                    .env("ETCDCTL_API", "3");
                Ok(Running::Mirror(Process::spawn(&self.lab, "make-mirror", command)?))
            }
            Contender::Zonebreak => {
                let options = ReplicatorOptions {
                    source,
                    destination,
                    prefix: PREFIX.to_owned(),
                    environment: self.environment.clone(),
                };
                Ok(Running::Ours(Replicator::start(&self.lab, "replicator", &options)?))
            }
        }
    }
}

// === impl Running ===

impl Running {
    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        match self {
            Self::Mirror(process) => process.exited().is_none(),
            Self::Ours(replicator) => replicator.process().exited().is_none(),
        }
    }

    pub fn kill(&mut self) {
        match self {
            Self::Mirror(process) => process.kill(),
            Self::Ours(replicator) => replicator.kill(),
        }
    }
}

/// A client of one etcd, which hears of a dead one.
pub(super) async fn client(url: &str) -> anyhow::Result<Client> {
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(30));
    Ok(Client::connect([url], Some(options)).await?)
}

/// Puts keys quickly, 100 a transaction.
pub(super) async fn fill(client: &mut Client, keys: usize, size: usize) -> anyhow::Result<()> {
    let value = "v".repeat(size);
    for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
        let puts: Vec<_> =
            chunk.iter().map(|key| TxnOp::put(format!("{PREFIX}k/{key:07}"), value.as_str(), None)).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// Keys under the prefix.
pub(super) async fn count(client: &mut Client) -> anyhow::Result<i64> {
    let options = GetOptions::new().with_prefix().with_count_only();
    Ok(client.get(PREFIX, Some(options)).await?.count())
}

/// Waits until a write of one key has arrived, so that a measurement begins with a contender that works.
pub(super) async fn arrives(pair: &Pair, key: &str) -> anyhow::Result<()> {
    let (mut from, to) = (pair.from().await?, pair.to().await?);
    let (key, value) = (format!("{PREFIX}{key}"), fastrand::u64(..).to_string());
    from.put(key.as_str(), value.as_str(), None).await?;
    until("the written key at the destination", Duration::from_secs(60), async || {
        let found = to.clone().get(key.as_str(), None).await.map_err(|error| error.to_string())?;
        match found.kvs().first() {
            Some(kv) if kv.value() == value.as_bytes() => Ok(()),
            Some(_) => Err("it is not there as it was written last".to_owned()),
            None => Err("it is not there".to_owned()),
        }
    })
    .await?;
    Ok(())
}
