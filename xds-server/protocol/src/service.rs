//! The gRPC methods: which path speaks which protocol about which type.
//!
//! One handler serves them all. It is what tonic's generated code would be, with bodies of our own on both sides.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::Service;

use crate::inbound::Inbound;
use crate::outbound;
use crate::server::Shared;
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
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let requests = Inbound::new(self.protocol, self.shared.max_request_bytes(), request.into_body());
        let responses = self.shared.serve(self.protocol, self.scope.clone(), peer, requests);
        std::future::ready(Ok(outbound::carry(responses)))
    }
}
