//! A plugin configuration, and one worker's hold of it. Data.

use std::{cell::RefCell, rc::Rc, time::Duration};

use crate::vm::Vm;

/// Where in Envoy an instance of the filter sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the listener's filter chain: one stream a request.
    Downstream,
    /// In the cluster's filter chain: one stream an attempt.
    Upstream,
}

/// A configuration for one place. Two of the same place and text are the same to Envoy: the second changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plugin {
    pub place: Place,
    pub configuration: Rc<[u8]>,
}

/// A plugin at work on a thread.
pub(super) struct Handle {
    pub plugin: Plugin,
    pub vm: Rc<RefCell<Vm>>,
    pub root: u32,
    /// When it was loaded, or a reload of it was last tried.
    pub loaded: Duration,
}
