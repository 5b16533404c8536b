//! The topology as types: what the schema says, validated. Holds; never reads, watches or decides.

mod confirmation;
mod endpoint;
mod health;
mod problem;
mod shift;
mod time;
mod topology;
mod zone;

pub use confirmation::{Confirmation, HeldId};
pub use endpoint::{Endpoint, InstanceId, InvalidInstance, MAX_ENDPOINT_WEIGHT};
pub use health::{Forced, Health, HealthState};
pub use problem::Problem;
pub use shift::{Shift, ShiftTarget};
pub use topology::Topology;
pub use zone::ZoneSpec;

/// Why a value that reads as its type cannot be used: which field, and what is allowed there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidValue {
    /// Dotted path of the field, empty for the value as a whole.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl InvalidValue {
    pub(crate) fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}
