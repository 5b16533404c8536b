//! Where the leader of one etcd that spans regions may be: a cluster stretched over three regions survives the loss of one, and is as
//! slow as its leader is far from its writers. Watches where the leader is, and moves it back when it strays. The decisions are pure
//! ([`decide`]); this looks, and carries them out.
//!
//! # States
//!
//! ```text
//!            leader elsewhere, for `patience` without a break       moved
//!  in place ──────────────────────────────────────────────> strays ──────> resting, `rest` long; twice as long each time
//!     ^ <───────────────── it came back by itself ───────────┘  │          that the leader strays again soon
//!     │                                                         │ nobody fit: told, nothing is done
//!     └─────────────────────────────────────────────────────────┴──────────────────────────────────────────┘
//! ```
//!
//! A leader is moved to a voter only: a learner cannot lead. And to one that answers, in an allowed region, that is close behind in the log:
//! etcd stops taking writes while it waits for the new leader to catch up. Moving costs a pause of a few milliseconds; a leader that is
//! pulled back and forth costs more than one that is far away, so the guard gives up more and more often.

pub mod decide;
mod metrics;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use decide::{Action, Guard, Limits, Member, Placement, RegionRow, View};
pub use metrics::GuardMetrics;

use crate::{
    client::{Cluster, EtcdError},
    options::ClusterOptions,
};

/// Where the leader is, and what the loss of each region would mean.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every member.
    pub members: Vec<Member>,
    /// The leader's ID; `None` while there is none.
    pub leader: Option<u64>,
    /// Whether it is in an allowed region.
    pub in_place: bool,
    /// What the loss of each region would mean.
    pub regions: Vec<RegionRow>,
}

/// Looks once.
///
/// # Errors
/// When no member answers.
pub async fn look(options: &ClusterOptions, placement: &Placement) -> Result<View, EtcdError> {
    let cluster = Cluster::new("stretched", options.clone());
    let mut member = cluster.connect().await?;
    let list = cluster.ask(member.client.member_list()).await?;
    let mut asked = tokio::task::JoinSet::new();
    for each in list.members() {
        let urls = each.client_urls().iter().map(|url| url.as_str().to_owned());
        let reached = ClusterOptions { endpoints: urls.collect(), ..options.clone() };
        let id = each.id();
        asked.spawn(async move { (id, status(reached).await) });
    }
    let mut answers: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    while let Some(ended) = asked.join_next().await {
        if let Ok((id, Some(answer))) = ended {
            answers.insert(id, answer);
        }
    }
    let members = list.members().iter().map(|each| {
        let peers: Vec<&str> = each.peer_urls().iter().map(AsRef::as_ref).collect();
        Member {
            id: each.id(),
            name: each.name().to_owned(),
            region: placement.of(each.name(), &peers),
            learner: each.is_learner(),
            raft_index: answers.get(&each.id()).map(|(_, index)| *index),
        }
    });
    // Members that were cut off name a leader that is none any more: the one that most name.
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for (leader, _) in answers.values().filter(|(leader, _)| *leader != 0) {
        *votes.entry(*leader).or_default() += 1;
    }
    let leader = votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(leader, _)| leader);
    Ok(View { members: members.collect(), leader })
}

/// Whom a member follows, and how far its log is.
async fn status(options: ClusterOptions) -> Option<(u64, u64)> {
    let status = Cluster::new("stretched", options).status().await.ok()?;
    Some((status.leader(), status.raft_index()))
}

/// Says where everything is.
///
/// # Errors
/// When no member answers.
pub async fn report(
    options: &ClusterOptions,
    placement: &Placement,
    limits: &Limits,
) -> Result<Report, EtcdError> {
    let view = look(options, placement).await?;
    Ok(Report {
        in_place: view.in_place(limits),
        regions: view.regions(),
        leader: view.leader,
        members: view.members,
    })
}

/// Keeps the leader where it may be, until `cancel`. What fails is tried again at the next look.
pub async fn keep(
    options: ClusterOptions,
    placement: Placement,
    limits: Limits,
    every: Duration,
    metrics: GuardMetrics,
    cancel: CancellationToken,
) {
    let (begun, mut guard, mut said) = (Instant::now(), Guard::new(limits.clone()), None);
    loop {
        let now = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let seen = look(&options, &placement).await;
        metrics.note(seen.as_ref().ok(), &limits);
        let action = match seen {
            Ok(view) => guard.step(now, &view),
            Err(error) => Action::Blind(error.to_string()),
        };
        match &action {
            Action::Move { to, name, region } => {
                tracing::warn!(to = name, %region, "the leader strays; asking it to hand over");
                match move_leader(&options, *to).await {
                    Ok(()) => {
                        metrics.moves.inc();
                        tracing::warn!(to = name, %region, "the leader was moved");
                    }
                    Err(error) => {
                        metrics.failed.inc();
                        guard.failed();
                        tracing::warn!(
                            to = name,
                            "the leader was not moved, and is asked again after a rest: failed to {error}"
                        );
                    }
                }
            }
            other if Some(other) == said.as_ref() => {}
            Action::InPlace => tracing::info!("the leader is where it may be"),
            Action::Strays => tracing::warn!("the leader strays; it is moved if it stays there"),
            Action::Rests => tracing::warn!("the leader strays; resting before it is asked once more"),
            Action::Nobody(why) => tracing::warn!(why, "the leader strays and nobody can take over"),
            Action::Blind(why) => tracing::warn!("failed to {why}"),
        }
        said = Some(action);
        if cancel.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
            return;
        }
    }
}

/// Asks the leader to hand over: no other member can.
async fn move_leader(options: &ClusterOptions, to: u64) -> Result<(), EtcdError> {
    let cluster = Cluster::new("stretched", options.clone());
    let mut member = cluster.connect().await?;
    let list = cluster.ask(member.client.member_list()).await?;
    let leader = cluster.ask(member.client.status()).await?.leader();
    let urls = list.members().iter().find(|each| each.id() == leader).map(|each| each.client_urls().to_vec());
    let endpoints = urls.unwrap_or_default();
    let cluster = Cluster::new("stretched", ClusterOptions { endpoints, ..options.clone() });
    let mut leader = cluster.connect().await?;
    cluster.ask(leader.client.move_leader(to)).await.map(drop)
}
