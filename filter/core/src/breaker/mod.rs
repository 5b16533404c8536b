//! The breaker of one service: its states, its moves, and the bytes in which workers share them.

pub mod encode;
pub mod machine;
pub mod shed;
pub mod state;
pub mod trial;
pub mod tuning;

pub use encode::{InvalidState, STATE_VERSION};
pub use machine::{Guard, Move, Names, Shifted, Sight, ZoneAssessment, step};
pub use shed::Shed;
pub use state::{Cause, InvalidTransition, ServiceState, State, Transition, ZoneState};
pub use trial::Gate;
pub use tuning::Tuning;
