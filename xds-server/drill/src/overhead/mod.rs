//! What a filter costs a proxy in CPU and memory: no filter, an empty wasm filter, the same logic in Lua, Zonebreak. The
//! program is `bench-overhead`.

mod closed;
mod filters;
mod measure;
mod table;

pub use filters::Setup;
pub use measure::{Effort, Figures, measure};
pub use table::table;
