//! A proxy of either kind, for benchmarks that compare them: one with a bootstrap of its own, or one behind Zonebreak's
//! server. Starts it; measures nothing.

use std::net::SocketAddr;

use crate::{
    embedded::{Embedded, EmbeddedOptions},
    lab::{Backends, Envoy, EnvoyOptions, Lab, LabError, NodeId, bootstrap::LISTENER},
    world::{REGION, SOON},
};

/// A running proxy in the first zone of its backends, and where it takes requests.
#[derive(Debug)]
pub(crate) struct Proxy {
    target: SocketAddr,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Static(Box<Envoy>),
    Ours(Box<Embedded>),
}

// === impl Proxy ===

impl Proxy {
    /// One with a static bootstrap.
    pub(crate) async fn fixed(
        lab: &Lab,
        backends: &Backends,
        bootstrap: String,
        concurrency: u32,
    ) -> Result<Self, LabError> {
        let node = NodeId::in_zone(REGION, backends.zones()[0].name());
        let options = EnvoyOptions::new("envoy", bootstrap).node(node).concurrency(concurrency);
        let mut envoy = Box::new(Envoy::start(lab, options).await?);
        envoy.live(SOON).await?;
        let target = envoy.listener(LISTENER, SOON).await?;
        Ok(Self { target, kind: Kind::Static(envoy) })
    }

    /// One behind Zonebreak's server.
    pub(crate) async fn ours(
        lab: &Lab,
        backends: &Backends,
        options: EmbeddedOptions,
    ) -> Result<Self, LabError> {
        let embedded = Box::new(Embedded::start(lab, backends, options).await?);
        Ok(Self { target: embedded.port.address(), kind: Kind::Ours(embedded) })
    }

    /// Where it takes requests.
    pub(crate) fn target(&self) -> SocketAddr {
        self.target
    }

    /// The Envoy in it.
    pub(crate) fn envoy(&self) -> &Envoy {
        match &self.kind {
            Kind::Static(envoy) => envoy,
            Kind::Ours(embedded) => &embedded.envoy,
        }
    }
}
