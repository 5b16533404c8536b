//! The client status service, asked over real gRPC about a real client.

mod support;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ConfigStatus};
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::rpc;
use support::{Running, eventually, node, start};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use zonebreak_xds::{Resource, ServerOptions, TypeUrl};

fn secret(name: &str, content: &'static str) -> Resource {
    Resource::from_value(name, TypeUrl::SECRET, content)
}

async fn ask(running: &Running, id: Option<&str>) -> Result<Vec<ClientConfig>, tonic::Status> {
    let matcher = |id: &str| NodeMatcher {
        node_id: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(id.to_owned())),
            ..StringMatcher::default()
        }),
        ..NodeMatcher::default()
    };
    let request = ClientStatusRequest {
        node_matchers: id.into_iter().map(matcher).collect(),
        ..ClientStatusRequest::default()
    };
    let mut client = ClientStatusDiscoveryServiceClient::connect(running.url()).await.unwrap();
    let streamed = client.stream_client_status(tokio_stream::once(request.clone())).await?;
    let streamed = streamed.into_inner().message().await?.unwrap().config;
    let fetched = client.fetch_client_status(request).await?.into_inner().config;
    assert_eq!(streamed, fetched);
    Ok(fetched)
}

/// Name, version and status of each resource.
fn told(config: &ClientConfig) -> Vec<(String, ConfigStatus, String)> {
    let row = |it: &envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig| {
        let error = it.error_state.as_ref().map(|error| error.details.clone()).unwrap_or_default();
        (it.name.clone(), it.config_status(), error)
    };
    config.generic_xds_configs.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_resource_of_each_client_is_told_as_it_stands() {
    let running = start(ServerOptions::default()).await;
    assert_eq!(ask(&running, None).await.unwrap(), []);
    running.publish("front", 1, vec![secret("a", "a1"), secret("b", "b1")]);
    let mut client = AggregatedDiscoveryServiceClient::connect(running.url()).await.unwrap();
    let (requests, outgoing) = mpsc::unbounded_channel();
    let type_url = TypeUrl::SECRET.to_string();
    let first = DeltaDiscoveryRequest {
        node: node("front"),
        type_url: type_url.clone(),
        resource_names_subscribe: vec!["*".into()],
        ..Default::default()
    };
    requests.send(first).unwrap();
    let responses = client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing)).await.unwrap();
    let mut responses = responses.into_inner();
    let response = responses.message().await.unwrap().unwrap();
    let names = |status| [("a".to_owned(), status, String::new()), ("b".to_owned(), status, String::new())];
    assert_eq!(told(&ask(&running, None).await.unwrap()[0]), names(ConfigStatus::Stale));
    let answer = |nonce: String| DeltaDiscoveryRequest {
        type_url: type_url.clone(),
        response_nonce: nonce,
        ..Default::default()
    };
    requests.send(answer(response.nonce)).unwrap();
    eventually("it is acknowledged", || running.server.convergence().converged == 1).await;
    let config = ask(&running, Some("front-1")).await.unwrap().remove(0);
    assert_eq!(told(&config), names(ConfigStatus::Synced));
    assert_eq!(config.node.unwrap().id, "front-1");
    assert!(!config.generic_xds_configs[0].version_info.is_empty());

    running.publish("front", 2, vec![secret("a", "a2"), secret("b", "b1")]);
    let response = responses.message().await.unwrap().unwrap();
    let error_detail = Some(rpc::Status { message: "a: bad".into(), ..Default::default() });
    requests.send(DeltaDiscoveryRequest { error_detail, ..answer(response.nonce) }).unwrap();
    eventually("it is refused", || running.server.convergence().refusing == 1).await;
    let refused = told(&ask(&running, None).await.unwrap()[0]);
    assert_eq!(refused[0], ("a".to_owned(), ConfigStatus::Error, "a: bad".to_owned()));
    assert_eq!(refused[1].1, ConfigStatus::Synced);

    assert_eq!(ask(&running, Some("nobody")).await.unwrap(), []);
    let request = ClientStatusRequest { node_matchers: vec![NodeMatcher::default()], ..Default::default() };
    let mut client = ClientStatusDiscoveryServiceClient::connect(running.url()).await.unwrap();
    let error = client.fetch_client_status(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}
