//! When a leader is moved, to whom, and whether the rest of a cluster can go on without a region. Pure: the time and what was seen
//! are arguments.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::region::{Region, RegionError};

/// The longest rest between two moves, as a multiple of the first.
const LONGEST_REST: u64 = 32;

/// Entries that a new leader may be behind.
const CLOSE: u64 = 5_000;

/// Which member is in which region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement(Vec<(String, Region)>);

/// A member as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its ID.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it is; `None` when nobody said.
    pub region: Option<Region>,
    /// Whether it has no vote.
    pub learner: bool,
    /// How far its log is; `None` when it does not answer.
    pub raft_index: Option<u64>,
}

/// A cluster as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Every member.
    pub members: Vec<Member>,
    /// The leader.
    pub leader: Option<u64>,
}

/// What the loss of a region would mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionRow {
    /// The region; `None` for members whose region nobody said.
    pub region: Option<Region>,
    /// Its voters.
    pub voters: usize,
    /// Its learners.
    pub learners: usize,
    /// Voters elsewhere that answer now.
    pub left: usize,
    /// How many are needed.
    pub quorum: usize,
    /// Whether the rest goes on without it, as the members answer now.
    pub survives: bool,
}

/// What the guard goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Where the leader may be.
    pub allowed: BTreeSet<Region>,
    /// How long it must have strayed, in milliseconds.
    pub patience_ms: u64,
    /// The first rest after a move, in milliseconds.
    pub rest_ms: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is in place.
    InPlace,
    /// Nothing yet.
    Strays,
    /// Nothing, so soon after the last move.
    Rests,
    /// Nothing can be done, and why.
    Nobody(String),
    /// Nothing is known; for who could not look.
    Blind(String),
    /// Move it.
    Move {
        /// To this member.
        to: u64,
        /// Its name.
        name: String,
        /// Where that is.
        region: Region,
    },
}

/// The guard.
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    /// Who strays, since when.
    strays: Option<(u64, u64)>,
    /// When it was moved last, and how long to rest after that.
    moved: Option<(u64, u64)>,
}

// === impl Placement ===

impl Placement {
    /// Reads `NAME=REGION` or `PEER-URL=REGION`; a name or URL comes once.
    ///
    /// # Errors
    /// [`RegionError::Name`] with what cannot be read.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, RegionError> {
        let mut placed: Vec<(String, Region)> = Vec::new();
        for rule in rules {
            let Some((member, region)) = rule.rsplit_once('=').filter(|(member, _)| !member.is_empty())
            else {
                return Err(RegionError::Name(rule.to_owned()));
            };
            if placed.iter().any(|(known, _)| known == member) {
                return Err(RegionError::Name(rule.to_owned()));
            }
            placed.push((member.to_owned(), Region::new(region)?));
        }
        Ok(Self(placed))
    }

    /// Where a member is.
    pub fn of(&self, name: &str, peers: &[&str]) -> Option<Region> {
        let same = |url: &str, member: &str| url.trim_end_matches('/') == member.trim_end_matches('/');
        let is = |member: &str| member == name || peers.iter().any(|url| same(url, member));
        self.0.iter().find(|(member, _)| is(member)).map(|(_, region)| region.clone())
    }
}

// === impl View ===

impl View {
    /// Whether the leader is where it may be; nobody leads nowhere.
    pub fn in_place(&self, limits: &Limits) -> bool {
        self.leading()
            .is_some_and(|leader| leader.region.as_ref().is_some_and(|at| limits.allowed.contains(at)))
    }

    /// What the loss of each region would mean, in order.
    pub fn regions(&self) -> Vec<RegionRow> {
        let voters = self.members.iter().filter(|member| !member.learner);
        let quorum = voters.clone().count() / 2 + 1;
        let mut regions: BTreeMap<Option<Region>, (usize, usize)> = BTreeMap::new();
        for member in &self.members {
            let (of, without) = regions.entry(member.region.clone()).or_default();
            *of += usize::from(!member.learner);
            *without += usize::from(member.learner);
        }
        let row = |(region, (of, learners)): (Option<Region>, (usize, usize))| {
            let elsewhere = voters.clone().filter(|member| member.region != region);
            let left = elsewhere.filter(|member| member.raft_index.is_some()).count();
            RegionRow { region, voters: of, learners, left, quorum, survives: left >= quorum }
        };
        regions.into_iter().map(row).collect()
    }

    fn leading(&self) -> Option<&Member> {
        self.members.iter().find(|member| Some(member.id) == self.leader)
    }

    /// Who should lead: of the voters in an allowed region that are close behind, the one that is closest.
    fn successor(&self, limits: &Limits) -> Option<(&Member, &Region)> {
        let head = self.members.iter().filter_map(|member| member.raft_index).max().unwrap_or(0);
        let fit = self.members.iter().filter_map(|member| {
            let region = member.region.as_ref().filter(|region| limits.allowed.contains(region))?;
            let index = member.raft_index.filter(|index| head.saturating_sub(*index) <= CLOSE)?;
            (!member.learner && Some(member.id) != self.leader).then_some((member, region, index))
        });
        let best = fit.max_by(|a, b| a.2.cmp(&b.2).then_with(|| b.0.name.cmp(&a.0.name)));
        best.map(|(member, region, _)| (member, region))
    }
}

// === impl Guard ===

impl Guard {
    /// One that has seen nothing yet.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, strays: None, moved: None }
    }

    /// The move that was told last was refused: it was none. It is tried again after a rest, which does not grow by that.
    pub fn failed(&mut self) {
        if let Some((_, rest)) = &mut self.moved {
            *rest = (*rest / 2).max(self.limits.rest_ms);
        }
    }

    /// Takes in what was seen, and says what to do.
    pub fn step(&mut self, now_ms: u64, view: &View) -> Action {
        let Some(leader) = view.leader else {
            // An election: whoever comes out of it is looked at anew.
            self.strays = None;
            return Action::Nobody("no leader is known".to_owned());
        };
        if view.in_place(&self.limits) {
            self.strays = None;
            // It has stayed for longer than a rest: the next time is a first time.
            if self.moved.is_some_and(|(at, rest)| now_ms.saturating_sub(at) > rest.saturating_mul(2)) {
                self.moved = None;
            }
            return Action::InPlace;
        }
        let since = match self.strays {
            Some((who, since)) if who == leader => since,
            _ => {
                self.strays = Some((leader, now_ms));
                now_ms
            }
        };
        if now_ms.saturating_sub(since) < self.limits.patience_ms {
            return Action::Strays;
        }
        if self.moved.is_some_and(|(at, rest)| now_ms.saturating_sub(at) < rest) {
            return Action::Rests;
        }
        let Some((member, region)) = view.successor(&self.limits) else {
            let allowed: Vec<&str> = self.limits.allowed.iter().map(Region::as_str).collect();
            return Action::Nobody(format!("no voter in {} answers and is close behind", allowed.join(", ")));
        };
        let longest = self.limits.rest_ms.saturating_mul(LONGEST_REST);
        let rest = self.moved.map_or(self.limits.rest_ms, |(_, rest)| rest.saturating_mul(2).min(longest));
        self.moved = Some((now_ms, rest));
        self.strays = None;
        Action::Move { to: member.id, name: member.name.clone(), region: region.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(name: &str) -> Region {
        Region::new(name).unwrap()
    }

    fn limits() -> Limits {
        Limits { allowed: BTreeSet::from([region("west")]), patience_ms: 1_000, rest_ms: 10_000 }
    }

    /// Members 1 and 2 in the west, 3 in the east, 4 a learner in the west.
    fn view(leader: u64) -> View {
        let member = |id: u64, at: &str, learner| Member {
            id,
            name: format!("m{id}"),
            region: Some(region(at)),
            learner,
            raft_index: Some(100 + id),
        };
        let members = vec![
            member(1, "west", false),
            member(2, "west", false),
            member(3, "east", false),
            member(4, "west", true),
        ];
        View { members, leader: Some(leader) }
    }

    #[test]
    fn a_leader_is_moved_when_it_has_strayed_for_a_while_and_to_the_closest_voter() {
        let mut guard = Guard::new(limits());
        assert_eq!(guard.step(0, &view(1)), Action::InPlace);
        assert_eq!(guard.step(10, &view(3)), Action::Strays);
        assert_eq!(guard.step(900, &view(1)), Action::InPlace);
        assert_eq!(guard.step(950, &view(3)), Action::Strays, "counted anew");
        let moved = Action::Move { to: 2, name: "m2".to_owned(), region: region("west") };
        assert_eq!(guard.step(1_950, &view(3)), moved, "the learner is further and cannot lead");
    }

    #[test]
    fn one_that_strays_again_and_again_is_moved_less_and_less_often() {
        let (mut guard, mut moves) = (Guard::new(limits()), Vec::new());
        for now in (0..200_000).step_by(500) {
            if let Action::Move { .. } = guard.step(now, &view(3)) {
                moves.push(now);
            }
        }
        let apart: Vec<u64> = moves.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(apart, [10_000, 20_000, 40_000, 80_000]);
    }

    #[test]
    fn a_move_that_was_refused_is_no_reason_to_rest_for_longer() {
        let (mut guard, mut moves) = (Guard::new(limits()), Vec::new());
        for now in (0..60_000).step_by(500) {
            if let Action::Move { .. } = guard.step(now, &view(3)) {
                moves.push(now);
                guard.failed();
            }
        }
        assert_eq!(moves, [1_000, 11_000, 21_000, 31_000, 41_000, 51_000]);
    }

    #[test]
    fn a_region_may_be_lost_when_the_voters_elsewhere_are_a_quorum() {
        let rows = view(1).regions();
        let told: Vec<_> =
            rows.iter().map(|row| (row.region.clone().unwrap().to_string(), row.survives)).collect();
        assert_eq!(told, [("east".to_owned(), true), ("west".to_owned(), false)]);
        let mut degraded = view(1);
        degraded.members[0].raft_index = None;
        assert!(degraded.regions().iter().all(|row| !row.survives), "with one down already none may be lost");
    }

    #[test]
    fn members_are_placed_by_name_or_peer_url() {
        let placement = Placement::parse(["m1=west", "http://10.2.0.1:2380=east"]).unwrap();
        assert_eq!(placement.of("m1", &[]), Some(region("west")));
        assert_eq!(placement.of("x", &["http://10.2.0.1:2380/"]), Some(region("east")));
        assert_eq!(placement.of("x", &["http://10.2.0.1:23801"]), None);
        for odd in ["m1", "=west", "m1=a b"] {
            assert!(Placement::parse([odd]).is_err(), "{odd}");
        }
        assert!(Placement::parse(["m1=west", "m1=east"]).is_err());
    }

    proptest! {
        #[test]
        fn only_a_voter_that_answers_in_an_allowed_region_is_ever_made_leader(
            seen in prop::collection::vec((1_u64..5, any::<[bool; 4]>(), any::<[bool; 4]>(), 0_u64..3_000), 1..60),
        ) {
            let (mut guard, mut now, mut last) = (Guard::new(limits()), 0, None);
            for (leader, west, answers, later) in seen {
                now += later;
                let mut view = view(leader);
                for (member, (west, answers)) in view.members.iter_mut().zip(west.into_iter().zip(answers)) {
                    member.region = Some(region(if west { "west" } else { "east" }));
                    member.raft_index = answers.then_some(9);
                }
                if let Action::Move { to, .. } = guard.step(now, &view) {
                    let member = view.members.iter().find(|member| member.id == to).unwrap();
                    prop_assert!(!member.learner && member.raft_index.is_some() && to != leader);
                    prop_assert_eq!(member.region.clone(), Some(region("west")));
                    prop_assert!(last.is_none_or(|last| now - last >= limits().patience_ms));
                    last = Some(now);
                }
            }
        }
    }
}
