//! A real Envoy, fed by this server and nothing else, in both protocols.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::ConfigSource;
use serde_json::json;
use support::envoy::{Envoy, get, get_from};
use support::resources::{
    ads, backend, cluster, endpoints, host_on_demand, listener, own_service, policy, route, routes,
    routes_on_demand, runtime,
};
use support::{PATIENCE, Running, eventually, start};
use zonebreak_xds::{Protocol, Resource, ServerOptions, TypeUrl};

/// A view that leads every request to one backend through a cluster of this name.
fn view(cluster_name: &str, timeout: i64, to: SocketAddr, policy_value: &str) -> Vec<Resource> {
    vec![
        cluster(cluster_name, timeout),
        endpoints(cluster_name, to),
        listener("ingress", "routes", "policy", "ingress"),
        route("routes", cluster_name),
        policy("policy", policy_value),
    ]
}

async fn converged(running: &Running) {
    eventually("the proxy converges", || {
        running.server.convergence().streams == 1 && running.server.convergence().converged == 1
    })
    .await;
}

/// Waits until requests are answered so; Envoy acknowledges an update a moment before its worker uses it.
#[track_caller]
fn answered(at: SocketAddr, body: &'static str, policy: &'static str) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            let answer = get(at, "/").await;
            if let Ok(answer) = &answer
                && answer.body == body
                && answer.head.contains(&format!("x-policy: {policy}"))
            {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{caller}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Requests without a pause, and how many of them failed.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(at: SocketAddr) -> Self {
        Self::of(at, "/")
    }

    fn of(at: SocketAddr, path: &'static str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match get(at, path).await {
                    Ok(answer) if answer.status == 200 => {}
                    other => failed.push(format!("{other:?}")),
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        Self { stop, done, task }
    }

    /// Lets this many more requests through.
    async fn go_on(&self, requests: usize) {
        let until = self.done.load(Ordering::Relaxed) + requests;
        eventually("requests go through", || self.done.load(Ordering::Relaxed) >= until).await;
    }

    async fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn follows_every_kind_of_change(protocol: Protocol) {
    let (a, b) = (backend("a").await, backend("b").await);
    let mut options = ServerOptions::default();
    options.session.control_plane = Arc::from("zonebreak-test");
    let running = start(options).await;
    running.publish("front", 1, view("red", 1, a, "first"));
    let envoy = Envoy::start("front", protocol, running.address).await;
    let at = envoy.listening("ingress").await;
    answered(at, "a", "first").await;
    converged(&running).await;

    let load = Load::start(at);
    load.go_on(20).await;
    // Endpoints.
    running.publish("front", 2, view("red", 1, b, "first"));
    answered(at, "b", "first").await;
    // The filter.
    running.publish("front", 3, view("red", 1, b, "second"));
    answered(at, "b", "second").await;
    // The cluster itself: it warms, and needs its unchanged endpoints again.
    running.publish("front", 4, view("red", 2, b, "second"));
    converged(&running).await;
    eventually_warm(&envoy).await;
    // Routes to another cluster, and the old one gone, in one change.
    running.publish("front", 5, view("blue", 1, a, "second"));
    answered(at, "a", "second").await;
    converged(&running).await;
    load.go_on(20).await;
    assert_eq!(load.finish().await, Vec::<String>::new(), "no request fails in any update");

    let clusters = envoy.admin("/clusters").await;
    assert!(clusters.contains("blue::") && !clusters.contains("red::"), "{clusters}");
    assert_eq!(envoy.rejected().await, Vec::<String>::new());
    assert!(envoy.admin("/stats?filter=control_plane").await.contains("zonebreak-test"));
    let proxy = running.server.proxies().remove(0);
    assert_eq!((proxy.protocol, proxy.node_id.as_str()), (protocol, "front-1"));
    assert!(proxy.user_agent.starts_with("envoy "), "{}", proxy.user_agent);
    assert_eq!(running.server.metrics().gates_expired(), 0, "nothing had to be waited for");
    assert!(running.server.metrics().types().iter().all(|kind| kind.nacks == 0));
}

async fn eventually_warm(envoy: &Envoy) {
    let started = Instant::now();
    while envoy.stat("cluster_manager.warming_clusters").await != 0 {
        assert!(started.elapsed() < PATIENCE, "a cluster never warmed: {}", envoy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_envoy_follows_every_kind_of_change_and_no_request_fails() {
    follows_every_kind_of_change(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw_envoy_follows_every_kind_of_change_and_no_request_fails() {
    follows_every_kind_of_change(Protocol::Sotw).await;
}

/// Moves all traffic from cluster to cluster, removing the one left behind, as fast as the client follows.
async fn moves_traffic_without_a_failed_request(protocol: Protocol) {
    let (a, b) = (backend("a").await, backend("b").await);
    let running = start(ServerOptions::default()).await;
    running.publish("front", 0, view("c0", 1, a, "p"));
    let envoy = Envoy::start("front", protocol, running.address).await;
    let at = envoy.listening("ingress").await;
    answered(at, "a", "p").await;
    let load = Load::start(at);
    for change in 1..40 {
        let to = if change % 2 == 0 { a } else { b };
        running.publish("front", change, view(&format!("c{change}"), 1, to, "p"));
        if change % 4 == 0 {
            // Some changes come before the one before them has settled, some after.
            converged(&running).await;
        }
    }
    converged(&running).await;
    answered(at, "b", "p").await;
    assert_eq!(load.finish().await, Vec::<String>::new());
    assert_eq!(envoy.rejected().await, Vec::<String>::new());
    let clusters = envoy.admin("/clusters").await;
    assert!(clusters.contains("c39::") && !clusters.contains("c38::"), "{clusters}");
    assert_eq!(running.server.metrics().gates_expired(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_traffic_moves_between_clusters_that_come_and_go() {
    moves_traffic_without_a_failed_request(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw_traffic_moves_between_clusters_that_come_and_go() {
    moves_traffic_without_a_failed_request(Protocol::Sotw).await;
}

async fn keeps_what_works_when_it_refuses_a_change(protocol: Protocol) {
    let a = backend("a").await;
    let running = start(ServerOptions::default()).await;
    running.publish("front", 1, view("red", 1, a, "good"));
    let envoy = Envoy::start("front", protocol, running.address).await;
    let at = envoy.listening("ingress").await;
    answered(at, "a", "good").await;
    converged(&running).await;

    // Routes to a host that has no domain: Envoy refuses it.
    let mut bad = view("red", 1, a, "good");
    bad[3] = broken_route("routes");
    running.publish("front", 2, bad);
    eventually("the refusal is known", || running.server.convergence().refusing == 1).await;
    let proxy = running.server.proxies().remove(0);
    let routes = proxy.types.iter().find(|kind| kind.type_url.short() == "rds").unwrap();
    let refusal = routes.nack.as_ref().unwrap();
    assert_eq!(refusal.resources, ["routes"]);
    assert!(!refusal.message.is_empty());
    assert!(!proxy.converged);
    answered(at, "a", "good").await;
    let sent = running.server.metrics().types()[routes.type_url.position()].responses;

    // Another type's change goes on, and the refused routes are not sent again with it.
    let mut other = view("red", 1, a, "better");
    other[3] = broken_route("routes");
    running.publish("front", 3, other);
    answered(at, "a", "better").await;
    assert_eq!(running.server.metrics().types()[routes.type_url.position()].responses, sent);

    running.publish("front", 4, view("red", 1, a, "best"));
    answered(at, "a", "best").await;
    converged(&running).await;
    assert_eq!(running.server.convergence().refusing, 0);
}

fn broken_route(name: &str) -> Resource {
    use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
    let host = VirtualHost { name: "nowhere".into(), ..Default::default() };
    let message = RouteConfiguration { name: name.into(), virtual_hosts: vec![host], ..Default::default() };
    Resource::encode(name, &message)
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_envoy_keeps_what_works_when_it_refuses_a_change() {
    keeps_what_works_when_it_refuses_a_change(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw_envoy_keeps_what_works_when_it_refuses_a_change() {
    keeps_what_works_when_it_refuses_a_change(Protocol::Sotw).await;
}

/// The server goes and comes back with a changed view, at the same address.
async fn comes_back_to_a_restarted_server(protocol: Protocol) {
    let (a, b) = (backend("a").await, backend("b").await);
    let first = start(ServerOptions::default()).await;
    first.publish("front", 1, view("red", 1, a, "p"));
    let mut envoy = Envoy::start("front", protocol, first.address).await;
    let at = envoy.listening("ingress").await;
    answered(at, "a", "p").await;
    converged(&first).await;

    let load = Load::start(at);
    let address = first.address;
    drop(first);
    load.go_on(20).await;
    let second = support::start_at(address, ServerOptions::default()).await;
    load.go_on(20).await;
    second.publish("front", 2, view("red", 1, a, "p"));
    converged(&second).await;
    // In state of the world a version says nothing of what a client has by names: endpoints and routes.
    let told = |kind: &TypeUrl| protocol == Protocol::Delta || kind.is_full_state();
    let known = [TypeUrl::CLUSTER, TypeUrl::ENDPOINT, TypeUrl::LISTENER, TypeUrl::ROUTE];
    let sent = second.server.metrics().types();
    let resent: u64 =
        known.iter().filter(|kind| told(kind)).map(|kind| sent[kind.position()].resources).sum();
    assert_eq!(resent, 0, "the client had it all");
    second.publish("front", 3, view("blue", 1, b, "p"));
    answered(at, "b", "p").await;
    converged(&second).await;
    assert_eq!(load.finish().await, Vec::<String>::new());
    assert!(envoy.is_running());
    assert_eq!(envoy.rejected().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_envoy_comes_back_to_a_restarted_server_and_is_sent_nothing_again() {
    comes_back_to_a_restarted_server(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sotw_envoy_comes_back_to_a_restarted_server_and_is_sent_no_cluster_or_listener_again() {
    comes_back_to_a_restarted_server(Protocol::Sotw).await;
}

/// A runtime layer with a time to live, which Envoy heeds: it stays while the server is there and goes with it.
async fn keeps_what_has_a_ttl_as_long_as_the_server(protocol: Protocol) {
    let a = backend("a").await;
    let running = start(ServerOptions::default()).await;
    let mut resources = view("red", 1, a, "p");
    resources.push(runtime("chaos", "zonebreak.test", "on"));
    running.publish("front", 1, resources);
    let extra = json!({
        "node": {"client_features": ["xds.config.supports-resource-ttl", "xds.config.resource-in-sotw"]},
        "layered_runtime": {"layers": [{
            "name": "chaos",
            "rtds_layer": {"name": "chaos", "rtds_config": {"ads": {}, "resource_api_version": "V3"}},
        }]},
    });
    let envoy = Envoy::start_with("front", protocol, running.address, &extra).await;
    envoy.listening("ingress").await;
    assert!(envoy.admin("/runtime").await.contains("zonebreak.test"));
    let beats = || running.server.metrics().types()[TypeUrl::RUNTIME.position()].heartbeats;
    eventually("three times to live have gone by", || beats() >= 6).await;
    assert!(envoy.admin("/runtime").await.contains("zonebreak.test"), "heartbeats keep it alive");
    assert_eq!(running.server.metrics().types()[TypeUrl::RUNTIME.position()].responses, 1);

    drop(running);
    let started = Instant::now();
    while envoy.admin("/runtime").await.contains("zonebreak.test") {
        assert!(started.elapsed() < PATIENCE, "it outlived its server");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(envoy.listener("ingress").await.is_some(), "what has no time to live stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn r26_delta_envoy_keeps_what_has_a_ttl_as_long_as_the_server() {
    keeps_what_has_a_ttl_as_long_as_the_server(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r26_sotw_envoy_keeps_what_has_a_ttl_as_long_as_the_server() {
    keeps_what_has_a_ttl_as_long_as_the_server(Protocol::Sotw).await;
}

/// Envoy 1.36 refuses virtual hosts on the aggregated stream whatever its protocol (envoyproxy/envoy#23262, #34122, taken since
/// #42812), and goes on with what it has; on a stream of their own it takes them.
#[tokio::test(flavor = "multi_thread")]
async fn r27_envoy_fetches_virtual_hosts_when_they_are_asked_for() {
    fetches_virtual_hosts(own_service(Protocol::Delta)).await;
    if Envoy::version().await >= (1, 40) {
        return fetches_virtual_hosts(ads()).await;
    }
    let running = start(ServerOptions::default()).await;
    let resources = vec![
        listener("ingress", "routes", "policy", "ingress"),
        routes_on_demand("routes", ads()),
        policy("policy", "p"),
    ];
    running.publish("front", 1, resources);
    let envoy = Envoy::start("front", Protocol::Delta, running.address).await;
    eventually("the routes are refused", || running.server.convergence().refusing == 1).await;
    let types = running.server.proxies().remove(0).types;
    let refused: Vec<_> = types.iter().filter_map(|of| Some((&of.type_url, of.nack.as_ref()?))).collect();
    let [(kind, nack)] = refused[..] else { panic!("{refused:?}") };
    assert_eq!(*kind, TypeUrl::ROUTE);
    assert!(nack.message.contains("vhds: only 'DELTA_GRPC' is supported as an api_type"), "{nack:?}");
    drop(envoy);
}

async fn fetches_virtual_hosts(from: ConfigSource) {
    let (a, b) = (backend("a").await, backend("b").await);
    let running = start(ServerOptions::default()).await;
    let shop = |to: &str| host_on_demand("routes", "shop", "shop.example", to);
    let with = |host: Resource| {
        let mut resources = vec![
            cluster("red", 1),
            endpoints("red", a),
            cluster("blue", 1),
            endpoints("blue", b),
            listener("ingress", "routes", "policy", "ingress"),
            routes_on_demand("routes", from.clone()),
            policy("policy", "p"),
        ];
        resources.push(host);
        resources
    };
    running.publish("front", 1, with(shop("red")));
    let envoy = Envoy::start("front", Protocol::Delta, running.address).await;
    let started = Instant::now();
    let at = envoy.listening("ingress").await;
    // Listed before it listens. Envoy takes an answer without hosts for none, and waits for its `initial_fetch_timeout`.
    while get_from(at, "nobody.example", "/").await.is_err() {
        assert!(started.elapsed() < PATIENCE, "{}", envoy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let sent = || running.server.metrics().types()[TypeUrl::VIRTUAL_HOST.position()].resources;
    assert_eq!(sent(), 0);
    let found = get_from(at, "shop.example", "/").await.unwrap();
    assert_eq!((found.status, found.body.as_str()), (200, "a"), "{found:?}");
    assert_eq!(sent(), 1);
    let unknown = get_from(at, "nobody.example", "/").await.unwrap();
    assert_eq!(unknown.status, 404, "{unknown:?}");

    running.publish("front", 2, with(shop("blue")));
    let started = Instant::now();
    while get_from(at, "shop.example", "/").await.unwrap().body != "b" {
        assert!(started.elapsed() < PATIENCE, "{}", envoy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(envoy.rejected().await, Vec::<String>::new());
}

/// A small deterministic source of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// A service of a random topology: the name of its cluster, which changes, and what it is made of.
#[derive(Clone)]
struct Service {
    cluster: String,
    timeout: i64,
    backend: SocketAddr,
}

/// Five hundred random changes of services that come, go, are renamed, moved, and led to, and of the listener, under load on every
/// path. The routes change under one name, as the listener's older connections go on by them.
async fn follows_random_changes(protocol: Protocol, seed: u64) {
    const CHANGES: u64 = 500;
    const PATHS: [&str; 4] = ["/s0", "/s1", "/s2", "/s3"];
    let backends = [backend("a").await, backend("b").await];
    let running = start(ServerOptions::default()).await;
    let mut dice = Dice(seed);
    let mut services: [Option<Service>; 4] = [None, None, None, None];
    let (mut default, mut policy_value) = (0, 0);
    let mut front = 0;
    let stat_prefix = |front: usize| format!("ingress-{front}");
    let mut renamed = 0;
    let fresh = |dice: &mut Dice, at: usize, renamed: usize| Service {
        cluster: format!("s{at}-{renamed}"),
        timeout: 1 + dice.below(4) as i64,
        backend: backends[dice.below(2)],
    };
    services[0] = Some(fresh(&mut dice, 0, 0));
    let resources = |front: usize, services: &[Option<Service>; 4], default: usize, policy_value: usize| {
        let ingress = listener("ingress", "routes", "policy", &stat_prefix(front));
        let ingress = ingress.with_child(TypeUrl::ROUTE, "routes");
        let mut resources = vec![ingress, policy("policy", &policy_value.to_string())];
        let present = services.iter().flatten();
        resources.extend(present.clone().map(|service| cluster(&service.cluster, service.timeout)));
        resources.extend(present.map(|service| endpoints(&service.cluster, service.backend)));
        let named = PATHS.iter().zip(services).filter_map(|(path, service)| Some((*path, service.as_ref()?)));
        let mut to: Vec<(&str, &str)> =
            named.map(|(path, service)| (path, service.cluster.as_str())).collect();
        to.push(("/", services[default].as_ref().map(|service| service.cluster.as_str()).unwrap()));
        resources.push(routes("routes", &to));
        resources
    };
    running.publish("front", 0, resources(front, &services, default, policy_value));
    let envoy = Envoy::start("front", protocol, running.address).await;
    let at = envoy.listening("ingress").await;
    answered(at, if services[0].as_ref().unwrap().backend == backends[0] { "a" } else { "b" }, "0").await;
    let loads = PATHS.map(|path| Load::of(at, path));
    let requests = |loads: &[Load]| loads.iter().map(|load| load.done.load(Ordering::Relaxed)).sum::<usize>();

    for change in 1..=CHANGES {
        for _ in 0..=dice.below(3) {
            let which = dice.below(4);
            renamed += 1;
            // Now and then: each leaves the connections of the one before to run out.
            if dice.below(12) == 0 {
                front = renamed;
            }
            match (dice.below(6), &mut services[which]) {
                (0 | 1, service) => *service = Some(fresh(&mut dice, which, renamed)),
                (2, Some(service)) => service.backend = backends[dice.below(2)],
                (3, Some(service)) => service.timeout = 1 + dice.below(4) as i64,
                (4, service @ Some(_)) if which != default => *service = None,
                (5, Some(_)) => default = which,
                (_, None) | (4, _) => policy_value += 1,
                _ => unreachable!("six choices"),
            }
        }
        running.publish("front", change, resources(front, &services, default, policy_value));
        match dice.below(8) {
            0 => converged(&running).await,
            wait => tokio::time::sleep(Duration::from_millis(2 * wait as u64)).await,
        }
        // However slow the machine: each change has its share of the load.
        while requests(&loads) < 2 * change as usize {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    converged(&running).await;
    assert!(front > 0, "it was changed");
    let last = format!("http.{}.downstream_rq_total", stat_prefix(front));
    let started = Instant::now();
    while envoy.stat(&last).await == 0 {
        assert!(started.elapsed() < PATIENCE, "the last listener takes no request");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for load in loads {
        assert_eq!(load.finish().await, Vec::<String>::new(), "seed {seed}");
    }
    assert_eq!(envoy.rejected().await, Vec::<String>::new());
    assert_eq!(running.server.metrics().gates_expired(), 0);
    let clusters = envoy.admin("/clusters").await;
    let left: std::collections::BTreeSet<&str> = clusters
        .lines()
        .filter_map(|line| line.split_once("::"))
        .map(|(name, _)| name)
        .filter(|n| *n != "xds")
        .collect();
    let want: std::collections::BTreeSet<&str> =
        services.iter().flatten().map(|s| s.cluster.as_str()).collect();
    assert_eq!(left, want, "nothing is left of what went");
}

#[tokio::test(flavor = "multi_thread")]
async fn r20_delta_no_request_fails_in_500_random_changes() {
    follows_random_changes(Protocol::Delta, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r20_sotw_no_request_fails_in_500_random_changes() {
    follows_random_changes(Protocol::Sotw, 11).await;
}
