//! etcds that ask who is there: users with the fewest permissions that replication needs, and TLS with client certificates.

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use zonebreak_drill::lab::{Command, Lab, Port, Process, Tool};
use zonebreak_replication::{ClusterOptions, RESERVED, ReplicationOptions, TlsOptions, verify};

use crate::support::{PREFIX, Pair, Running, list, put, until};

/// Switches users on: `root`, and `replicator` with these permissions alone.
async fn guard(client: &mut Client, permissions: Vec<Permission>) {
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("replicator", "secret", None).await.unwrap();
    client.role_add("replication").await.unwrap();
    for permission in permissions {
        client.role_grant_permission("replication", permission).await.unwrap();
    }
    client.user_grant_role("replicator", "replication").await.unwrap();
    client.auth_enable().await.unwrap();
}

async fn as_root(url: String) -> Client {
    Client::connect([url], Some(ConnectOptions::new().with_user("root", "root"))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_need_no_more_than_the_prefix_and_the_checkpoints() {
    let mut pair = Pair::start().await;
    // One with tokens that say at which state of its users they were given out, one without.
    let key = pair.lab.path().join("token.key");
    std::fs::write(&key, [7; 32]).unwrap();
    let tokens = format!("jwt,sign-method=HS256,ttl=600s,priv-key={}", key.display());
    pair.destination.restart_with(&["--auth-token", &tokens]).await.unwrap();
    let read = Permission::read(PREFIX).with_prefix();
    guard(&mut pair.from().await, vec![read]).await;
    let both = [PREFIX, RESERVED].map(|prefix| Permission::read_write(prefix).with_prefix());
    guard(&mut pair.to().await, both.to_vec()).await;
    let mut options = pair.options();
    for side in [&mut options.source, &mut options.destination] {
        (side.user, side.password) = (Some("replicator".to_owned()), Some("secret".to_owned()));
    }
    let (mut source, mut to) = (as_root(pair.source.url()).await, as_root(pair.destination.url()).await);
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/b", "2").await;
    until("both keys", async || list(&mut to, PREFIX).await.len() == 2).await;
    assert_eq!(verify::verify(options.clone(), 9).await.unwrap().differences, 0);
    // A change of users makes such tokens invalid; that ends nothing.
    for client in [&mut source, &mut to] {
        client.user_add("somebody", "else", None).await.unwrap();
    }
    put(&mut as_root(pair.source.url()).await, "/app/c", "3").await;
    let mut to = as_root(pair.destination.url()).await;
    until("the third key", async || list(&mut to, PREFIX).await.len() == 3).await;
    replicator.stop().await;
    // A wrong password is told, and not tried for ever.
    options.source.password = Some("wrong".to_owned());
    let error = Running::start(options).gives_up().await.to_string();
    assert!(error.contains("source etcd as this user") && error.contains("permission"), "{error}");
}

/// An authority, and a certificate of it for both sides of a connection to this machine.
struct Certificates {
    ca: String,
    certificate: String,
    key: String,
}

impl Certificates {
    fn make() -> Self {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let leaf = CertificateParams::new(names).unwrap();
        let root = ca.self_signed(&ca_key).unwrap();
        let signed = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        Self { ca: root.pem(), certificate: signed.pem(), key: key.serialize_pem() }
    }

    fn options(&self, url: &str) -> ClusterOptions {
        let identity = Some((self.certificate.clone().into_bytes(), self.key.clone().into_bytes()));
        let tls = TlsOptions { ca: Some(self.ca.clone().into_bytes()), identity, server_name: None };
        ClusterOptions { tls: Some(tls), ..ClusterOptions::plain([url]) }
    }

    async fn client(&self, url: &str) -> Result<Client, etcd_client::Error> {
        let tls = etcd_client::TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.certificate, &self.key));
        let mut client = Client::connect([url], Some(ConnectOptions::new().with_tls(tls))).await?;
        client.get("/", None).await?;
        Ok(client)
    }

    /// An etcd that talks to nobody without a certificate.
    async fn etcd(&self, lab: &Lab, name: &str) -> (Process, [Port; 2], String) {
        let file = |kind: &str, content: &str| {
            let path = lab.path().join(format!("{name}-{kind}.pem"));
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (ca, certificate) = (file("ca", &self.ca), file("certificate", &self.certificate));
        let key = file("key", &self.key);
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let url = ports[0].url().replace("http://", "https://");
        let command = Command::new(lab.programs().path(Tool::Etcd).unwrap())
            .args(["--name", name, "--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &ports[1].url(), "--initial-advertise-peer-urls", &ports[1].url()])
            .args(["--initial-cluster", &format!("{name}={}", ports[1].url())])
            .args(["--data-dir".into(), lab.path().join(format!("{name}.data")).into_os_string()])
            .args(["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &certificate])
            .args(["--key-file", &key, "--logger", "zap", "--log-level", "error"]);
        let process = Process::spawn(lab, name, command).unwrap();
        until("an etcd with TLS to answer", async || self.client(&url).await.is_ok()).await;
        (process, ports, url)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates_on_both_sides() {
    let (lab, certificates) = (Lab::new().unwrap(), Certificates::make());
    let (_source, _ports, from) = certificates.etcd(&lab, "source").await;
    let (_destination, _other_ports, to) = certificates.etcd(&lab, "destination").await;
    let options = ReplicationOptions::new(
        "test",
        PREFIX,
        certificates.options(&from),
        certificates.options(&to),
        lab.path().join("spool"),
    );
    let mut source = certificates.client(&from).await.unwrap();
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    put(&mut source, "/app/b", "2").await;
    let mut destination = certificates.client(&to).await.unwrap();
    until("both keys", async || list(&mut destination, PREFIX).await.len() == 2).await;
    assert_eq!(verify::verify(options, 9).await.unwrap().differences, 0);
    replicator.stop().await;
}
