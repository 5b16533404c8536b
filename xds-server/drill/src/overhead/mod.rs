//! What a filter costs a proxy in CPU and memory: no filter, an empty wasm filter, the same logic in Lua, Zonebreak. The
//! program is `bench-overhead`.

mod filters;
mod growth;
mod measure;
mod sidecar;
mod table;

pub use filters::Setup;
pub use growth::{Growth, growth};
pub use measure::{Effort, Figures, measure};
pub use sidecar::{Sidecars, sidecars};
pub use table::table;
