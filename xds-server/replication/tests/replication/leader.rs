//! A real etcd of three members, stretched over two regions.

use std::{collections::BTreeSet, time::Duration};

use etcd_client::{Client, MemberAddOptions};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use zonebreak_drill::lab::{Command, Lab, Port, Process, Tool};
use zonebreak_replication::{
    ClusterOptions,
    leader::{self, GuardMetrics, Limits, Placement},
    region::Region,
};

use crate::support::until;

/// Its members, by number.
struct Stretched {
    lab: Lab,
    members: Vec<(Process, Port, Port)>,
}

// === impl Stretched ===

impl Stretched {
    async fn start() -> Self {
        let lab = Lab::new().unwrap();
        let ports: Vec<(Port, Port)> =
            (0..3).map(|_| (Port::reserve().unwrap(), Port::reserve().unwrap())).collect();
        let initial: Vec<String> =
            ports.iter().enumerate().map(|(at, (_, peer))| format!("m{at}={}", peer.url())).collect();
        let members = ports.into_iter().enumerate().map(|(at, (client, peer))| {
            let process = spawn(&lab, &format!("m{at}"), &client, &peer, &initial.join(","), "new");
            (process, client, peer)
        });
        let stretched = Self { members: members.collect(), lab };
        let options = stretched.options();
        until("three members to answer", async || {
            let view = leader::look(&options, &placement()).await;
            view.is_ok_and(|view| {
                view.leader.is_some() && view.members.iter().all(|m| m.raft_index.is_some())
            })
        })
        .await;
        stretched
    }

    fn options(&self) -> ClusterOptions {
        ClusterOptions::plain(self.members.iter().map(|(_, client, _)| client.url()))
    }

    async fn leader(&self) -> String {
        let Ok(view) = leader::look(&self.options(), &placement()).await else { return String::new() };
        view.members.iter().find(|m| Some(m.id) == view.leader).map(|m| m.name.clone()).unwrap_or_default()
    }

    /// Moves the leader as an operator would, who looks again when it did not do: members that are kept waiting for a core elect
    /// another one in between.
    async fn move_to(&self, name: &str) {
        let Ok(view) = leader::look(&self.options(), &placement()).await else { return };
        let of = |id: u64| view.members.iter().find(|m| m.id == id).map(|m| m.name.as_str());
        let Some(from) = view.leader.and_then(of).and_then(|name| name.strip_prefix('m')) else { return };
        let to = view.members.iter().find(|m| m.name == name).unwrap().id;
        let at: usize = from.parse().unwrap();
        if Some(to) != view.leader {
            let mut client = Client::connect([self.members[at].1.url()], None).await.unwrap();
            let _moved = client.move_leader(to).await;
        }
    }
}

fn spawn(lab: &Lab, name: &str, client: &Port, peer: &Port, initial: &str, state: &str) -> Process {
    let command = Command::new(lab.programs().path(Tool::Etcd).unwrap())
        .args([
            "--name",
            name,
            "--listen-client-urls",
            &client.url(),
            "--advertise-client-urls",
            &client.url(),
        ])
        .args(["--listen-peer-urls", &peer.url(), "--initial-advertise-peer-urls", &peer.url()])
        .args(["--initial-cluster", initial, "--initial-cluster-state", state])
        .args(["--data-dir".into(), lab.path().join(format!("{name}.data")).into_os_string()])
        .args(["--logger", "zap", "--log-level", "error"]);
    Process::spawn(lab, name, command).unwrap()
}

/// Members 0 and 1 in the west, 2 and the learner in the east.
fn placement() -> Placement {
    Placement::parse(["m0=west", "m1=west", "m2=east", "learner=east"]).unwrap()
}

fn limits(region: &str, patience_ms: u64) -> Limits {
    Limits { allowed: BTreeSet::from([Region::new(region).unwrap()]), patience_ms, rest_ms: 1_000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_strays_is_moved_back_and_never_to_a_learner() {
    let mut stretched = Stretched::start().await;
    // A learner in the east, which cannot lead.
    let (client, peer) = (Port::reserve().unwrap(), Port::reserve().unwrap());
    let mut any = Client::connect([stretched.members[0].1.url()], None).await.unwrap();
    // etcd takes no new member before the others have known each other for five seconds.
    until("the learner to be added", async || {
        let learner = MemberAddOptions::new().with_is_learner();
        any.member_add([peer.url()], Some(learner)).await.is_ok()
    })
    .await;
    let initial: Vec<String> = (stretched.members.iter().enumerate())
        .map(|(at, (_, _, peer))| format!("m{at}={}", peer.url()))
        .chain([format!("learner={}", peer.url())])
        .collect();
    let _learner = spawn(&stretched.lab, "learner", &client, &peer, &initial.join(","), "existing");
    let options = stretched.options();
    until("the learner to answer", async || {
        let view = leader::look(&options, &placement()).await;
        view.is_ok_and(|view| view.members.iter().any(|member| member.learner && member.raft_index.is_some()))
    })
    .await;

    let mut report = None;
    until("the leader to be in the east", async || {
        stretched.move_to("m2").await;
        report = leader::report(&options, &placement(), &limits("west", 0)).await.ok();
        report.as_ref().is_some_and(|report| !report.in_place)
    })
    .await;
    let regions = report.unwrap().regions;
    let survives: Vec<_> = regions.iter().map(|row| (row.voters, row.learners, row.survives)).collect();
    assert_eq!(survives, [(1, 1, true), (2, 0, false)], "east may be lost, west may not");

    let stop = CancellationToken::new();
    let every = Duration::from_millis(100);
    let metrics = GuardMetrics::new(&Registry::new()).unwrap();
    let (told, limited) = (metrics.clone(), limits("west", 300));
    let guard = leader::keep(options.clone(), placement(), limited, every, told, stop.clone());
    let guard = tokio::spawn(guard);
    until("the leader to be moved to the west", async || {
        ["m0", "m1"].contains(&stretched.leader().await.as_str())
    })
    .await;
    until("that to be told", async || {
        let survives = |region| metrics.survives.with_label_values(&[region]).get();
        let told = (metrics.in_place.get(), survives("east"), survives("west"), metrics.answers.get());
        metrics.moves.get() > 0 && told == (1, 1, 0, 1)
    })
    .await;
    // It strays again, by itself: the voter that leads dies, and the one left in the west comes into its own.
    let mut dead = 0;
    until("a leader in the west", async || {
        let leader = stretched.leader().await;
        dead = usize::from(leader == "m1");
        ["m0", "m1"].contains(&leader.as_str())
    })
    .await;
    stretched.members[dead].0.kill();
    let other = format!("m{}", 1 - dead);
    until("the other one in the west to lead", async || stretched.leader().await == other).await;
    until("no region to be one that may be lost", async || {
        let report = leader::report(&options, &placement(), &limits("west", 0)).await;
        report.is_ok_and(|report| report.in_place && report.regions.iter().all(|row| !row.survives))
    })
    .await;
    stop.cancel();
    guard.await.unwrap();
}
