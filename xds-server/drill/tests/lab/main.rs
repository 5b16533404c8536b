//! The lab tested by itself: what other tests rely on must not be what fails. Real etcd, real Envoy; no control plane.

mod backends;
mod envoy;
mod etcd;
mod load;
