//! A real etcd for a test: on free ports, in a directory of its own, killed when the test ends, be it by a panic. And a link to
//! it that can be cut.

// Each test binary uses its own part of this.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::{
    future::Future,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_client::Client;
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use zonebreak_drill::lab::{Authority, Certificate, Port};
use zonebreak_topology::{EtcdOptions, EtcdTls, Source, SourceStatus, Topology};

/// For anything that a test waits for. Far longer than it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd of one member.
pub struct Etcd {
    child: Child,
    directory: TempDir,
    /// Nobody else's, while it is dead either.
    ports: (Port, Port),
    certificates: Option<Certificates>,
}

/// Where the files are with which an etcd and its clients know each other: one certificate for both sides, of an authority that
/// nobody else knows.
#[derive(Clone)]
pub struct Certificates {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    _directory: Arc<TempDir>,
}

// === impl Etcd ===

impl Etcd {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts one that talks to nobody without a certificate.
    pub async fn start_secure() -> Self {
        Self::start_with(Some(Certificates::make())).await
    }

    async fn start_with(certificates: Option<Certificates>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = (Port::reserve().unwrap(), Port::reserve().unwrap());
        let child = spawn(&directory, &ports, certificates.as_ref());
        let mut etcd = Self { child, directory, ports, certificates };
        etcd.answers().await;
        etcd
    }

    /// Its client URL.
    pub fn url(&self) -> String {
        url(&self.ports.0, self.certificates.as_ref())
    }

    /// What it and its clients know each other by.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().unwrap()
    }

    /// Options for it alone.
    pub fn options(&self) -> EtcdOptions {
        let tls = self.certificates.as_ref().map(Certificates::options).unwrap_or_default();
        EtcdOptions { endpoints: vec![self.url()], tls, ..EtcdOptions::default() }
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        self.options().connect().await.unwrap()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its ports, after a [`Self::kill`].
    pub async fn restart(&mut self) {
        self.child = spawn(&self.directory, &self.ports, self.certificates.as_ref());
        self.answers().await;
    }

    /// Takes its data away, after a [`Self::kill`].
    pub fn forget(&mut self) {
        self.directory = tempfile::tempdir().unwrap();
    }

    /// Puts a key, without the prefix, and answers with the revision.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        let options = self.options();
        let put = self.client().await.put(options.key(key), value, None).await.unwrap();
        put.header().unwrap().revision()
    }

    /// Deletes a key, without the prefix.
    pub async fn delete(&self, key: &str) {
        self.client().await.delete(self.options().key(key), None).await.unwrap();
    }

    /// The value and the lease of a key, without the prefix.
    pub async fn get(&self, key: &str) -> Option<(String, i64)> {
        let answer = self.client().await.get(self.options().key(key), None).await.unwrap();
        answer.kvs().first().map(|kv| (kv.value_str().unwrap().to_owned(), kv.lease()))
    }

    async fn answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.options().connect().await.is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "etcd on the ports {:?} ended: {ended:?}", self.ports);
            assert!(Instant::now() < deadline, "etcd on the ports {:?} does not answer", self.ports);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

// === impl Certificates ===

impl Certificates {
    /// A new authority, and a certificate of it.
    pub fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new().unwrap();
        let Certificate { certificate, key } = authority.issue("zonebreak").unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        Self {
            ca: file("ca.pem", authority.pem()),
            certificate: file("certificate.pem", &certificate),
            key: file("key.pem", &key),
            _directory: Arc::new(directory),
        }
    }

    pub fn options(&self) -> EtcdTls {
        EtcdTls {
            ca_file: Some(self.ca.clone()),
            identity: Some((self.certificate.clone(), self.key.clone())),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn url(port: &Port, certificates: Option<&Certificates>) -> String {
    format!("{}://{}", if certificates.is_some() { "https" } else { "http" }, port.address())
}

fn spawn(directory: &TempDir, (client, peer): &(Port, Port), certificates: Option<&Certificates>) -> Child {
    let program = std::env::var_os("ETCD").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/etcd"),
        PathBuf::from,
    );
    let (client, peer) = (url(client, certificates), url(peer, None));
    let secure = certificates.iter().flat_map(|files| {
        [("--trusted-ca-file", &files.ca), ("--cert-file", &files.certificate), ("--key-file", &files.key)]
    });
    let secure = secure.flat_map(|(flag, file)| [flag.into(), file.clone().into_os_string()]);
    let child = Command::new(&program)
        .args(["--log-level", "error", "--unsafe-no-fsync", "--data-dir"])
        .arg(directory.path())
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(certificates.map(|_| "--client-cert-auth"))
        .args(secure)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.unwrap_or_else(|e| {
        panic!("failed to start {}: {e}; scripts/setup fetches it, or set ETCD", program.display())
    })
}

/// A TCP link to an etcd, for as long as it is not cut.
pub struct Link {
    address: String,
    connections: Arc<Mutex<Option<JoinSet<()>>>>,
}

// === impl Link ===

impl Link {
    /// Opens a link to the port of an etcd.
    pub async fn to(etcd: &Etcd) -> Self {
        let target = etcd.ports.0.address();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(Mutex::new(Some(JoinSet::new())));
        let shared = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                // While it is cut, a connection is closed at once.
                if let Some(open) = shared.lock().unwrap().as_mut() {
                    open.spawn(async move {
                        if let Ok(mut far) = TcpStream::connect(target).await {
                            _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                        }
                    });
                }
            }
        });
        Self { address, connections }
    }

    /// Options for an etcd behind it.
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions { endpoints: vec![self.address.clone()], ..EtcdOptions::default() }
    }

    /// Ends every connection and takes no more.
    pub fn cut(&self) {
        *self.connections.lock().unwrap() = None;
    }

    /// Takes connections again.
    pub fn mend(&self) {
        *self.connections.lock().unwrap() = Some(JoinSet::new());
    }
}

/// Waits until the topology is as wanted.
pub async fn topology(source: &mut Source, what: &str, wanted: impl Fn(&Topology) -> bool) -> Arc<Topology> {
    let waiting = source.topology.wait_for(|t| t.as_ref().is_some_and(|t| wanted(t)));
    if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
        return Arc::clone(found.unwrap().as_ref().unwrap());
    }
    panic!("waited in vain for {what}; seen: {:#?}", source.topology.borrow());
}

/// Waits until the status is as wanted.
pub async fn status(source: &mut Source, what: &str, wanted: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
    if let Ok(found) = tokio::time::timeout(PATIENCE, source.status.wait_for(|s| wanted(s))).await {
        return found.unwrap().clone();
    }
    panic!("waited in vain for {what}; seen: {:#?}", source.status.borrow());
}

/// Asks again and again until the answer is not `None`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {what}");
}

/// The value of an endpoint in that zone.
pub fn endpoint(zone: &str) -> String {
    format!(r#"{{"address": "10.0.0.1", "port": 80, "zone": "{zone}"}}"#)
}
