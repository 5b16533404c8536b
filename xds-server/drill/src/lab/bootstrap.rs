//! Static Envoy configurations: one listener, one cluster, the backends of a lab as its endpoints. Spells out what a test or
//! a benchmark varies; sets no other option of Envoy.

use serde_json::{Value, json};

use super::{BackendZone, Backends};

/// Name of the listener in a [`StaticBootstrap`]; on port 0, so ask [`Envoy::listener`](super::Envoy::listener).
pub const LISTENER: &str = "ingress";

/// Name of the cluster in a [`StaticBootstrap`].
pub const CLUSTER: &str = "svc";

/// A bootstrap without a control plane.
#[derive(Debug, Clone)]
pub struct StaticBootstrap {
    /// HTTP filters before the router.
    pub http_filters: Vec<Value>,
    /// `RouteAction` fields beside `cluster`, such as a retry policy.
    pub route: Value,
    /// `VirtualHost` fields beside name, domains and routes.
    pub virtual_host: Value,
    /// `Cluster` fields beside name, type and endpoints.
    pub cluster: Value,
    /// `ClusterLoadAssignment.endpoints`; see [`localities`].
    pub endpoints: Value,
}

/// One `LocalityLbEndpoints` a zone: `configure` gives its fields beside locality and endpoints, such as
/// `{"priority": 1}`.
pub fn localities(backends: &Backends, region: &str, configure: impl Fn(&BackendZone) -> Value) -> Value {
    let zone = |zone: &BackendZone| {
        let endpoints: Vec<_> = zone
            .backends()
            .iter()
            .map(|backend| {
                let (address, port) = (backend.address().ip().to_string(), backend.address().port());
                json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
            })
            .collect();
        let fields = json!({"locality": {"region": region, "zone": zone.name()}, "lb_endpoints": endpoints});
        merged(fields, configure(zone))
    };
    Value::Array(backends.zones().iter().map(zone).collect())
}

/// The fields of two objects; the second's win.
pub fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}

// === impl StaticBootstrap ===

impl StaticBootstrap {
    /// Round robin over these endpoints, no filters.
    pub fn new(endpoints: Value) -> Self {
        let none = json!({});
        Self {
            http_filters: Vec::new(),
            route: none.clone(),
            virtual_host: none.clone(),
            cluster: none,
            endpoints,
        }
    }

    /// As JSON text, which Envoy takes as YAML.
    pub fn text(&self) -> String {
        let router = json!({"name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
        let filters: Vec<_> = self.http_filters.iter().cloned().chain([router]).collect();
        let route = merged(json!({"cluster": CLUSTER}), self.route.clone());
        let routes = json!([{"match": {"prefix": "/"}, "route": route}]);
        let host = json!({"name": CLUSTER, "domains": ["*"], "routes": routes});
        let host = merged(host, self.virtual_host.clone());
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": LISTENER,
            "route_config": {"name": "local", "virtual_hosts": [host]},
            "http_filters": filters,
        });
        let listener = json!({
            "name": LISTENER,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
            ]}],
        });
        let cluster = json!({
            "name": CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": CLUSTER, "endpoints": self.endpoints},
        });
        let cluster = merged(cluster, self.cluster.clone());
        json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}).to_string()
    }
}
