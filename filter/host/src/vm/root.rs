//! A root context: a plugin configuration at work in one VM. Data.

use std::rc::Rc;

use super::timer::Timer;

/// What the host keeps of a root context.
#[derive(Debug, Default)]
pub(crate) struct Root {
    /// There while `on_configure` runs.
    pub configuration: Option<Rc<[u8]>>,
    pub timer: Option<Timer>,
    /// Streams that still refer to it.
    pub streams: usize,
    /// A newer configuration has taken its place: it goes when its last stream has.
    pub retired: bool,
}
