//! One proxy of the swarm: what it asks for and when, as Envoy does. Pure; it never decodes a resource.
//!
//! At first it asks for all clusters; given those, for their endpoints by name; then for all listeners, then for the routes that
//! they name. It acknowledges everything at once. When it comes back it asks for all four together and says what it has.

use std::collections::BTreeMap;
use std::rc::Rc;

use prost::Message;

use super::messages::{DeltaRequest, Locality, Node, SotwRequest};
use super::plan::{Speaks, ZONES};
use super::scan::Response;

/// The types, in the order in which a client comes to ask for them.
const TYPES: [&str; 4] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
];

/// What all clients share.
#[derive(Debug)]
pub(super) struct Fleet {
    speaks: Speaks,
    /// What is asked for by name, type by type; nothing means all.
    names: [Vec<String>; TYPES.len()],
}

/// What the clients of a zone have, by type: each resource's version, and that of the last response.
#[derive(Debug, Clone, Default)]
pub(super) struct Has {
    resources: [BTreeMap<String, String>; TYPES.len()],
    responses: [String; TYPES.len()],
}

/// What the clients of a zone say when they come back, encoded once for all of them.
#[derive(Debug)]
pub(super) struct Returning([Vec<u8>; TYPES.len()]);

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    fleet: Rc<Fleet>,
    number: usize,
    /// How many types it asked for, and how many were answered.
    asked: usize,
    answered: usize,
    /// The newest change it was told of.
    pub(super) change: u64,
}

// === impl Fleet ===

impl Fleet {
    pub(super) fn new(speaks: Speaks, services: usize) -> Rc<Self> {
        let services = (0..services).map(|service| format!("service-{service:04}")).collect();
        Rc::new(Self { speaks, names: [Vec::new(), services, Vec::new(), vec!["routes".into()]] })
    }

    pub(super) fn speaks(&self) -> Speaks {
        self.speaks
    }

    /// The first request for a type, without the node.
    fn ask(&self, kind: usize, has: &Has) -> Vec<u8> {
        let (names, type_url) = (self.names[kind].clone(), TYPES[kind].to_owned());
        match self.speaks {
            Speaks::Delta => DeltaRequest {
                type_url,
                resource_names_subscribe: names,
                initial_resource_versions: has.resources[kind].clone().into_iter().collect(),
                ..DeltaRequest::default()
            }
            .encode_to_vec(),
            Speaks::Sotw => SotwRequest {
                type_url,
                resource_names: names,
                version_info: has.responses[kind].clone(),
                ..SotwRequest::default()
            }
            .encode_to_vec(),
        }
    }
}

// === impl Has ===

impl Has {
    /// Takes what a client of the zone was sent.
    pub(super) fn learn(&mut self, response: &Response) {
        let Some(kind) = kind(&response.type_url) else { return };
        self.responses[kind].clone_from(&response.version);
        self.resources[kind].extend(response.learned.iter().cloned());
    }
}

// === impl Returning ===

impl Returning {
    pub(super) fn new(fleet: &Fleet, has: &Has) -> Self {
        Self(std::array::from_fn(|kind| fleet.ask(kind, has)))
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(fleet: Rc<Fleet>, number: usize) -> Self {
        Self { fleet, number, asked: 0, answered: 0, change: 0 }
    }

    pub(super) fn zone(number: usize) -> usize {
        number % ZONES
    }

    /// The first request of a client that has nothing.
    pub(super) fn begin(&mut self) -> Vec<u8> {
        self.asked = 1;
        [self.node(), self.fleet.ask(0, &Has::default())].concat()
    }

    /// The first requests of one that comes back.
    pub(super) fn resume(&mut self, with: &Returning) -> Vec<Vec<u8>> {
        self.asked = TYPES.len();
        let [first, rest @ ..] = &with.0;
        let mut requests = vec![[self.node(), first.clone()].concat()];
        requests.extend(rest.iter().cloned());
        requests
    }

    /// Takes a response; what is said to it. Answers whether this was the last that was missing at the beginning.
    pub(super) fn take(&mut self, response: &Response, mut say: impl FnMut(&[u8])) -> bool {
        self.change = self.change.max(response.change);
        let Some(kind) = kind(&response.type_url) else { return false };
        say(&self.accept(kind, response));
        if kind < self.answered || kind + 1 != self.asked {
            return false;
        }
        self.answered = self.asked;
        if self.asked == TYPES.len() {
            return true;
        }
        self.asked += 1;
        say(&self.fleet.ask(kind + 1, &Has::default()));
        false
    }

    /// The node alone: messages of protobuf merge when they are put one after the other.
    fn node(&self) -> Vec<u8> {
        let node = Some(Node {
            id: format!("sidecar~10.1.{}.{}~front-{}", self.number / 250, self.number % 250, self.number),
            cluster: "front".into(),
            locality: Some(Locality { zone: format!("zone-{}", Self::zone(self.number)) }),
            user_agent_name: "envoy".into(),
        });
        match self.fleet.speaks {
            Speaks::Delta => DeltaRequest { node, ..DeltaRequest::default() }.encode_to_vec(),
            Speaks::Sotw => SotwRequest { node, ..SotwRequest::default() }.encode_to_vec(),
        }
    }

    fn accept(&self, kind: usize, response: &Response) -> Vec<u8> {
        match self.fleet.speaks {
            Speaks::Delta => DeltaRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                ..DeltaRequest::default()
            }
            .encode_to_vec(),
            Speaks::Sotw => SotwRequest {
                type_url: response.type_url.clone(),
                version_info: response.version.clone(),
                response_nonce: response.nonce.clone(),
                resource_names: self.fleet.names[kind].clone(),
                ..SotwRequest::default()
            }
            .encode_to_vec(),
        }
    }
}

fn kind(type_url: &str) -> Option<usize> {
    TYPES.iter().position(|of| *of == type_url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(kind: usize) -> Response {
        Response {
            type_url: TYPES[kind].into(),
            nonce: format!("n{kind}"),
            version: "v".into(),
            ..Response::default()
        }
    }

    fn said(client: &mut Client, response: &Response) -> (Vec<DeltaRequest>, bool) {
        let mut said = Vec::new();
        let settled = client.take(response, |bytes| said.push(DeltaRequest::decode(bytes).unwrap()));
        (said, settled)
    }

    #[test]
    fn a_client_acknowledges_each_type_and_then_asks_for_the_next() {
        let mut client = Client::new(Fleet::new(Speaks::Delta, 2), 4);
        let first = DeltaRequest::decode(client.begin().as_slice()).unwrap();
        assert_eq!(first.node.unwrap().locality.unwrap().zone, "zone-1");
        assert!(first.resource_names_subscribe.is_empty());
        for kind in 0..TYPES.len() {
            let (said, settled) = said(&mut client, &response(kind));
            assert_eq!(said[0].response_nonce, format!("n{kind}"));
            assert_eq!(settled, kind == 3);
            assert_eq!(said.get(1).map(|next| next.type_url.as_str()), TYPES.get(kind + 1).copied());
            if kind == 0 {
                assert_eq!(said[1].resource_names_subscribe, ["service-0000", "service-0001"]);
            }
        }
        let (said, settled) = said(&mut client, &response(1));
        assert!(said.len() == 1 && !settled, "later it only acknowledges");
    }

    #[test]
    fn a_client_that_comes_back_says_what_it_has() {
        let mut has = Has::default();
        has.learn(&Response { learned: vec![("service-0000".into(), "7".into())], ..response(1) });
        let fleet = Fleet::new(Speaks::Delta, 1);
        let requests = Client::new(fleet.clone(), 4).resume(&Returning::new(&fleet, &has));
        let first = DeltaRequest::decode(requests[0].as_slice()).unwrap();
        assert_eq!((first.type_url.as_str(), first.node.unwrap().cluster.as_str()), (TYPES[0], "front"));
        let endpoints = DeltaRequest::decode(requests[1].as_slice()).unwrap();
        assert_eq!(endpoints.initial_resource_versions.get("service-0000").map(String::as_str), Some("7"));
        let fleet = Fleet::new(Speaks::Sotw, 1);
        let requests = Client::new(fleet.clone(), 4).resume(&Returning::new(&fleet, &has));
        let endpoints = SotwRequest::decode(requests[1].as_slice()).unwrap();
        assert_eq!((endpoints.version_info.as_str(), endpoints.resource_names.len()), ("v", 1));
    }
}
