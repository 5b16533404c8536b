//! What of the filter's configuration moves with the topology: capacities, drains, and which services there are. The module and
//! the policies, which are what a proxy can refuse, are an operator's. Takes the one from here and the other from there; decides
//! nothing.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::TypedExtensionConfig,
        extensions::{filters::http::wasm::v3::Wasm, wasm::v3::PluginConfig},
    },
    google::protobuf::{Any, StringValue},
};
use prost::Message as _;
use zonebreak_core::{
    config::{FilterConfig, ServiceConfig},
    policy::ServicePolicy,
};
use zonebreak_xds::{Resource, TypeUrl};

use super::{filter, packed};

/// `base`, module and policies, with the capacities, drains and services of `now`. A service that `base` does not know is taken
/// along when it has no policy but the default, and left out otherwise: its policy is none of `base`.
///
/// `None` when either is not the configuration of the filter's downstream role in words that this program knows.
pub fn of_the_moment(base: &Resource, now: &Resource) -> Option<Resource> {
    let (mut wasm, before) = read(base)?;
    let (_, config) = read(now)?;
    let under = |(name, service): (_, ServiceConfig)| {
        let policy = match before.services.get(&name) {
            Some(known) => known.policy.clone(),
            None if service.policy == ServicePolicy::default() => service.policy.clone(),
            None => return None,
        };
        Some((name, ServiceConfig { policy, ..service }))
    };
    let services: BTreeMap<_, _> = config.services.into_iter().filter_map(under).collect();
    let json = serde_json::to_string(&FilterConfig { services, ..before }).ok()?;
    wasm.config.as_mut()?.configuration = Some(packed(&StringValue { value: json }));
    let name = base.name().to_string();
    Some(Resource::encode(
        &name,
        &TypedExtensionConfig { name: name.clone(), typed_config: Some(packed(&wasm)) },
    ))
}

fn read(resource: &Resource) -> Option<(Wasm, FilterConfig)> {
    if *resource.type_url() != TypeUrl::EXTENSION_CONFIG || **resource.name() != *filter::DOWNSTREAM {
        return None;
    }
    let any = Any::decode(resource.any().clone()).ok()?;
    let extension = TypedExtensionConfig::decode(any.value.as_slice()).ok()?;
    let wasm = Wasm::decode(extension.typed_config?.value.as_slice()).ok()?;
    let PluginConfig { configuration, .. } = wasm.config.as_ref()?;
    let json = StringValue::decode(configuration.as_ref()?.value.as_slice()).ok()?;
    let config = FilterConfig::parse(json.value.as_bytes()).ok()?;
    Some((wasm, config))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use zonebreak_topology::{
        registry::{Event, Registry},
        view,
    };
    use zonebreak_xds::{ChangeId, Snapshot};

    use super::*;
    use crate::resources::{Module, Options, snapshot};

    const SHIFT: &str = r#"{"keep_percent": 12.5, "reason": "r", "actor": "a", "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T01:00:00Z"}"#;
    const POLICY: &str = r#"{"hosts": ["h"], "port": 8080, "mode": "eventual", "weights": {"az-a": 80, "az-b": 20},
        "breaker": {"detector": "peers", "sensitivity": "fast", "open": "31s", "slow": "50ms over peers", "ramp": "21s"},
        "abort": {"percent": 5.5, "status": 503, "when": "zone_degraded"}, "spill": {"max_rps": 500, "max_share": 0.5},
        "retry": {"attempts": 2, "budget_percent": 33.3}, "probe": {"http": "/health", "interval": "3s"}}"#;

    fn filter_of(keys: &[(&str, &str)], module: &'static [u8]) -> Arc<Resource> {
        let mut registry = Registry::default();
        for (key, value) in keys {
            let (key, value) = ((*key).to_owned(), value.as_bytes().to_vec());
            registry.apply(Event::Put { key, value, mod_revision: 1 });
        }
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let view = view::view(&registry.topology(), Some(&"az-a".parse().unwrap()), now);
        let module = Some(Module::Inline(bytes::Bytes::from_static(module)));
        let options = Options { listener_address: "127.0.0.1".to_owned(), module, debug_header: true };
        let (view, _) = snapshot(&view, &options, ChangeId(1), None).unwrap();
        Snapshot::get(&view, &TypeUrl::EXTENSION_CONFIG, filter::DOWNSTREAM).unwrap().clone()
    }

    fn endpoint(zone: &str) -> String {
        format!(r#"{{"address": "10.0.0.1", "port": 80, "zone": "{zone}"}}"#)
    }

    #[test]
    fn capacities_drains_and_services_come_from_the_one_and_the_rest_from_the_other() {
        let (a, b) = (endpoint("az-a"), endpoint("az-b"));
        let before = [("services/s", POLICY), ("endpoints/s/1", &a), ("endpoints/s/2", &b)];
        let good = filter_of(&before, b"good");
        assert!(of_the_moment(&good, &good).unwrap().same_content(&good), "written as it was");

        // The module and a policy are others, an endpoint and a drain have come, and so has a service.
        let bad = POLICY.replace("\"attempts\": 2", "\"attempts\": 1");
        let moved = [("endpoints/s/3", &*b), ("shifts/az-b", SHIFT), ("endpoints/plain/1", &*a)];
        let after: Vec<_> = before.iter().copied().chain(moved).collect();
        let mut refused = after.clone();
        refused[0].1 = &bad;
        let (expected, refused) = (filter_of(&after, b"good"), filter_of(&refused, b"bad"));
        assert!(of_the_moment(&good, &refused).unwrap().same_content(&expected));

        // What a service is to be that has a policy, nobody has said yes to.
        let mut new = after.clone();
        new.extend([("services/t", POLICY), ("endpoints/t/1", &a)]);
        assert!(of_the_moment(&good, &filter_of(&new, b"bad")).unwrap().same_content(&expected));
    }

    #[test]
    fn what_is_no_configuration_of_the_filter_is_none_to_be_mixed() {
        let good = filter_of(&[("endpoints/s/1", &endpoint("az-a"))], b"good");
        let other = |name, kind| Resource::from_value(name, kind, b"junk".as_slice());
        for other in [
            other("zonebreak", TypeUrl::EXTENSION_CONFIG),
            other("zonebreak-upstream", TypeUrl::EXTENSION_CONFIG),
            other("zonebreak", TypeUrl::CLUSTER),
        ] {
            assert!(of_the_moment(&other, &good).is_none() && of_the_moment(&good, &other).is_none());
        }
    }
}
