//! The pipeline by example, and against a model with crashes at every step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{checkpoint::ClusterId, revision::Op};

type State = BTreeMap<Vec<u8>, Vec<u8>>;

const HOLDER: Uuid = Uuid::from_u128(1);

fn apply(state: &mut State, changes: &[Change]) {
    for Change { key, op } in changes {
        match op {
            Op::Put { value, .. } => state.insert(key.clone(), value.clone()),
            Op::Delete => state.remove(key),
        };
    }
}

fn ledger(state: &State) -> Ledger {
    let mut ledger = Ledger::default();
    state.iter().for_each(|(key, value)| ledger.put(key, value));
    ledger
}

fn put(key: u8, value: u8) -> Change {
    Change { key: vec![key], op: Op::Put { value: vec![value], lease: 0 } }
}

fn mapped(revision: i64, realtime: bool, changes: Vec<Change>) -> Mapped {
    Mapped { revision: Revision(revision), seen_ms: revision as u64, realtime, changes }
}

/// An etcd in as much as the fence sees of it.
struct Destination {
    state: State,
    checkpoint: Vec<u8>,
    fence: i64,
    revision: i64,
    /// How often each attempt was carried out.
    carried_out: BTreeMap<Vec<u8>, u32>,
}

impl Destination {
    fn new() -> Self {
        let prefixes = ("/a/".to_owned(), "/a/".to_owned());
        let checkpoint = Checkpoint::genesis(ClusterId(1), ClusterId(2), prefixes, HOLDER).encode();
        Self { state: State::new(), checkpoint, fence: 1, revision: 1, carried_out: BTreeMap::new() }
    }

    fn commit(&mut self, attempt: &Attempt) -> Event {
        if attempt.fence != self.fence {
            return Event::Refused(self.read());
        }
        self.revision += 1;
        self.fence = self.revision;
        apply(&mut self.state, &attempt.changes);
        self.checkpoint = attempt.checkpoint.to_vec();
        *self.carried_out.entry(attempt.checkpoint.to_vec()).or_default() += 1;
        Event::Committed(self.revision)
    }

    fn read(&self) -> Found {
        Some((self.checkpoint.clone(), self.fence))
    }

    fn decoded(&self) -> Checkpoint {
        Checkpoint::decode(&self.checkpoint).unwrap()
    }

    /// What a replicator does at its start: takes the fence, and brings a torn destination to the source's revision.
    fn claim(&mut self, source: &BTreeMap<i64, State>, pace: Pace, limits: Limits) -> Pipeline {
        let mut checkpoint = self.decoded();
        if let Some(Torn::Staging { revision } | Torn::Aligning { revision }) = checkpoint.torn {
            self.state = source[&revision.0].clone();
            checkpoint.source_revision = revision;
            checkpoint.torn = None;
            (checkpoint.digest, checkpoint.keys) = (ledger(&self.state).digest(), self.state.len() as u64);
        }
        checkpoint.write += 1;
        self.revision += 1;
        self.fence = self.revision;
        self.checkpoint = checkpoint.encode();
        Pipeline::new(checkpoint, self.fence, ledger(&self.state), limits, pace, 0)
    }
}

fn pipeline(destination: &mut Destination) -> Pipeline {
    let pace = Pace { debounce_ms: 100, heartbeat_ms: 5_000 };
    destination.claim(&BTreeMap::from([(0, State::new())]), pace, Limits::default())
}

fn attempt(effects: &[Effect]) -> Attempt {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Commit(attempt) => Some(attempt.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no attempt in {effects:?}"))
}

#[test]
fn a_realtime_revision_goes_at_once_and_takes_along_what_waited() {
    let mut destination = Destination::new();
    let mut pipeline = pipeline(&mut destination);
    assert!(pipeline.step(0, Event::Revision(mapped(1, false, vec![put(1, 1)]))).is_empty());
    assert_eq!(pipeline.deadline_ms(), Some(100));
    let effects = pipeline.step(10, Event::Revision(mapped(2, true, vec![put(2, 2)])));
    assert_eq!(attempt(&effects).changes[..], [put(1, 1), put(2, 2)]);
}

#[test]
fn others_wait_for_the_debounce_of_the_oldest() {
    let mut destination = Destination::new();
    let mut pipeline = pipeline(&mut destination);
    pipeline.step(0, Event::Revision(mapped(1, false, vec![put(1, 1)])));
    assert!(pipeline.step(99, Event::Revision(mapped(2, false, vec![put(1, 2)]))).is_empty());
    let effects = pipeline.step(100, Event::Tick);
    assert_eq!(attempt(&effects).changes[..], [put(1, 2)]);
}

#[test]
fn what_piles_up_behind_a_transaction_goes_in_the_next_one() {
    let mut destination = Destination::new();
    let mut pipeline = pipeline(&mut destination);
    let first = attempt(&pipeline.step(0, Event::Revision(mapped(1, true, vec![put(1, 1)]))));
    for revision in 2..50 {
        assert!(
            pipeline
                .step(1, Event::Revision(mapped(revision, true, vec![put(revision as u8, 1)])))
                .is_empty()
        );
    }
    let effects = pipeline.step(2, destination.commit(&first));
    assert_eq!(attempt(&effects).changes.len(), 48);
    pipeline.step(3, destination.commit(&attempt(&effects)));
    assert_eq!(destination.decoded().source_revision, Revision(49));
    assert_eq!(destination.decoded().sync_version, 49);
    assert!(pipeline.is_idle());
}

#[test]
fn a_heartbeat_moves_an_idle_destination_along() {
    let mut destination = Destination::new();
    let mut pipeline = pipeline(&mut destination);
    pipeline.step(0, Event::Progress(Revision(700), 9));
    pipeline.step(0, Event::Revision(mapped(701, true, vec![])));
    assert!(pipeline.step(4_999, Event::Tick).is_empty());
    let effects = pipeline.step(5_000, Event::Tick);
    assert!(attempt(&effects).changes.is_empty());
    pipeline.step(5_001, destination.commit(&attempt(&effects)));
    assert_eq!(destination.decoded().source_revision, Revision(701));
    assert_eq!(destination.decoded().sync_version, 0);
    assert_eq!(pipeline.deadline_ms(), Some(10_001));
    // Nothing new, but known to be so at a later time.
    pipeline.step(6_000, Event::Progress(Revision(701), 7_777));
    let effects = pipeline.step(10_001, Event::Tick);
    pipeline.step(10_002, destination.commit(&attempt(&effects)));
    assert_eq!(
        (destination.decoded().source_revision, destination.decoded().source_ms),
        (Revision(701), 7_777)
    );
}

#[test]
fn an_answer_that_was_lost_is_looked_up_and_never_guessed() {
    for carried_out in [true, false] {
        let mut destination = Destination::new();
        let mut pipeline = pipeline(&mut destination);
        let first = attempt(&pipeline.step(0, Event::Revision(mapped(1, true, vec![put(1, 1)]))));
        if carried_out {
            destination.commit(&first);
        }
        assert_eq!(pipeline.step(1, Event::Unknown), [Effect::Read]);
        let effects = pipeline.step(2, Event::Found(destination.read()));
        if carried_out {
            assert!(matches!(&effects[..], [Effect::Applied(_)]), "{effects:?}");
        } else {
            assert!(effects.is_empty(), "{effects:?}");
            let again = pipeline.deadline_ms().unwrap();
            assert_eq!(attempt(&pipeline.step(again, Event::Tick)), first, "byte for byte");
        }
    }
}

#[test]
fn a_revision_larger_than_a_transaction_says_that_it_is_torn_until_it_is_not() {
    let mut destination = Destination::new();
    let mut pipeline = pipeline(&mut destination);
    let keys: Vec<Change> = (0..=254).map(|key| put(key, 1)).collect();
    let mut effects = pipeline.step(0, Event::Revision(mapped(8, true, keys)));
    let mut torn = Vec::new();
    while effects.iter().any(|effect| matches!(effect, Effect::Commit(_))) {
        effects = pipeline.step(0, destination.commit(&attempt(&effects)));
        let checkpoint = destination.decoded();
        torn.push((checkpoint.torn.is_some(), checkpoint.source_revision.0, destination.state.len()));
    }
    assert_eq!(torn, [(true, 0, 127), (true, 0, 254), (false, 8, 255)]);
}

#[test]
fn somebody_else_s_checkpoint_halts_with_the_reason() {
    let other = |change: &dyn Fn(&mut Checkpoint)| {
        let mut destination = Destination::new();
        let mut pipeline = pipeline(&mut destination);
        let mut checkpoint = destination.decoded();
        change(&mut checkpoint);
        destination.checkpoint = checkpoint.encode();
        destination.fence += 1;
        let first = attempt(&pipeline.step(0, Event::Revision(mapped(1, true, vec![put(1, 1)]))));
        let effects = pipeline.step(1, destination.commit(&first));
        assert!(destination.state.is_empty());
        assert!(pipeline.step(99_999, Event::Tick).is_empty(), "a halted pipeline does nothing");
        effects
    };
    let halt = |halt| vec![Effect::Halt(halt)];
    let superseded = |id, epoch| {
        let source = Destination::new().decoded().source_cluster;
        halt(Halt::Superseded(Holder { id, epoch, source }))
    };
    assert_eq!(other(&|c| c.holder = Uuid::from_u128(2)), superseded(Uuid::from_u128(2), 1));
    assert_eq!(other(&|c| c.role = Role::Primary), halt(Halt::Promoted { epoch: 1 }));
    // A promotion that was taken back leaves a replica of a later epoch: there is something to follow for again.
    let holder = Uuid::from_u128(9);
    assert_eq!(other(&|c| (c.epoch, c.holder) = (7, holder)), superseded(holder, 7));
    // The same replicator with a copy of the same spool.
    assert_eq!(other(&|c| c.write += 1), superseded(HOLDER, 1));

    let mut destination = Destination::new();
    let mut pipeline = pipeline(&mut destination);
    pipeline.step(0, Event::Revision(mapped(1, true, vec![put(1, 1)])));
    assert_eq!(pipeline.step(0, Event::Refused(None)), halt(Halt::Gone));
}

#[derive(Debug, Clone)]
enum Step {
    /// The next revision reaches the pipeline.
    Take,
    /// Time passes.
    Pass(u64),
    /// The attempt is carried out and answered.
    Answer,
    /// It is carried out and the answer is lost.
    LoseAnswer,
    /// It is lost on the way.
    LoseRequest,
    /// It is delayed, to be carried out by [`Step::Arrive`], and taken for lost.
    Delay,
    /// A delayed one arrives after all.
    Arrive,
    /// etcd refuses it for the moment.
    Fail,
    /// The replicator dies and starts again.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Take),
        3 => (0_u64..150).prop_map(Step::Pass),
        6 => Just(Step::Answer),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::LoseRequest),
        1 => Just(Step::Delay),
        1 => Just(Step::Arrive),
        1 => Just(Step::Fail),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..160)
}

fn source() -> impl Strategy<Value = Vec<Mapped>> {
    let change = (0_u8..9, prop::option::of(0_u8..4))
        .prop_map(|(key, value)| Change { key: vec![key], op: value.map_or(Op::Delete, |v| put(0, v).op) });
    let revision = (prop::collection::vec(change, 0..8), any::<bool>(), 1_i64..3);
    prop::collection::vec(revision, 1..40).prop_map(|all| {
        let mut at = 0;
        let all = all.into_iter().map(|(mut changes, realtime, step)| {
            at += step;
            changes.sort_by(|a, b| a.key.cmp(&b.key));
            changes.dedup_by(|a, b| a.key == b.key);
            mapped(at, realtime, changes)
        });
        all.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is lost, late or dead: whenever the destination calls itself whole it is the source's revision that it names,
    /// with that revision's digest; no attempt is carried out twice; its revision never goes back; and it gets there in the end.
    #[test]
    fn no_loss_delay_or_crash_shows_at_the_destination(source in source(), steps in steps()) {
        let mut history = BTreeMap::from([(0, State::new())]);
        let mut now = State::new();
        for revision in &source {
            apply(&mut now, &revision.changes);
            history.insert(revision.revision.0, now.clone());
        }
        let limits = Limits { operations: 5, bytes: 1 << 20 };
        let pace = Pace { debounce_ms: 100, heartbeat_ms: 5_000 };
        let mut destination = Destination::new();
        let mut pipeline = destination.claim(&history, pace, limits);
        let (mut clock, mut on_its_way, mut delayed, mut last) = (0, None, Vec::<Attempt>::new(), Revision(0));

        // At the end everything works, for long enough.
        let calm = (0..150).flat_map(|_| [Step::Take, Step::Answer, Step::Pass(120), Step::Answer]);
        for step in steps.into_iter().chain(calm) {
            let event = match (step, &on_its_way) {
                (Step::Take, _) => {
                    let next = source.iter().find(|next| next.revision > pipeline.taken());
                    next.map(|next| Event::Revision(next.clone()))
                }
                (Step::Pass(ms), _) => { clock += ms; Some(Event::Tick) }
                (Step::Answer, Some(attempt)) => Some(destination.commit(attempt)),
                (Step::LoseAnswer, Some(attempt)) => { destination.commit(attempt); Some(Event::Unknown) }
                (Step::LoseRequest, Some(_)) => Some(Event::Unknown),
                (Step::Delay, Some(attempt)) => { delayed.push(attempt.clone()); Some(Event::Unknown) }
                (Step::Fail, Some(_)) => Some(Event::Failed(30)),
                (Step::Arrive, _) => { delayed.pop().map(|attempt| destination.commit(&attempt)); None }
                (Step::Crash, _) => {
                    pipeline = destination.claim(&history, pace, limits);
                    on_its_way = None;
                    None
                }
                (_, None) => None,
            };
            let Some(event) = event else { continue };
            if matches!(event, Event::Committed(_) | Event::Refused(_) | Event::Unknown | Event::Failed(_)) {
                on_its_way = None;
            }
            let mut events = vec![event];
            while let Some(event) = events.pop() {
                for effect in pipeline.step(clock, event) {
                    match effect {
                        Effect::Commit(attempt) => prop_assert!(on_its_way.replace(attempt).is_none(), "one at a time"),
                        Effect::Read => events.push(Event::Found(destination.read())),
                        Effect::Applied(_) => {}
                        Effect::Halt(why) => prop_assert!(false, "nobody else writes here: {}", why),
                    }
                }
            }
            let checkpoint = destination.decoded();
            prop_assert!(checkpoint.source_revision >= last);
            last = checkpoint.source_revision;
            if checkpoint.torn.is_none() {
                let (_, expected) = history.range(..=last.0).next_back().unwrap();
                prop_assert_eq!(&destination.state, expected);
                prop_assert_eq!(checkpoint.digest, ledger(expected).digest());
                prop_assert_eq!(checkpoint.keys, expected.len() as u64);
            }
            prop_assert!(destination.carried_out.values().all(|times| *times == 1));
        }
        prop_assert!(pipeline.is_idle());
        prop_assert_eq!(&destination.state, &now);
    }
}
