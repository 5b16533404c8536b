//! A plain Envoy between load and backends: proxying, its admin interface, faults as it reports them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use zonebreak_drill::lab::{
    Backends, Envoy, EnvoyOptions, Fault, Lab, LabError, Load, LoadOptions, NodeId, Summary,
    bootstrap::{LISTENER, StaticBootstrap, localities},
    until,
};

const LIMIT: Duration = Duration::from_secs(30);

async fn envoy(lab: &Lab, name: &str, backends: &Backends) -> (Envoy, SocketAddr) {
    let bootstrap = StaticBootstrap::new(localities(backends, "lab", |_| serde_json::json!({}))).text();
    let options = EnvoyOptions::new(name, bootstrap).node(NodeId::in_zone("lab", "az-a"));
    let mut envoy = Envoy::start(lab, options).await.unwrap();
    envoy.live(LIMIT).await.unwrap();
    let address = envoy.listener(LISTENER, LIMIT).await.unwrap();
    (envoy, address)
}

/// Waits until the requests of half a second look as wanted: of those that were due since the call, so that what went before
/// counts for nothing.
async fn see(load: &Load, what: &str, wanted: impl Fn(&Summary) -> bool) {
    see_after(load, what, Duration::ZERO, wanted).await;
}

/// The same for requests that were due `delay` ago, since some take their time to fail.
async fn see_after(load: &Load, what: &str, delay: Duration, wanted: impl Fn(&Summary) -> bool) {
    let since = Instant::now();
    until(what, LIMIT, async || {
        let to = Instant::now() - delay;
        let recent = load.summary(since.max(to - Duration::from_millis(500)), to);
        if recent.total.requests >= 40 && wanted(&recent) { Ok(()) } else { Err(format!("{recent:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_is_spread_over_the_zones_and_faults_come_through() {
    let lab = Lab::new().unwrap();
    let backends = Backends::start(&["az-a", "az-b", "az-c"], 2).await.unwrap();
    let (envoy, address) = envoy(&lab, "envoy", &backends).await;
    let load = Load::start(LoadOptions::new(address, "svc", 200.0)).unwrap();
    see(&load, "every zone answering", |recent| {
        recent.zones.len() == 3 && recent.total.failed == 0 && recent.share_percent("az-b") > 20.0
    })
    .await;

    let zone = backends.zone("az-b");
    let third = |recent: &Summary| (25.0..42.0).contains(&recent.total.error_percent());
    zone.set_fault(Fault::HARD);
    see(&load, "503 from one zone of three", |recent| third(recent) && recent.zones["az-b"].failed > 0).await;
    zone.set_fault(Fault::Refuse);
    see(&load, "Envoy's own 503 for a refused connection", |recent| {
        third(recent) && recent.unplaced.failed > 0
    })
    .await;
    zone.set_fault(Fault::ResetBeforeHeaders);
    see(&load, "Envoy's own 503 for a reset", |recent| third(recent) && recent.unplaced.failed > 0).await;
    zone.set_fault(Fault::CutBody);
    // Envoy tells its client a second later, by closing the connection (`delayed_close_timeout`).
    let late = Duration::from_millis(1500);
    see_after(&load, "cut bodies", late, |recent| third(recent) && recent.unplaced.requests == 0).await;
    zone.set_fault(Fault::None);
    see(&load, "recovery", |recent| recent.total.failed == 0).await;

    // Who reset whom shows in Envoy's counters: they are what a filter goes by.
    let stats = envoy.stats("^cluster.svc.upstream_(cx|rq)_").await.unwrap();
    assert!(stats["cluster.svc.upstream_cx_connect_fail"] > 0, "{stats:?}");
    assert!(stats["cluster.svc.upstream_cx_destroy_remote_with_active_rq"] > 0, "{stats:?}");
    assert_eq!(envoy.stat("cluster.svc.membership_total").await.unwrap(), Some(6));
    assert_eq!(envoy.stat("no.such.stat").await.unwrap(), None);
    assert!(backends.leaked_headers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_to_leave_a_zone_is_told_apart_from_never() {
    let lab = Lab::new().unwrap();
    let backends = Backends::start(&["az-a", "az-b"], 1).await.unwrap();
    let (_envoy, address) = envoy(&lab, "envoy", &backends).await;
    let load = Load::start(LoadOptions::new(address, "svc", 200.0)).unwrap();
    see(&load, "both zones answering", |recent| recent.zones.len() == 2).await;
    let window = Duration::from_millis(300);
    // A machine that does not let the load run for so long has left the zone; then it is looked at from now on.
    let mut onset = Instant::now();
    until("a zone in use for a second", LIMIT, async || {
        match backends.zone("az-a").left_after(onset, window, Instant::now()) {
            None if onset.elapsed() > Duration::from_secs(1) => Ok(()),
            None => Err(format!("in use for {:?}", onset.elapsed())),
            Some(left) => {
                onset = Instant::now();
                Err(format!("left after {left:?}"))
            }
        }
    })
    .await
    .unwrap();
    // Nobody sends any more: left when the load ended.
    load.stop().await;
    let ended = onset.elapsed();
    let left = until("a quiet zone", LIMIT, async || {
        backends.zone("az-a").left_after(onset, window, Instant::now()).ok_or_else(|| "requests".to_owned())
    })
    .await
    .unwrap();
    assert!(
        left > Duration::from_millis(700) && left <= ended + Duration::from_millis(20),
        "{left:?} {ended:?}"
    );
}

#[tokio::test]
async fn the_admin_interface_tells_who_it_is_and_what_it_uses() {
    let lab = Lab::new().unwrap();
    let backends = Backends::start(&["az-a"], 1).await.unwrap();
    let (mut envoy, first) = envoy(&lab, "envoy", &backends).await;
    let info = envoy.server_info().await.unwrap();
    assert_eq!(info["node"]["locality"]["zone"], "az-a");
    assert_eq!(info["node"]["id"], "sidecar-az-a");
    assert_eq!(info["command_line_options"]["concurrency"], 1);
    assert!(envoy.config_dump().await.unwrap()["configs"].as_array().unwrap().len() > 3);
    assert!(envoy.memory().unwrap().anonymous > 1 << 20);
    assert!(envoy.cpu_time().unwrap() > Duration::ZERO);
    assert!(matches!(envoy.admin().get("/nowhere").await, Ok((404, _))));

    let before = envoy.process().pid();
    envoy.restart().await.unwrap();
    envoy.live(LIMIT).await.unwrap();
    assert_ne!(envoy.process().pid(), before);
    let second = envoy.listener(LISTENER, LIMIT).await.unwrap();
    assert!(
        reqwest::get(format!("http://{second}/")).await.unwrap().status().is_success(),
        "{first} {second}"
    );
}

#[tokio::test]
async fn a_bad_bootstrap_is_told_in_envoys_words() {
    let lab = Lab::new().unwrap();
    let error =
        Envoy::start(&lab, EnvoyOptions::new("envoy", r#"{"static_resources": {"clutters": []}}"#)).await;
    match error {
        Err(LabError::Exited { what, tail, .. }) => {
            assert!(what == "envoy" && tail.contains("clutters"), "{tail}")
        }
        other => panic!("{other:?}"),
    }
}
