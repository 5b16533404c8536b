//! The facade of the crate: one [`Engine`] for each VM of the filter, which is one for each worker of the proxy.

mod bucket;
mod cell;
mod facade;
mod overdue;
mod route;
mod service;
mod types;

pub use crate::{
    breaker::{Cause, InvalidState, State, Transition},
    detector::Evidence,
    window::Totals,
};
pub use facade::Engine;
pub use types::{
    Attempt, Bump, Coin, Decision, Now, Outcome, Proposal, Reason, Refusal, ServiceId, Swept, ZoneId,
    ZoneStatus,
};
