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
        let answers = request.into_inner().then(move |request| {
            let shared = shared.clone();
            async move { answered(shared, request?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        answered(self.shared.clone(), request.into_inner()).await.map(Response::new)
    }
}

/// The answer, made beside the threads that serve streams: it walks over every resource of every client, and waits for sessions.
async fn answered(shared: Arc<Shared>, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
    let made = tokio::task::spawn_blocking(move || answer(&shared, &request)).await;
    made.unwrap_or_else(|error| Err(Status::internal(format!("failed to answer: {error}"))))
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::hub::Hub;
    use crate::session::{Session, SessionOptions};
    use crate::types::{Protocol, Scope, StreamId, ViewKey};

    /// On one thread: an answer that is made there would keep everything else waiting, as it waits for the session.
    #[tokio::test]
    async fn an_answer_that_takes_long_keeps_no_stream_waiting() {
        let server = Server::new(Hub::new(), |_: &_| ViewKey::new(""), Default::default());
        let session = Session::new(
            Arc::new(SessionOptions::default()),
            StreamId(1),
            Protocol::Delta,
            Scope::Aggregated,
        );
        let entry = server.shared().entry(session);
        let (held, is_held) = mpsc::channel();
        let (free, freed) = mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let _busy = entry.session();
            held.send(()).unwrap();
            freed.recv_timeout(Duration::from_secs(5)).is_ok()
        });
        is_held.recv().unwrap();
        let service = ClientStatus::new(&server);
        let asked = service.fetch_client_status(Request::new(ClientStatusRequest::default()));
        let others = async {
            tokio::task::yield_now().await;
            free.send(()).unwrap();
        };
        let (answer, ()) = tokio::join!(asked, others);
        assert_eq!(answer.unwrap().into_inner().config.len(), 1);
        assert!(holder.join().unwrap(), "the only thread stood still");
    }
}
