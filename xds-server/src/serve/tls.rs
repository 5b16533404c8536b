//! TLS at the port where proxies connect: whose certificate is shown, and whose is asked for. Files that change are taken up at
//! the next connection; those that cannot be used leave the last good ones in force. Connections that are open stay open.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use zonebreak_xds::Punctual;

use crate::config::XdsConfig;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes under way at once. When there are more, the oldest is given up: who connects and says nothing keeps nobody out.
const HANDSHAKES: usize = 1024;

/// How soon files that could not be used are read again, though they look as they did.
const AGAIN: Duration = Duration::from_secs(10);

/// A connection whose client has been made out.
pub type Secured = TlsStream<Punctual>;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use {} for TLS ({setting}): {why}", path.display())]
pub struct TlsError {
    setting: &'static str,
    path: PathBuf,
    why: String,
}

/// The identity of the server, as its files have it.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    in_force: Mutex<InForce>,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

#[derive(Debug)]
struct InForce {
    config: Arc<ServerConfig>,
    /// The files as they were last looked at, whether or not they could be used.
    seen: Vec<Stamp>,
    /// When they could not.
    failed: Option<Instant>,
}

/// What changes with a file: its inode, its length, and when it was last changed, its owner and mode too. None: it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

// === impl Tls ===

impl Tls {
    /// Reads the files, if the configuration names any.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub fn open(config: &XdsConfig) -> Result<Option<Arc<Self>>, TlsError> {
        let (Some(certificate), Some(key)) = (config.cert_file.clone(), config.key_file.clone()) else {
            return Ok(None);
        };
        let files = Files { certificate, key, client_ca: config.client_ca_file.clone() };
        let in_force = Mutex::new(InForce { seen: files.stamps(), config: files.read()?, failed: None });
        Ok(Some(Arc::new(Self { files, in_force })))
    }

    /// What the files say now.
    fn current(&self) -> Arc<ServerConfig> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        let again = in_force.failed.is_some_and(|failed| failed.elapsed() >= AGAIN);
        if stamps != in_force.seen || again {
            in_force.seen = stamps;
            in_force.failed = None;
            match self.files.read() {
                Ok(config) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "TLS: the files have changed and are in force");
                    in_force.config = config;
                }
                // Half-written, perhaps: what comes next is looked at again.
                Err(error) => {
                    tracing::error!(%error, "TLS: the files before stay in force");
                    in_force.failed = Some(Instant::now());
                }
            }
        }
        Arc::clone(&in_force.config)
    }

    /// The connections that come through the handshake, as they do. Ends with the receiver.
    pub fn secure(
        self: Arc<Self>,
        incoming: impl Stream<Item = io::Result<Punctual>> + Send + 'static,
    ) -> ReceiverStream<io::Result<Secured>> {
        let (through, secured) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut incoming = std::pin::pin!(incoming);
            let (mut handshakes, mut oldest) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
            loop {
                tokio::select! {
                    () = through.closed() => return,
                    Some(_) = handshakes.join_next() => {}
                    connection = incoming.next() => {
                        let Some(Ok(connection)) = connection else { return };
                        if oldest.len() >= HANDSHAKES {
                            oldest.retain(|handshake| !handshake.is_finished());
                        }
                        if oldest.len() >= HANDSHAKES
                            && let Some(given_up) = oldest.pop_front()
                        {
                            tracing::warn!("TLS: {HANDSHAKES} handshakes are under way: the oldest is given up");
                            given_up.abort();
                        }
                        let (acceptor, through) = (TlsAcceptor::from(self.current()), through.clone());
                        oldest.push_back(handshakes.spawn(async move {
                            if let Some(secured) = handshake(acceptor, connection).await {
                                _ = through.send(Ok(secured)).await;
                            }
                        }));
                    }
                }
            }
        });
        ReceiverStream::new(secured)
    }
}

async fn handshake(acceptor: TlsAcceptor, connection: Punctual) -> Option<Secured> {
    let from = connection.connect_info().remote_addr();
    let from = from.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
    match timeout(PATIENCE, acceptor.accept(connection)).await {
        Ok(Ok(secured)) => return Some(secured),
        // A port scan, or a load balancer that only looks whether the port is open.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%from, "TLS: a client left without a word");
        }
        Ok(Err(error)) => tracing::warn!(%from, %error, "TLS: a client was turned away"),
        Err(_) => tracing::warn!(%from, "TLS: a handshake was not finished in {} s", PATIENCE.as_secs()),
    }
    None
}

// === impl Files ===

impl Files {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca)
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let file = fs::metadata(path).ok()?;
            Some((file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
        };
        self.paths().map(stamp).collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates("xds.cert_file", &self.certificate)?;
        let because = |setting, path: &Path| {
            let path = path.to_owned();
            move |why: &dyn std::fmt::Display| TlsError { setting, path, why: why.to_string() }
        };
        let of_key = because("xds.key_file", &self.key);
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| of_key.clone()(&error))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| of_key.clone()(&error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let of_ca = because("xds.client_ca_file", file);
                let mut roots = RootCertStore::empty();
                for ca in certificates("xds.client_ca_file", file)? {
                    roots.add(ca).map_err(|error| of_ca.clone()(&error))?;
                }
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| of_ca(&error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| of_key(&error))?;
        // gRPC is HTTP/2 and nothing else (RFC 9113, 3.3).
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |why: String| TlsError { setting, path: path.to_owned(), why };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match all {
        Ok(all) if all.is_empty() => Err(fail("there is no PEM of a certificate in it".to_owned())),
        all => all.map_err(|error| fail(error.to_string())),
    }
}
