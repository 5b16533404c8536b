//! The load generator holds its rate, whatever comes back.

use std::time::{Duration, Instant};

use zonebreak_drill::lab::{Backends, Fault, Load, LoadOptions, until};

async fn run(load: &Load, requests: usize) -> (Instant, Duration) {
    let start = Instant::now();
    until("its requests", Duration::from_secs(30), async || {
        match load.samples(start, Instant::now()).len() {
            seen if seen >= requests => Ok(()),
            seen => Err(format!("{seen} of {requests}")),
        }
    })
    .await
    .unwrap();
    (start, start.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrivals_follow_the_schedule_although_answers_are_slow() {
    let backends = Backends::start(&["az-a"], 1).await.unwrap();
    // With 20 requests in flight at once, a closed loop of a few connections would fall behind.
    backends.set_fault(Fault::Delay(Duration::from_millis(200)));
    let target = backends.zones()[0].backends()[0].address();
    let load = Load::start(LoadOptions::new(target, "svc", 100.0)).unwrap();
    let (start, took) = run(&load, 200).await;
    assert!(took >= Duration::from_millis(1_900), "200 requests at 100/s and 0.2 s each took {took:?}");
    let samples = load.stop().await;
    // Due times are exact, however busy the machine is.
    let span = samples[samples.len() - 1].due - samples[0].due;
    let expected = (samples.len() - 1) as f64 / 100.0;
    assert!((span.as_secs_f64() - expected).abs() < 1e-3, "{span:?} for {} samples", samples.len());
    assert!(samples.iter().all(|sample| sample.latency >= Duration::from_millis(200)));
    // A machine that sends some late sends them in a bunch, so that there are never fewer at once.
    let under_way =
        |at: Instant| samples.iter().filter(|s| s.due + s.late <= at && at < s.due + s.latency).count();
    let most = samples.iter().map(|sample| under_way(sample.due + sample.late)).max();
    assert!(most >= Some(15), "{most:?} requests at once");
    assert!(samples.iter().all(|sample| sample.due >= start - Duration::from_millis(100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_can_change_and_stop_loses_no_sample() {
    let backends = Backends::start(&["az-a"], 1).await.unwrap();
    let target = backends.zones()[0].backends()[0].address();
    let load = Load::start(LoadOptions::new(target, "svc", 20.0)).unwrap();
    run(&load, 5).await;
    load.set_rate(500.0);
    let (_, took) = run(&load, 500).await;
    assert!(took < Duration::from_secs(10), "500 requests at 500/s took {took:?}");
    load.set_rate(0.0);
    let samples = load.stop().await;
    assert_eq!(
        samples.len() as u64,
        backends.zone("az-a").requests(),
        "each request that arrived is a sample"
    );
}
