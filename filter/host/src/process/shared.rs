//! One Envoy process under a virtual clock. Everything in it happens on one thread of the test, in an order that the clock
//! decides; so a run repeats exactly.

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    time::Duration,
};

use super::{Level, LogLine, Metrics, Node, SharedData};

/// The Unix time at which every process starts, in seconds.
const START_S: u64 = 1_750_000_000;

/// What the VMs of a process share.
#[derive(Debug)]
pub struct Process {
    node: Node,
    now: Cell<Duration>,
    clock_offset_ns: Cell<i64>,
    metrics: RefCell<Metrics>,
    shared_data: RefCell<SharedData>,
    log: RefCell<Vec<LogLine>>,
}

// === impl Process ===

impl Process {
    /// A process that has just started.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            now: Cell::default(),
            clock_offset_ns: Cell::default(),
            metrics: RefCell::default(),
            shared_data: RefCell::default(),
            log: RefCell::default(),
        }
    }

    /// What the bootstrap says.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Time since the start, by the clock that never jumps.
    pub fn now(&self) -> Duration {
        self.now.get()
    }

    /// Moves the clock on; never back.
    pub fn advance_to(&self, time: Duration) {
        self.now.set(self.now.get().max(time));
    }

    /// Sets the wall clock ahead of what it would show, or behind it, as an administrator or NTP does. Timers stay.
    pub fn set_clock_offset(&self, seconds: f64) {
        self.clock_offset_ns.set((seconds * 1e9) as i64);
    }

    /// The wall clock: Unix time in ns.
    pub fn unix_ns(&self) -> u64 {
        let elapsed = self.now.get().as_nanos() as u64;
        (START_S * 1_000_000_000 + elapsed).saturating_add_signed(self.clock_offset_ns.get())
    }

    /// The wall clock: Unix time in ms.
    pub fn unix_ms(&self) -> u64 {
        self.unix_ns() / 1_000_000
    }

    /// The metrics, as in `/stats`.
    pub fn metrics(&self) -> RefMut<'_, Metrics> {
        self.metrics.borrow_mut()
    }

    /// The shared data.
    pub fn shared_data(&self) -> RefMut<'_, SharedData> {
        self.shared_data.borrow_mut()
    }

    /// What was logged so far.
    pub fn logged(&self) -> Ref<'_, Vec<LogLine>> {
        self.log.borrow()
    }

    pub(crate) fn log(&self, thread: usize, level: Level, text: String) {
        self.log.borrow_mut().push(LogLine { at: self.now.get(), thread, level, text });
    }
}
