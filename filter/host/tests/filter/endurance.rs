//! A working day of everything at once: zones fail in all their ways and recover, VMs go down, policies and code are replaced, load
//! comes and goes. What must always hold is looked at every second of it.

use std::time::Duration;

use serde_json::{Value, json};
use zonebreak_core::{names::Zone, subset};
use zonebreak_host::{
    mesh::{Effect, End, Fault, Mesh, Setup},
    proxy::{Opened, Place},
    vm::{CrashPoint, Headers, StreamInfo, Verdict},
};

use crate::support::*;

const HOURS: f64 = 6.0;
const WORKERS: usize = 2;
const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// A zone stays open for 4.5 s at least, and twice as long each time it is left again: 0, 4.5, 13.5, 31.5 s. One more, since another
/// zone may have had its turn just before.
const OPENINGS_A_MINUTE: usize = 5;

/// No VM ever holds more; it begins with a page more than 1 MB of stack and statics.
const MOST_MEMORY: usize = 2 << 20;

/// What is known of the day so far.
#[derive(Default)]
struct Day {
    epoch: u64,
    told: usize,
    opened: Vec<Duration>,
    /// Decisions that were held against an open zone.
    held: usize,
    crashes: u64,
}

impl Day {
    /// Lets time pass, and looks at everything each second.
    fn pass(&mut self, mesh: &mut Mesh, seconds: u32) {
        for _ in 0..seconds {
            mesh.run(secs(1.0));
            self.look(mesh);
        }
    }

    fn look(&mut self, mesh: &mut Mesh) {
        let states = ZONES.map(|zone| state(mesh, zone));
        assert!(states.iter().filter(|state| **state != CLOSED).count() <= 1, "{states:?}");

        let told = transitions(mesh);
        for line in told.iter().skip(self.told).filter(|line| line.contains(" -> open ")) {
            let minute = mesh.now().saturating_sub(secs(60.0));
            let lately = self.opened.iter().filter(|at| **at > minute).count();
            assert!(lately < OPENINGS_A_MINUTE, "{lately} times in a minute, and again: {line}");
            self.opened.push(mesh.now());
        }
        self.told = told.len();

        let epoch = metric(mesh, "epoch", "");
        assert!(epoch >= self.epoch, "the shared state went back from {} to {epoch}", self.epoch);
        self.epoch = epoch;

        for worker in 0..WORKERS {
            let size = mesh.proxy().vm(worker).map_or(0, |vm| vm.memory_size());
            assert!(size <= MOST_MEMORY, "worker {worker} holds {size} bytes");
        }
        let size = mesh.proxy().main_vm().map_or(0, |vm| vm.memory_size());
        assert!(size <= MOST_MEMORY, "the main thread's VM holds {size} bytes");

        if let Some(open) = states.iter().position(|state| *state == OPEN) {
            for worker in (0..WORKERS).cycle().take(4 * WORKERS) {
                self.no_request_to(mesh, worker, open);
            }
        }
    }

    /// A worker sends nothing into a zone that was left more than a tick ago.
    fn no_request_to(&mut self, mesh: &mut Mesh, worker: usize, open: usize) {
        // Left a moment ago, or its time was up a moment ago: the workers need a tick to agree.
        let before = transitions(mesh).len();
        mesh.run(secs(0.11));
        if state(mesh, ZONES[open]) != OPEN || transitions(mesh).len() != before {
            return;
        }
        let Some(decided) = probe(mesh, worker) else { return };
        let zones = ZONES.map(|zone| Zone::new(zone).unwrap());
        let carries =
            |zone: usize, key: &str| subset::keys_of_endpoint(&zones, &zones[zone]).contains(&key.to_owned());
        let reaches = match &decided {
            Decided::Pass => open == A,
            // The own zone has priority wherever it is not left out.
            Decided::Key(key) => carries(open, key) && (open == A || !carries(A, key)),
            Decided::Refused { .. } => false,
        };
        assert!(!reaches, "{decided:?} on worker {worker}, and {} is open", ZONES[open]);
        self.held += 1;
    }

    /// Waits until no zone is away, and a while longer.
    fn settle(&mut self, mesh: &mut Mesh) {
        (A..=C).for_each(|zone| mesh.heal_zone(zone));
        let end = mesh.now() + secs(600.0);
        while ZONES.iter().any(|zone| state(mesh, zone) != CLOSED) {
            assert!(mesh.now() < end, "ten minutes without a fault, and a zone is still away");
            self.pass(mesh, 5);
        }
        self.pass(mesh, 90);
    }
}

/// What a worker decides for a request that then goes no further; none when its VM is down.
fn probe(mesh: &mut Mesh, worker: usize) -> Option<Decided> {
    let info = StreamInfo { cluster: Some("order-svc".into()), ..StreamInfo::default() };
    let Opened::Stream(stream) = mesh.proxy().open(worker, Place::Downstream, info) else { return None };
    let mut headers = Headers::from([(":method", "POST"), (":path", "/")]);
    let verdict = stream.request_headers(&mut headers, true).ok()?;
    stream.close().ok()?;
    Some(match (verdict, headers.get("x-zonebreak-serve")) {
        (Verdict::Continue, Some(key)) => Decided::Key(key.to_owned()),
        (Verdict::Continue, None) => Decided::Pass,
        (verdict, _) => panic!("{verdict:?}"),
    })
}

/// Policies that differ in what should make no difference to what is held here.
fn policy(i: u32) -> Value {
    let mut policy = if i.is_multiple_of(2) { even() } else { local_first() };
    policy["retry"] = json!({"budget_percent": 20 + i % 30});
    let sensitivity = ["normal", "safe"][i as usize / 2 % 2];
    policy["breaker"] = json!({"sensitivity": sensitivity});
    policy
}

#[test]
fn six_hours_of_faults_crashes_and_new_policies_break_no_promise() {
    let mut mesh = mesh(Setup { rate: 20.0, retries: 1, ..setup(WORKERS, 21) }, &even());
    let mut rng = fastrand::Rng::with_seed(21);
    let (mut day, mut policies) = (Day::default(), 0);
    day.pass(&mut mesh, 60);
    while mesh.now() < secs(HOURS * 3600.0) {
        match rng.u32(..20) {
            0..6 => {
                let effects = [
                    Effect::Status(503),
                    Effect::Status(500),
                    Effect::Refuse,
                    Effect::Reset,
                    Effect::Cut,
                    Effect::Slow(secs(0.4)),
                ];
                let effect = effects[rng.usize(..effects.len())];
                let share = [1.0, 1.0, 0.5, 0.3][rng.usize(..4)];
                (A..=C).for_each(|zone| mesh.heal_zone(zone));
                mesh.break_zone(rng.usize(A..=C), Fault::of(share, effect));
            }
            6..9 => (A..=C).for_each(|zone| mesh.heal_zone(zone)),
            9..14 => {
                let point = CrashPoint::Calls(rng.u64(1..200));
                let worker = rng.usize(..WORKERS);
                if let Some(mut vm) = mesh.proxy().vm(worker) {
                    vm.crash_at(Some(point));
                    day.crashes += 1;
                }
            }
            14..17 => {
                policies += 1;
                configure(&mut mesh, &downstream(&Setup::default(), &policy(policies))).unwrap();
            }
            17 => mesh.proxy().upgrade(filter()).unwrap(),
            18 => mesh.set_rate([5.0, 20.0, 20.0, 60.0][rng.usize(..4)]),
            _ => {
                // Everything fails alike: nowhere is better, so nothing moves.
                day.settle(&mut mesh);
                let before = transitions(&mesh).len();
                (A..=C).for_each(|zone| mesh.break_zone(zone, Fault::of(0.6, Effect::Status(503))));
                day.pass(&mut mesh, 60);
                let told = transitions(&mesh);
                assert_eq!(told.len(), before, "in a failure of all zones: {:?}", told.last());
                day.settle(&mut mesh);
            }
        }
        day.pass(&mut mesh, rng.u32(5..40));
    }
    day.settle(&mut mesh);
    mesh.drain();

    let ends = mesh.ends(secs(0.0)..mesh.now());
    let told = transitions(&mesh);
    assert!(
        day.opened.len() >= 30 && day.held >= 200 && day.crashes >= 50,
        "too quiet a day: {} openings, {} decisions, {} crashes",
        day.opened.len(),
        day.held,
        day.crashes
    );
    // Each raised the epoch by one; one that a VM wrote and did not live to tell of is in the epoch alone.
    assert!(
        day.epoch >= told.len() as u64 && day.epoch <= told.len() as u64 + day.crashes,
        "{} {}",
        day.epoch,
        told.len()
    );
    assert_eq!((mesh.record().leaked, mesh.record().stuck), (0, 0));
    assert_eq!(mesh.proxy().reloads().failed, 0);
    assert_eq!(complaints(&mesh), [""; 0]);
    assert!(ends.of(End::Crashed) <= day.crashes * 10, "{ends:?} of {} crashes", day.crashes);
    eprintln!(
        "{} requests, {} transitions, {} crashes, {} policies, {:.3} % lost",
        ends.all(),
        told.len(),
        day.crashes,
        policies,
        100.0 * ends.lost()
    );
}
