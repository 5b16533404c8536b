//! The client status service: which client has which resource in which version, for tools that know Envoy's API
//! (`grpcurl`, `csds-client`). Reads the ledger; interprets no resource and sends none of them.
//!
//! Every resource that a client subscribes to is listed with what it was last told of: `SYNCED` when it acknowledged what its
//! view holds, `STALE` when that is on its way, `ERROR` when it refused it, `NOT_SENT` when it has nothing of it. Asked with
//! `node_matchers`, only those whose `node_id` matches exactly are told; other matchers are not supported, and say so.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::admin::v3::UpdateFailureState;
use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, string_matcher::MatchPattern};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::server::{Server, Shared};
use crate::session::{ResourceState, ResourceStatus};

/// The most resources in one answer: some 20 MB, which a thousand proxies of a hundred resources each stay below.
const MOST: usize = 100_000;

/// The service of one server.
pub struct ClientStatus {
    shared: Arc<Shared>,
}

// === impl ClientStatus ===

impl ClientStatus {
    /// Of this server's clients.
    pub fn new(server: &Server) -> Self {
        Self { shared: server.shared().clone() }
    }

    /// The gRPC service, to be added to the routes of [`Server::routes`].
    pub fn into_service(self) -> ClientStatusDiscoveryServiceServer<impl ClientStatusDiscoveryService> {
        ClientStatusDiscoveryServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatus {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let shared = self.shared.clone();
        let answers = request.into_inner().map(move |request| answer(&shared, &request?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        answer(&self.shared, request.get_ref()).map(Response::new)
    }
}

fn answer(shared: &Shared, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
    let ids = request.node_matchers.iter().map(exact).collect::<Result<Vec<_>, _>>()?;
    let wanted = |id: &str| ids.is_empty() || ids.contains(&id);
    let (mut config, mut listed) = (Vec::new(), 0);
    for (client, resources) in shared.clients(wanted) {
        listed += resources.len();
        if listed > MOST {
            return Err(Status::resource_exhausted(format!(
                "more than {MOST} resources: name some of the clients by node_matchers"
            )));
        }
        let locality = Locality {
            region: client.locality.region.clone(),
            zone: client.locality.zone.clone(),
            sub_zone: client.locality.sub_zone.clone(),
        };
        config.push(ClientConfig {
            node: Some(Node {
                id: client.node_id.clone(),
                cluster: client.cluster.clone(),
                locality: Some(locality),
                user_agent_name: client.user_agent.clone(),
                ..Node::default()
            }),
            generic_xds_configs: resources.into_iter().map(generic).collect(),
            client_scope: client.scope.to_string(),
            ..ClientConfig::default()
        });
    }
    Ok(ClientStatusResponse { config })
}

fn exact(matcher: &NodeMatcher) -> Result<&str, Status> {
    let pattern = matcher.node_id.as_ref().and_then(|id| id.match_pattern.as_ref());
    match pattern {
        Some(MatchPattern::Exact(id)) if matcher.node_metadatas.is_empty() => Ok(id),
        _ => Err(Status::invalid_argument("match nodes by node_id, exactly; nothing else is supported")),
    }
}

fn generic(resource: ResourceStatus) -> GenericXdsConfig {
    let status = match &resource.state {
        ResourceState::Synced => ConfigStatus::Synced,
        ResourceState::Stale => ConfigStatus::Stale,
        ResourceState::NotSent => ConfigStatus::NotSent,
        ResourceState::Refused(_) => ConfigStatus::Error,
    };
    let error_state = match resource.state {
        ResourceState::Refused(details) => {
            Some(UpdateFailureState { details: details.to_string(), ..UpdateFailureState::default() })
        }
        _ => None,
    };
    GenericXdsConfig {
        type_url: resource.type_url.to_string(),
        name: resource.name.to_string(),
        version_info: resource.version.map(|version| version.to_string()).unwrap_or_default(),
        config_status: status.into(),
        error_state,
        ..GenericXdsConfig::default()
    }
}
