//! The proxies that are compared, each in front of the same backends. Builds configurations; measures nothing.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    embedded::EmbeddedOptions,
    lab::{
        BackendZone, Backends, Lab, LabError, Tool,
        bootstrap::{StaticBootstrap, localities, merged},
    },
    proxy::Proxy,
    world::REGION,
};

/// The zones, the proxy's own first.
pub(super) const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// What runs in the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setup {
    /// Nothing: a listener, a route, a cluster in round robin.
    None,
    /// A wasm filter by hand that is called for headers and does nothing: the least that wasm can cost.
    EmptyWasm,
    /// An empty filter built with the SDK as Zonebreak's is, in the listener and in the cluster.
    EmptySdk,
    /// What Zonebreak does to a request, in Lua, with the same subsets.
    Lua,
    /// The same, and a second Lua filter in the cluster that counts each attempt.
    LuaAttempts,
    /// Everything that Zonebreak's server configures, but no filter.
    OursWithout,
    /// Zonebreak, with its default policy in `eventual` mode.
    Ours,
}

// === impl Setup ===

impl Setup {
    /// As it stands in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::EmptyWasm => "empty wasm filter, by hand",
            Self::EmptySdk => "empty wasm filter, Rust SDK, both roles",
            Self::Lua => "the same logic in Lua, requests only",
            Self::LuaAttempts => "the same logic in Lua, requests and attempts",
            Self::OursWithout => "Zonebreak's configuration, no filter",
            Self::Ours => "**Zonebreak**",
        }
    }

    /// As it is named on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Starts a proxy in front of the backends.
    pub(super) async fn start(
        self,
        lab: &Lab,
        backends: &Backends,
        concurrency: u32,
    ) -> Result<Proxy, LabError> {
        if let Self::Ours | Self::OursWithout = self {
            let policy = json!({"mode": "eventual"});
            let filter = self == Self::Ours;
            return Proxy::ours(
                lab,
                backends,
                EmbeddedOptions { policy, concurrency, filter, ..EmbeddedOptions::default() },
            )
            .await;
        }
        Proxy::fixed(lab, backends, self.bootstrap(lab, backends)?, concurrency).await
    }

    fn bootstrap(self, lab: &Lab, backends: &Backends) -> Result<String, LabError> {
        let mut bootstrap = StaticBootstrap::new(localities(backends, REGION, |_| json!({})));
        match self {
            Self::EmptyWasm => bootstrap.http_filters.push(wasm("empty", &by_hand(lab)?)),
            Self::EmptySdk => {
                let module = lab.programs().path(Tool::EmptyFilter)?;
                bootstrap.http_filters.push(wasm("empty", &module));
                bootstrap.cluster = upstream_filter(wasm("empty-upstream", &module));
            }
            Self::Lua | Self::LuaAttempts => {
                bootstrap.http_filters.extend([lua(include_str!("zone.lua")), serve_to_metadata()]);
                bootstrap.virtual_host = json!({"response_headers_to_add": [{"header": {
                    "key": "x-upstream-zone", "value": "%UPSTREAM_METADATA(envoy.lb:az)%",
                }}]});
                bootstrap.cluster = subsets();
                if self == Self::LuaAttempts {
                    let attempts = upstream_filter(lua(include_str!("attempt.lua")));
                    bootstrap.cluster = merged(bootstrap.cluster, attempts);
                }
                bootstrap.endpoints = by_zone(backends);
            }
            Self::None | Self::Ours | Self::OursWithout => {}
        }
        Ok(bootstrap.text())
    }
}

/// A proxy with nothing but a listener, and the filter's module in it where there is one.
pub(super) fn alone(module: Option<PathBuf>) -> String {
    let mut bootstrap = StaticBootstrap::new(json!([]));
    if let Some(module) = module {
        let mut filter = wasm("zonebreak", &module);
        filter["typed_config"]["config"]["configuration"] = json!({
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": json!({"version": 1, "role": "downstream", "zone": ZONES[0], "services": {}}).to_string(),
        });
        bootstrap.http_filters.push(filter);
    }
    bootstrap.text()
}

fn by_hand(lab: &Lab) -> Result<PathBuf, LabError> {
    let doing = "assemble the empty wasm filter";
    let module = wat::parse_str(include_str!("noop.wat")).map_err(std::io::Error::other);
    let module = module.map_err(LabError::io(doing))?;
    let file = lab.path().join("noop.wasm");
    std::fs::write(&file, module).map_err(LabError::io(format!("write {}", file.display())))?;
    Ok(file)
}

fn wasm(name: &str, module: &Path) -> Value {
    json!({"name": name, "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {"name": name, "failure_policy": "FAIL_CLOSED", "vm_config": {
            "vm_id": "empty", "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}},
        }},
    }})
}

fn lua(code: &str) -> Value {
    json!({"name": "lua", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": code},
    }})
}

/// `Cluster` fields by which a filter sees each attempt.
fn upstream_filter(filter: Value) -> Value {
    let codec = json!({"name": "envoy.filters.http.upstream_codec", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}});
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "http_filters": [filter, codec],
    }}})
}

fn serve_to_metadata() -> Value {
    let value = json!({"metadata_namespace": "envoy.lb", "key": "serve", "type": "STRING"});
    json!({"name": "header_to_metadata", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [{"header": "x-zonebreak-serve", "on_header_present": value, "remove": true}],
    }})
}

fn subsets() -> Value {
    json!({
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "locality_weighted_lb_config": {}},
        "lb_subset_config": {"fallback_policy": "ANY_ENDPOINT", "list_as_any": true, "locality_weight_aware": true,
            "subset_selectors": [{"keys": ["serve"]}]},
    })
}

/// The own zone first, and for each endpoint the keys of the subsets that it is in.
fn by_zone(backends: &Backends) -> Value {
    let mut zones = localities(backends, REGION, |zone: &BackendZone| {
        let own = zone.name() == ZONES[0];
        json!({"priority": u32::from(!own), "load_balancing_weight": zone.backends().len()})
    });
    for zone in zones.as_array_mut().into_iter().flatten() {
        let name = zone["locality"]["zone"].as_str().unwrap_or_default().to_owned();
        let others = ZONES.iter().filter(|other| **other != name).map(|other| format!("no-{other}"));
        let serve: Vec<_> = others.chain([format!("only-{name}")]).collect();
        let metadata = json!({"metadata": {"filter_metadata": {"envoy.lb": {"az": name, "serve": serve}}}});
        for endpoint in zone["lb_endpoints"].as_array_mut().into_iter().flatten() {
            *endpoint = merged(endpoint.take(), metadata.clone());
        }
    }
    zones
}
