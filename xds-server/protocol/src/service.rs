//! The gRPC methods: which path speaks which protocol about which type.
//!
//! One handler serves them all. It is what tonic's generated code would be, with our codec in place of prost's.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::service::Routes;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};
use tower::Service;

use crate::codec::XdsCodec;
use crate::server::Shared;
use crate::session::{Request, Response};
use crate::types::{Protocol, Scope, TypeUrl};

/// The per-type services: name, what their methods are called, and the type.
const SERVICES: [(&str, &str, TypeUrl); 10] = [
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", TypeUrl::CLUSTER),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints", TypeUrl::ENDPOINT),
    (
        "envoy.service.endpoint.v3.LocalityEndpointDiscoveryService",
        "LocalityEndpoints",
        TypeUrl::LOCALITY_ENDPOINT,
    ),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", TypeUrl::LISTENER),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", TypeUrl::ROUTE),
    ("envoy.service.route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", TypeUrl::SCOPED_ROUTE),
    ("envoy.service.route.v3.VirtualHostDiscoveryService", "VirtualHosts", TypeUrl::VIRTUAL_HOST),
    (
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        "ExtensionConfigs",
        TypeUrl::EXTENSION_CONFIG,
    ),
    ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets", TypeUrl::SECRET),
    ("envoy.service.runtime.v3.RuntimeDiscoveryService", "Runtime", TypeUrl::RUNTIME),
];

/// The types whose services have no state-of-the-world variant (rds.proto, leds.proto).
static DELTA_ONLY: [TypeUrl; 2] = [TypeUrl::VIRTUAL_HOST, TypeUrl::LOCALITY_ENDPOINT];

const AGGREGATED: (&str, &str) =
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources");

/// One method.
#[derive(Clone)]
struct Method {
    shared: Arc<Shared>,
    protocol: Protocol,
    scope: Scope,
}

type Responses = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

/// All methods, by path.
pub(crate) fn routes(shared: &Arc<Shared>) -> Routes {
    let (service, name) = AGGREGATED;
    let aggregated = [(service, name, Scope::Aggregated)];
    let single = SERVICES.map(|(service, name, type_url)| (service, name, Scope::Single(type_url)));
    let mut routes = Routes::default();
    for (service, name, scope) in aggregated.into_iter().chain(single) {
        for (verb, protocol) in [("Stream", Protocol::Sotw), ("Delta", Protocol::Delta)] {
            if protocol == Protocol::Sotw
                && DELTA_ONLY.iter().any(|kind| scope == Scope::Single(kind.clone()))
            {
                continue;
            }
            let method = Method { shared: shared.clone(), protocol, scope: scope.clone() };
            let router = std::mem::take(routes.axum_router_mut());
            *routes.axum_router_mut() = router.route_service(&format!("/{service}/{verb}{name}"), method);
        }
    }
    routes
}

/// The full names of the services in [`crate::Server::routes`], for gRPC reflection.
pub fn service_names() -> impl Iterator<Item = &'static str> {
    std::iter::once(AGGREGATED.0).chain(SERVICES.into_iter().map(|(service, _, _)| service))
}

// === impl Method ===

impl Service<http::Request<axum::body::Body>> for Method {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let limit = method.shared.max_request_bytes();
            let codec = XdsCodec { protocol: method.protocol };
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(limit), None);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

impl StreamingService<Request> for Method {
    type Response = Response;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<GrpcResponse<Responses>, Status>>;

    fn call(&mut self, request: GrpcRequest<Streaming<Request>>) -> Self::Future {
        let peer = request.remote_addr();
        let served = self.shared.serve(self.protocol, self.scope.clone(), peer, request.into_inner());
        std::future::ready(Ok(GrpcResponse::new(Box::pin(served) as Responses)))
    }
}
