//! What the tests have in common. Measures and waits; the promises stand in the tests.

mod calm;
mod measure;
mod turn;
mod words;

pub use calm::{Busy, Calm, judged};
pub use measure::{Watched, in_sync, left_after, no_failure, ran, steady};
pub use turn::{alone, turn};
pub use words::{cli, etcd, put, words};
