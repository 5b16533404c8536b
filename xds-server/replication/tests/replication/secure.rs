//! etcds that ask who is there: users with the fewest permissions that replication needs, and TLS with client certificates.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Identity, Permission, RoleRevokePermissionOptions};
use zonebreak_drill::lab::{Authority, Certificate, Command, Etcd, Lab, Link, Port, Process, Tool};
use zonebreak_replication::{
    ClusterOptions, RESERVED, ReplicationOptions, TlsOptions,
    leader::{self, Limits, Placement},
    region::Region,
    verify,
};

use crate::support::{PREFIX, Pair, Running, list, put, until};

/// What a login costs an etcd: by default so much that one which waits for a core does not answer in time.
const LOGIN: [&str; 2] = ["--bcrypt-cost", "4"];

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
    pair.source.restart_with(&LOGIN).await.unwrap();
    pair.destination.restart_with(&[&LOGIN[..], &["--auth-token", &tokens]].concat()).await.unwrap();
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
    // The leader's guard must be root.
    let root = ClusterOptions {
        user: Some("root".to_owned()),
        password: Some("root".to_owned()),
        ..options.source.clone()
    };
    assert!(leader::report(&root, &placement(), &here()).await.unwrap().in_place);
    // A wrong password is told, and not tried for ever.
    options.source.password = Some("wrong".to_owned());
    let error = Running::start(options).gives_up().await.to_string();
    assert!(error.contains("source etcd as this user") && error.contains("permission"), "{error}");
}

/// A user who may still write, but not read what was written: nothing of it would be verified any more, and nobody told.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_does_not_let_itself_be_verified_ends_replication() {
    let mut pair = Pair::start().await;
    pair.destination.restart_with(&LOGIN).await.unwrap();
    let both = [PREFIX, RESERVED].map(|prefix| Permission::read_write(prefix).with_prefix());
    guard(&mut pair.to().await, both.to_vec()).await;
    let mut options = pair.options();
    (options.destination.user, options.destination.password) =
        (Some("replicator".to_owned()), Some("secret".to_owned()));
    let mut source = pair.from().await;
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(options);
    replicator.streams().await;
    until("it to be verified", async || replicator.metrics.verifying.get() == 1).await;
    // A watch that merely ends is opened again.
    let restarts = replicator.metrics.clone();
    pair.destination.kill();
    until("the end of the watch to be seen", async || restarts.verifying.get() == 0).await;
    pair.destination.restart().await.unwrap();
    until("it to be verified again", async || restarts.verifying.get() == 1).await;
    let mut root = as_root(pair.destination.url()).await;
    root.role_revoke_permission(
        "replication",
        PREFIX,
        Some(RoleRevokePermissionOptions::new().with_prefix()),
    )
    .await
    .unwrap();
    let write = Permission::write(PREFIX).with_prefix();
    root.role_grant_permission("replication", write).await.unwrap();
    // What is watched already goes on being watched until the connection ends.
    pair.destination.kill();
    pair.destination.restart().await.unwrap();
    let error = replicator.gives_up().await.to_string();
    assert!(error.contains("destination") && error.contains("permission"), "{error}");
    assert_eq!(restarts.verifying.get(), 0);
}

/// An authority, and a certificate of it for both sides of a connection to this machine.
struct Certificates {
    authority: Authority,
    own: Certificate,
}

impl Certificates {
    fn make() -> Self {
        let authority = Authority::new().unwrap();
        let own = authority.issue("zonebreak").unwrap();
        Self { authority, own }
    }

    /// The same authority with a certificate of this user, whom etcd takes its holder for when users are switched on.
    fn of(self, user: &str) -> Self {
        Self { own: self.authority.issue(user).unwrap(), ..self }
    }

    fn options(&self, url: &str) -> ClusterOptions {
        let identity = Some((self.own.certificate.clone().into_bytes(), self.own.key.clone().into_bytes()));
        let tls = TlsOptions { ca: Some(self.authority.pem().into()), identity, server_name: None };
        ClusterOptions { tls: Some(tls), ..ClusterOptions::plain([url]) }
    }

    async fn client(&self, url: &str) -> Result<Client, etcd_client::Error> {
        let tls = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(self.authority.pem()))
            .identity(Identity::from_pem(&self.own.certificate, &self.own.key));
        let mut client = Client::connect([url], Some(ConnectOptions::new().with_tls(tls))).await?;
        client.get("/", None).await?;
        Ok(client)
    }

    /// An etcd that talks to nobody without a certificate.
    async fn etcd(&self, lab: &Lab, name: &str) -> (Process, [Port; 2], String) {
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let (peer, all) = (ports[1].url(), format!("{name}={}", ports[1].url()));
        let (process, url) = self.member(lab, name, &ports, &peer, &all);
        until("an etcd with TLS to answer", async || self.client(&url).await.is_ok()).await;
        (process, ports, url)
    }

    /// Three members that talk to nobody without a certificate.
    async fn cluster(&self, lab: &Lab, name: &str) -> Vec<(Process, String)> {
        let ports = ["one", "two", "three"]
            .map(|member| (format!("{name}-{member}"), [Port::reserve().unwrap(), Port::reserve().unwrap()]));
        let all: Vec<String> =
            ports.iter().map(|(name, ports)| format!("{name}={}", ports[1].url())).collect();
        let start = |(name, ports): &(String, [Port; 2])| {
            self.member(lab, name, ports, &ports[1].url(), &all.join(","))
        };
        let members: Vec<_> = ports.iter().map(start).collect();
        for (_, url) in &members {
            until("a member to answer", async || self.client(url).await.is_ok()).await;
        }
        members
    }

    /// A member that its peers reach at `peer`. It may not answer yet.
    fn member(&self, lab: &Lab, name: &str, ports: &[Port; 2], peer: &str, all: &str) -> (Process, String) {
        let file = |kind: &str, content: &str| {
            let path = lab.path().join(format!("{name}-{kind}.pem"));
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (ca, certificate) =
            (file("ca", self.authority.pem()), file("certificate", &self.own.certificate));
        let key = file("key", &self.own.key);
        let url = ports[0].url().replace("http://", "https://");
        let command = Command::new(lab.programs().path(Tool::Etcd).unwrap())
            .args(["--name", name, "--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &ports[1].url(), "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", all])
            .args(["--data-dir".into(), lab.path().join(format!("{name}.data")).into_os_string()])
            .args(["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &certificate])
            .args(["--key-file", &key, "--logger", "zap", "--log-level", "error"])
            // Three times the usual: members that are kept waiting for a core are not to elect another leader.
            .args(["--election-timeout", "3000"])
            .args(LOGIN);
        (Process::spawn(lab, name, command).unwrap(), url)
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
    // The leader's guard shows the same certificate.
    let report = leader::report(&certificates.options(&from), &placement(), &here()).await.unwrap();
    assert!(report.in_place, "{report:?}");
}

/// As it is run where it matters; and of each side the member dies that is spoken to.
#[tokio::test(flavor = "multi_thread")]
async fn three_members_with_certificates_and_users_on_both_sides_lose_one_and_nothing_else() {
    let (lab, root) = (Lab::new().unwrap(), Certificates::make().of("root"));
    let (mut from, mut to) = tokio::join!(root.cluster(&lab, "source"), root.cluster(&lab, "destination"));
    // With members that live on.
    let mut source = root.client(&from[1].1).await.unwrap();
    let mut destination = root.client(&to[1].1).await.unwrap();
    let read = Permission::read(PREFIX).with_prefix();
    guard(&mut source, vec![read]).await;
    let both = [PREFIX, RESERVED].map(|prefix| Permission::read_write(prefix).with_prefix());
    guard(&mut destination, both.to_vec()).await;
    let replicator = root.of("replicator");
    let all = |members: &[(Process, String)]| ClusterOptions {
        endpoints: members.iter().map(|(_, url)| url.clone()).collect(),
        ..replicator.options(&members[0].1)
    };
    let options = ReplicationOptions {
        heartbeat: Duration::from_millis(500),
        ..ReplicationOptions::new("test", PREFIX, all(&from), all(&to), lab.path().join("spool"))
    };
    put(&mut source, "/app/a", "1").await;
    let running = Running::start(options.clone());
    running.streams().await;
    for round in 0..30 {
        match round {
            10 => from[0].0.kill(),
            20 => to[0].0.kill(),
            _ => {}
        }
        // Until the others have found a leader again.
        until("the source to take a write", async || {
            source.put("/app/a", round.to_string(), None).await.is_ok()
                && source.put(format!("/app/{round}"), "1", None).await.is_ok()
        })
        .await;
    }
    let wanted = list(&mut source, PREFIX).await;
    assert_eq!(wanted.len(), 31);
    until("all of it", async || {
        // Of a member whose leader is gone, for a moment.
        destination.get(PREFIX, None).await.is_ok() && list(&mut destination, PREFIX).await == wanted
    })
    .await;
    assert_eq!(verify::verify(options, 9).await.unwrap().differences, 0);
    assert_eq!((running.metrics.mismatches.get(), running.metrics.strangers.get()), (0, 0));
    running.stop().await;
}

fn placement() -> Placement {
    Placement::parse(["source=here"]).unwrap()
}

fn here() -> Limits {
    let allowed = [Region::new("here").unwrap()].into();
    Limits { allowed, patience_ms: 0, rest_ms: 0 }
}

/// A follower learns what is committed later than the leader's clients do, here 200 ms later. A user who may read the prefix alone
/// and shows a certificate needs nothing else of the follower that would have it catch up.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lags_is_not_taken_for_a_source_that_went_back() {
    let (lab, certificates) = (Lab::new().unwrap(), Certificates::make());
    let destination = Etcd::start_named(&lab, "destination").await.unwrap();
    let ports = ["one", "two"].map(|name| (name, [Port::reserve().unwrap(), Port::reserve().unwrap()]));
    let mut links = Vec::new();
    for (_, ports) in &ports {
        links.push(Link::open(ports[1].address(), Duration::from_millis(200)).await.unwrap());
    }
    let all = format!("one={},two={}", links[0].url(), links[1].url());
    let mut members = Vec::new();
    for ((name, ports), link) in ports.iter().zip(&links) {
        members.push(certificates.member(&lab, name, ports, &link.url(), &all));
    }
    let root = certificates.of("root");
    let mut clients = Vec::new();
    for (_, url) in &members {
        until("a member to answer", async || root.client(url).await.is_ok()).await;
        clients.push(root.client(url).await.unwrap());
    }
    guard(&mut clients[0], vec![Permission::read(PREFIX).with_prefix()]).await;
    let status = clients[0].status().await.unwrap();
    let leads = status.leader() == status.header().unwrap().member_id();
    let (leader, follower) = if leads { (0, 1) } else { (1, 0) };
    let replicator = root.of("replicator");
    let options = ReplicationOptions::new(
        "test",
        PREFIX,
        replicator.options(&members[follower].1),
        ClusterOptions::plain([destination.url()]),
        lab.path().join("spool"),
    );
    for round in 0..3 {
        let at = put(&mut clients[leader], "/app/a", &round.to_string()).await;
        let seen = verify::status(options.clone()).await.unwrap();
        assert!(seen.source_head.is_some_and(|head| head.0 >= at), "{seen:?}, and it was at {at}");
    }
}
