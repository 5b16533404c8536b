//! The `serve` keys on a real Envoy: the cluster, the endpoints and the `header_to_metadata` that the server emits, in a proxy without
//! the filter, so that a request may name any key.

use serde_json::{Value, json};
use zonebreak_drill::{
    embedded::EmbeddedOptions,
    lab::{
        Envoy, EnvoyOptions, NodeId,
        bootstrap::{CLUSTER, LISTENER, StaticBootstrap},
    },
    world::{REGION, SERVICE, SOON},
};

use super::bench::{Answer, Bench, ZONES, client, send, zones};
use crate::support::turn;

/// Requests with each key.
const COUNT: usize = 80;

/// A proxy that was told nothing but what another one was told of its service.
struct Keyed {
    bench: Bench,
    envoy: Envoy,
    address: std::net::SocketAddr,
}

impl Keyed {
    async fn start() -> Self {
        let weights = json!({"az-a": 80, "az-b": 15, "az-c": 5});
        let policy = json!({"mode": "eventual", "weights": weights});
        let bench = Bench::start(EmbeddedOptions { policy, ..EmbeddedOptions::default() }).await;
        let text = bootstrap(&bench.proxy.envoy.config_dump().await.unwrap()).text();
        let options = EnvoyOptions::new("keyed", text).node(NodeId::in_zone(REGION, ZONES[0]));
        let mut envoy = Envoy::start(&bench.lab, options).await.unwrap();
        envoy.live(SOON).await.unwrap();
        let address = envoy.listener(LISTENER, SOON).await.unwrap();
        Self { bench, envoy, address }
    }

    /// Requests that name this key.
    async fn answers(&self, key: Option<&str>) -> Vec<Answer> {
        let client = client();
        let header = key.map(|key| ("x-zonebreak-serve", key));
        let mut answers = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            answers.push(send(&client, self.address, header.as_slice()).await.unwrap());
        }
        assert!(answers.iter().all(|answer| answer.status == 200), "{key:?}: {answers:?}");
        answers
    }

    async fn fallbacks(&self) -> u64 {
        self.envoy.stat(&format!("cluster.{CLUSTER}.lb_subsets_fallback")).await.unwrap().unwrap_or_default()
    }
}

/// Cluster, endpoints and `header_to_metadata` out of a dump, with nothing that would ask the server for more.
fn bootstrap(dump: &Value) -> StaticBootstrap {
    let configs = dump["configs"].as_array().unwrap();
    let of = |kind: &str| {
        let found = configs.iter().find(|it| it["@type"].as_str().is_some_and(|found| found.ends_with(kind)));
        found.unwrap_or_else(|| panic!("no {kind} in the dump"))
    };
    let clusters = of("ClustersConfigDump")["dynamic_active_clusters"].as_array().unwrap();
    let cluster = clusters.iter().map(|it| &it["cluster"]).find(|it| it["name"] == SERVICE).unwrap();
    let mut cluster = cluster.clone();
    for field in ["@type", "name", "type", "eds_cluster_config", "typed_extension_protocol_options"] {
        cluster.as_object_mut().unwrap().remove(field);
    }
    let endpoints = of("EndpointsConfigDump")["dynamic_endpoint_configs"].as_array().unwrap();
    let assignment = endpoints.iter().map(|it| &it["endpoint_config"]);
    let assignment = assignment.clone().find(|it| it["cluster_name"] == SERVICE).unwrap();
    let listeners = of("ListenersConfigDump")["dynamic_listeners"].as_array().unwrap();
    let manager = &listeners[0]["active_state"]["listener"]["filter_chains"][0]["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_array().unwrap();
    let to_metadata = filters.iter().find(|filter| filter.to_string().contains("header_to_metadata"));
    let mut bootstrap = StaticBootstrap::new(assignment["endpoints"].clone());
    bootstrap.http_filters.push(to_metadata.expect("header_to_metadata").clone());
    bootstrap.cluster = cluster;
    bootstrap
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_split_as_their_serve_key_says() {
    let _turn = turn().await;
    let keyed = Keyed::start().await;
    let home: &[&str] = &["az-a"];
    for (key, allowed) in [
        (None, home),
        (Some("no-az-b"), home),
        (Some("no-az-c"), home),
        (Some("no-az-a"), &["az-b", "az-c"]),
        (Some("only-az-a"), home),
        (Some("only-az-b"), &["az-b"]),
        (Some("only-az-c"), &["az-c"]),
    ] {
        let answers = keyed.answers(key).await;
        let found = zones(&answers);
        assert!(found.keys().eq(allowed.iter()), "{key:?} led to {found:?}");
    }
    // Among the other zones by their weights, 15 to 5.
    let answers = keyed.answers(Some("no-az-a")).await;
    let b = zones(&answers)["az-b"];
    assert!(
        (COUNT * 7 / 10..=COUNT * 8 / 10).contains(&b),
        "{b} of {COUNT} went to az-b, three quarters should"
    );
    assert_eq!(keyed.fallbacks().await, COUNT as u64, "those without a key, and no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_serve_key_means_the_whole_cluster() {
    let _turn = turn().await;
    let keyed = Keyed::start().await;
    for (round, key) in ["no-az-z", "only-az-z", "nonsense"].into_iter().enumerate() {
        let answers = keyed.answers(Some(key)).await;
        assert_eq!(zones(&answers), [("az-a", COUNT)].into(), "{key}: as without a key");
        assert_eq!(keyed.fallbacks().await, ((round + 1) * COUNT) as u64, "{key} fell back");
    }
    // The whole cluster: with its own zone gone, such a request still has somewhere to go.
    keyed.bench.backends.zone("az-a").set_fault(zonebreak_drill::lab::Fault::Refuse);
    let client = client();
    for _ in 0..COUNT {
        let answer = send(&client, keyed.address, &[("x-zonebreak-serve", "no-az-a")]).await.unwrap();
        assert_eq!(answer.status, 200, "a key that excludes the dead zone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serve_header_never_reaches_a_backend() {
    let _turn = turn().await;
    let keyed = Keyed::start().await;
    for key in ["no-az-a", "only-az-c", "nonsense"] {
        keyed.answers(Some(key)).await;
    }
    assert!(keyed.bench.reached().len() == 3, "{:?}", keyed.bench.reached());
    assert_eq!(keyed.bench.backends.leaked_headers(), [].into());
}
