//! Two promoters of one destination in a model of both etcds: every step is one transaction that compares what it was decided
//! from, in any order, killed and started again anywhere; and somebody who takes their fences back.

use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::region::Region;

const SOURCE: ClusterId = ClusterId(1);
const HERE: ClusterId = ClusterId(2);
const PREFIX: &str = "/a/";

/// Both etcds.
struct World {
    source_up: bool,
    /// Its revision, which writes of data and of the record advance.
    source: i64,
    own_source: Option<Held>,
    checkpoint: Checkpoint,
    fence: i64,
    own_here: Option<Held>,
    at: i64,
    /// How often it was taken.
    taken: u32,
    /// Data writes that the source took in, by revision.
    admitted: Vec<i64>,
}

/// What a promoter remembers, until it is killed.
#[derive(Default)]
struct Promoter {
    drained: Option<(Revision, u64)>,
    forwarded: bool,
    given_up: bool,
    seen: Option<(Seen, i64)>,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let prefixes = (PREFIX.to_owned(), PREFIX.to_owned());
        let genesis = Checkpoint::genesis(SOURCE, HERE, prefixes, Uuid::nil());
        Self {
            source_up: true,
            source: 1,
            own_source: None,
            checkpoint: Checkpoint { source_revision: Revision(1), ..genesis },
            fence: 1,
            own_here: None,
            at: 1,
            taken: 0,
            admitted: Vec::new(),
        }
    }

    fn source_admits(&self) -> bool {
        self.own_source.as_ref().is_none_or(|held| held.ownership.cluster == SOURCE)
    }

    fn here_admits(&self) -> bool {
        self.own_here.as_ref().is_some_and(|held| held.ownership.cluster == HERE)
    }

    fn look(&self, promoter: &Promoter) -> Seen {
        Seen {
            checkpoint: self.checkpoint.clone(),
            here: HERE,
            own_here: self.own_here.clone(),
            source: if self.source_up {
                SourceSeen::Answers { cluster: SOURCE, own: self.own_source.clone() }
            } else {
                SourceSeen::Silent("down".to_owned())
            },
            drained: promoter.drained,
            forwarded: promoter.forwarded,
            given_up: promoter.given_up,
        }
    }

    fn held(epoch: u64, mod_revision: i64) -> Held {
        Self::held_by(HERE, epoch, mod_revision)
    }

    fn held_by(owner: ClusterId, epoch: u64, mod_revision: i64) -> Held {
        let ownership = Ownership::new(Region::of_cluster(owner), owner, epoch, "eve", Timestamp::UNIX_EPOCH);
        Held { prefix: PREFIX.to_owned(), ownership, mod_revision }
    }

    /// Carries a step out, if what it was decided from still is so. `fence` is the checkpoint's as it was seen.
    fn act(&mut self, promoter: &mut Promoter, seen: &Seen, fence: i64, step: Step) {
        let own = |held: &Option<Held>| held.as_ref().map_or(0, |held| held.mod_revision);
        match step {
            Step::Done => {}
            Step::FenceSource(epoch) => {
                let SourceSeen::Answers { own: before, .. } = &seen.source else { return };
                if self.source_up && own(before) == own(&self.own_source) {
                    self.source += 1;
                    let mut fence = Self::held(epoch, self.source);
                    fence.ownership.pending = seen.checkpoint.role == Role::Replica;
                    self.own_source = Some(fence);
                }
            }
            Step::Confirm => {
                let SourceSeen::Answers { own: Some(before), .. } = &seen.source else { return };
                if let Some(held) = &mut self.own_source
                    && (self.source_up, held.mod_revision) == (true, before.mod_revision)
                {
                    self.source += 1;
                    held.ownership.pending = false;
                    held.mod_revision = self.source;
                }
            }
            Step::Drain(through) => {
                let SourceSeen::Answers { own: Some(held), .. } = &seen.source else { return };
                if self.source_up && fence == self.fence {
                    self.at += 1;
                    self.fence = self.at;
                    self.checkpoint.source_revision = through;
                    promoter.drained = Some((through, held.ownership.epoch));
                    promoter.seen = None;
                }
            }
            Step::Forward => promoter.forwarded = true,
            Step::Take(epoch) => {
                if fence == self.fence && own(&seen.own_here) == own(&self.own_here) {
                    self.at += 1;
                    self.fence = self.at;
                    self.checkpoint.role = Role::Primary;
                    self.checkpoint.epoch = epoch;
                    self.own_here = Some(Self::held(epoch, self.at));
                    self.taken += 1;
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Write,
    /// Whoever takes a fence back has the destination know of a later epoch,
    Tell,
    /// and then gives the source its prefix.
    Return,
    Look(usize),
    Act(usize),
    Kill(usize),
    SourceDies,
    SourceReturns,
    GiveUp(usize),
}

fn moves(planned: bool) -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => Just(Move::Write),
        6 => (0_usize..2).prop_map(Move::Look),
        6 => (0_usize..2).prop_map(Move::Act),
        1 => (0_usize..2).prop_map(Move::Kill),
        1 => Just(Move::Tell),
        1 => Just(Move::Return),
        1 => Just(Move::SourceDies),
        1 => Just(Move::SourceReturns),
        1 => (0_usize..2).prop_map(Move::GiveUp),
    ];
    let one = one.prop_filter("a planned promotion gives nothing up", move |one| {
        !planned || !matches!(one, Move::GiveUp(_))
    });
    prop::collection::vec(one, 0..120)
}

fn play(world: &mut World, moves: &[Move], mut check: impl FnMut(&World)) {
    let mut promoters = [Promoter::default(), Promoter::default()];
    // The fence that is being taken back, and the epoch that the destination was told.
    let mut told: Option<(i64, u64)> = None;
    for each in moves {
        match *each {
            Move::Write if world.source_up && world.source_admits() => {
                world.source += 1;
                world.admitted.push(world.source);
            }
            Move::Write => {}
            Move::Tell => {
                if let Some(held) = &world.own_source
                    && (world.source_up, held.ownership.cluster) == (true, HERE)
                    && world.checkpoint.role == Role::Replica
                {
                    world.checkpoint.epoch = world.checkpoint.epoch.max(held.ownership.epoch) + 1;
                    world.at += 1;
                    world.fence = world.at;
                    told = Some((held.mod_revision, world.checkpoint.epoch));
                }
            }
            Move::Return => {
                if let Some((fence, epoch)) = told.take()
                    && world.source_up
                    && world.own_source.as_ref().is_some_and(|held| held.mod_revision == fence)
                {
                    world.source += 1;
                    world.own_source = Some(World::held_by(SOURCE, epoch, world.source));
                }
            }
            Move::Look(who) => promoters[who].seen = Some((world.look(&promoters[who]), world.fence)),
            Move::Act(who) => {
                if let Some((seen, fence)) = promoters[who].seen.take()
                    && let Ok(step) = next(&seen, PREFIX)
                {
                    world.act(&mut promoters[who], &seen, fence, step);
                }
            }
            Move::Kill(who) => promoters[who] = Promoter::default(),
            Move::SourceDies => world.source_up = false,
            Move::SourceReturns => world.source_up = true,
            Move::GiveUp(who) => promoters[who].given_up = true,
        }
        check(world);
    }
}

proptest! {
    #[test]
    fn a_planned_promotion_never_has_two_owners_and_loses_nothing(moves in moves(true)) {
        let mut world = World::new();
        play(&mut world, &moves, |world| {
            assert!(!(world.here_admits() && world.source_admits()), "two owners");
            let fenced = world.own_source.as_ref().filter(|held| held.ownership.cluster == HERE);
            if fenced.is_some_and(|held| !held.ownership.pending) {
                assert_eq!(world.checkpoint.role, Role::Primary, "a fence counts as final, and nobody owns the prefix");
            }
            if world.checkpoint.role == Role::Primary {
                let through = world.checkpoint.source_revision.0;
                assert!(world.admitted.iter().all(|revision| *revision <= through), "a write was lost");
            }
        });
    }

    #[test]
    fn whoever_was_killed_wherever_one_who_runs_again_comes_to_the_end(moves in moves(false)) {
        let mut world = World::new();
        play(&mut world, &moves, |_| {});
        world.source_up = true;
        let mut last = Promoter::default();
        for _ in 0..6 {
            let seen = world.look(&last);
            let step = next(&seen, PREFIX).unwrap();
            if step == Step::Done {
                break;
            }
            let fence = world.fence;
            world.act(&mut last, &seen, fence, step);
        }
        let seen = world.look(&last);
        prop_assert_eq!(next(&seen, PREFIX), Ok(Step::Done));
        prop_assert!(world.here_admits() && !world.source_admits());
        let epochs = [&world.own_here, &world.own_source].map(|held| held.as_ref().unwrap().ownership.epoch);
        prop_assert_eq!(epochs, [world.checkpoint.epoch; 2]);
        prop_assert!(!world.own_source.unwrap().ownership.pending, "it can still be taken back");
    }

    #[test]
    fn of_two_promoters_at_most_one_takes_the_destination(moves in moves(false)) {
        let mut world = World::new();
        play(&mut world, &moves, |_| {});
        prop_assert!(world.taken <= 1);
    }
}

#[test]
fn a_source_that_is_silent_is_given_up_by_an_operator_only() {
    let mut world = World::new();
    world.source_up = false;
    let mut promoter = Promoter::default();
    let error = next(&world.look(&promoter), PREFIX).unwrap_err();
    assert!(matches!(error, RegionError::SourceSilent { .. }), "{error}");
    promoter.given_up = true;
    assert_eq!(next(&world.look(&promoter), PREFIX), Ok(Step::Forward));
    promoter.forwarded = true;
    assert_eq!(next(&world.look(&promoter), PREFIX), Ok(Step::Take(2)));
    world.source_up = true;
    assert_eq!(next(&world.look(&promoter), PREFIX), Err(RegionError::SourceBack));
}

#[test]
fn a_region_that_another_one_is_taking_from_us_is_told() {
    let mut world = World::new();
    let mut other = World::held(5, 3);
    other.ownership.cluster = ClusterId(9);
    world.own_source = Some(other);
    let error = next(&world.look(&Promoter::default()), PREFIX).unwrap_err();
    assert!(matches!(error, RegionError::Elsewhere { epoch: 5, .. }), "{error}");
}

/// Promoted long ago, and given up since: what the source took in after that is not here, and must not be fenced off.
#[test]
fn a_former_owner_that_was_not_brought_up_yet_is_not_promoted() {
    let mut world = World::new();
    world.checkpoint = Checkpoint { role: Role::Primary, epoch: 3, ..world.checkpoint };
    let mut later = World::held(4, 9);
    later.ownership.cluster = SOURCE;
    world.own_source = Some(later);
    for given_up in [false, true] {
        let error = next(&world.look(&Promoter { given_up, ..Promoter::default() }), PREFIX).unwrap_err();
        assert!(matches!(error, RegionError::Elsewhere { epoch: 4, .. }), "{error}");
    }
}
