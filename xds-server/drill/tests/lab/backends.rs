//! Each fault, as a client sees it that talks to the backend without a proxy between.

use std::time::{Duration, Instant};

use zonebreak_drill::lab::{Backends, Fault, Load, LoadOptions, Outcome, Sample, until};

const LIMIT: Duration = Duration::from_secs(20);

/// Sends requests to the first backend of the first zone until `wanted` has seen `count` of them in a row.
async fn see(backends: &Backends, what: &str, count: usize, wanted: impl Fn(&Sample) -> bool) {
    let target = backends.zones()[0].backends()[0].address();
    let load = Load::start(LoadOptions::new(target, "svc", 100.0)).unwrap();
    let start = Instant::now();
    until(what, LIMIT, async || {
        let samples = load.samples(start, Instant::now());
        match samples.len().checked_sub(count).map(|first| &samples[first..]) {
            Some(last) if last.iter().all(&wanted) => Ok(()),
            _ => Err(format!("{:?}", samples.last())),
        }
    })
    .await
    .unwrap();
}

fn is_ok(sample: &Sample) -> bool {
    sample.outcome == Outcome::Status(200) && sample.zone.as_deref() == Some("az-a")
}

fn is_error(sample: &Sample, part: &str) -> bool {
    matches!(&sample.outcome, Outcome::Error(error) if error.to_lowercase().contains(part))
}

#[tokio::test]
async fn faults_come_and_go() {
    let backends = Backends::start(&["az-a"], 1).await.unwrap();
    let zone = backends.zone("az-a");
    see(&backends, "a healthy backend", 10, is_ok).await;

    zone.set_fault(Fault::HARD);
    see(&backends, "503 with the zone named", 10, |sample| {
        sample.outcome == Outcome::Status(503) && sample.zone.as_deref() == Some("az-a")
    })
    .await;

    zone.set_fault(Fault::Delay(Duration::from_millis(150)));
    see(&backends, "late answers", 5, |sample| is_ok(sample) && sample.latency >= Duration::from_millis(150))
        .await;

    zone.set_fault(Fault::Refuse);
    see(&backends, "refused connections", 10, |sample| is_error(sample, "refused")).await;

    zone.set_fault(Fault::ResetBeforeHeaders);
    see(&backends, "resets", 10, |sample| is_error(sample, "reset") && sample.zone.is_none()).await;

    zone.set_fault(Fault::CutBody);
    see(&backends, "cut bodies", 10, |sample| {
        matches!(sample.outcome, Outcome::Error(_)) && sample.zone.as_deref() == Some("az-a")
    })
    .await;

    zone.set_fault(Fault::None);
    see(&backends, "a healthy backend again", 10, is_ok).await;
}

#[tokio::test]
async fn a_gray_backend_fails_about_its_fraction() {
    let backends = Backends::start(&["az-a"], 1).await.unwrap();
    backends.set_fault(Fault::gray(0.3));
    let target = backends.zones()[0].backends()[0].address();
    let load = Load::start(LoadOptions::new(target, "svc", 1000.0)).unwrap();
    until("2000 requests", LIMIT, async || {
        let reached = backends.zone("az-a").requests();
        if reached >= 2000 { Ok(()) } else { Err(format!("{reached}")) }
    })
    .await
    .unwrap();
    let samples = load.stop().await;
    let failed = samples.iter().filter(|sample| sample.outcome.failed()).count();
    // Eight standard deviations (of 0.0102) on either side: cannot be chance.
    let fraction = failed as f64 / samples.len() as f64;
    assert!((0.22..0.38).contains(&fraction), "{fraction}");
}

#[tokio::test]
async fn one_backend_or_a_whole_zone() {
    let began = Instant::now();
    let backends = Backends::start(&["az-a", "az-b"], 2).await.unwrap();
    let first = &backends.zone("az-a").backends()[0];
    first.set_fault(Some(Fault::HARD));
    see(&backends, "its own fault", 5, |sample| sample.outcome == Outcome::Status(503)).await;
    first.set_fault(None);
    see(&backends, "the zone's health", 5, is_ok).await;

    let before = backends.requests();
    assert!(before["az-a"] >= 10);
    assert_eq!(before["az-b"], 0, "nobody was sent there");
    assert_eq!(first.requests(), before["az-a"]);
    // A timeline counts in buckets, and the last one may still be open.
    let (from, to) = (began - Duration::from_secs(1), Instant::now() + Duration::from_secs(1));
    assert!(backends.zone("az-a").timeline().count(from, to) >= 10);
}

#[tokio::test]
async fn an_internal_header_that_leaks_is_noticed() {
    let backends = Backends::start(&["az-a"], 1).await.unwrap();
    let mut options = LoadOptions::new(backends.zones()[0].backends()[0].address(), "svc", 50.0);
    options.headers.insert("x-zonebreak-serve", "no-az-a".parse().unwrap());
    assert!(backends.leaked_headers().is_empty());
    let _load = Load::start(options).unwrap();
    until("the leak", LIMIT, async || {
        let leaked = backends.leaked_headers();
        if leaked.contains("x-zonebreak-serve") { Ok(()) } else { Err(format!("{leaked:?}")) }
    })
    .await
    .unwrap();
}
