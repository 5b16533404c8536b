//! One type on one stream. It begins in `state.rs`.

mod beat;
mod brought;
mod collections;
mod compose;
mod content;
mod errors;
mod hear;
mod know;
mod room;
mod send;
mod state;
mod strays;

pub(crate) use content::Content;
pub(crate) use hear::Answer;
pub(crate) use send::{Children, Rules};
pub(crate) use state::Watch;
