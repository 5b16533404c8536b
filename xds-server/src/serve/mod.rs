//! The server: a topology comes in, views go out to proxies, and operators can see both.
//!
//! ```text
//! source ─> feed ─(publisher, pure)─> hub ─> xDS streams
//!             └─> state <── admin, health, metrics, audit
//! ```

pub mod admin;
pub mod apply;
pub mod changes;
pub mod checks;
pub mod feed;
pub mod grpc;
pub mod health;
pub mod history;
pub mod http;
pub mod lanes;
pub mod ledger;
pub mod matrix;
pub mod module;
pub mod nodes;
pub mod publisher;
pub mod quarantine;
pub mod reload;
pub mod replica;
pub mod rollout;
mod run;
pub mod saved;
pub mod state;
pub mod tls;
pub mod untried;
pub mod verdict;
pub mod waves;

pub use run::run;
