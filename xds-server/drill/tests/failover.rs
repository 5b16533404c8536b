//! The failover benchmark measured against what is known beforehand: round robin over three zones loses a third when one is
//! dead and never leaves it, and the fastest native configuration leaves it at once. Real Envoys, no control plane.

use std::time::Duration;

use zonebreak_drill::failover::{Contender, Scenario, Timing, run};

const SHORT: Timing = Timing {
    steady: Duration::from_secs(1),
    fault: Duration::from_secs(3),
    recovery: Duration::from_secs(1),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_outcomes_are_measured_as_such() {
    let (even, quick, slow) = tokio::join!(
        run(Contender::RoundRobin, Scenario::Hard, SHORT),
        run(Contender::HairTrigger, Scenario::Hard, SHORT),
        run(Contender::RoundRobin, Scenario::Slow, SHORT),
    );
    let even = even.unwrap().verdict;
    assert!((500..=610).contains(&even.requests), "{even:?}");
    assert!((30.0..37.0).contains(&even.error_percent), "{even:?}");
    assert_eq!((even.left_after, even.relapses), (None, 0));

    let quick = quick.unwrap().verdict;
    assert!(quick.error_percent < 5.0 && quick.left_after.unwrap() < 0.5, "{quick:?}");
    assert!(quick.share_back_percent < 5.0, "ejected for a minute, so not back within a second: {quick:?}");

    let slow = slow.unwrap().verdict;
    assert!(slow.error_percent == 0.0 && (28.0..40.0).contains(&slow.slow_percent), "{slow:?}");
}
