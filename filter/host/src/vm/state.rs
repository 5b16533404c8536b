//! What the host keeps for one VM, and what host calls reach. Never calls into the VM.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use wasmtime::{Memory, TypedFunc};

use super::{Stream, StreamInfo, root::Root, timer::Timer};
use crate::{
    abi::{Call, Calls},
    process::{MetricKind, Process},
};

/// The host's side of a VM.
pub struct VmState {
    pub(crate) process: Rc<Process>,
    pub(crate) vm_id: Rc<str>,
    pub(crate) thread: usize,
    pub(crate) memory: Option<Memory>,
    pub(crate) malloc: Option<TypedFunc<u32, u32>>,
    pub(crate) calls: Calls,
    pub(crate) roots: BTreeMap<u32, Root>,
    pub(crate) streams: HashMap<u32, Stream>,
    next_context: u32,
    /// The context of the callback that runs, and the one that the VM puts in its place (`proxy_set_effective_context`).
    current: u32,
    effective: Option<u32>,
    /// This VM's handles: each definition is a new one, even of a metric that it has defined before.
    metrics: Vec<(MetricKind, usize)>,
    crash: Option<CrashPoint>,
}

/// When a VM is to crash: always between two host calls, so in the middle of whatever it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// At this host call from now; 1 is the next.
    Calls(u64),
    /// Right after the next host call of this kind, which still takes effect.
    After(Call),
}

// === impl VmState ===

impl VmState {
    pub(crate) fn new(process: Rc<Process>, vm_id: Rc<str>, thread: usize) -> Self {
        Self {
            process,
            vm_id,
            thread,
            memory: None,
            malloc: None,
            calls: Calls::default(),
            roots: BTreeMap::new(),
            streams: HashMap::new(),
            next_context: 1,
            current: 0,
            effective: None,
            metrics: Vec::new(),
            crash: None,
        }
    }

    /// A callback begins.
    pub(crate) fn enter(&mut self, context: u32) {
        self.current = context;
        self.effective = None;
    }

    pub(crate) fn set_effective(&mut self, context: u32) -> bool {
        let known = self.roots.contains_key(&context) || self.streams.contains_key(&context);
        if known {
            self.effective = Some(context);
        }
        known
    }

    pub(crate) fn add_root(&mut self) -> u32 {
        let id = self.next_id();
        self.roots.insert(id, Root::default());
        id
    }

    pub(crate) fn add_stream(&mut self, stream: Stream) -> u32 {
        let id = self.next_id();
        if let Some(root) = self.roots.get_mut(&stream.root) {
            root.streams += 1;
        }
        self.streams.insert(id, stream);
        id
    }

    /// Forgets a stream; gives the root context it belonged to.
    pub(crate) fn remove_stream(&mut self, id: u32) -> Option<u32> {
        let stream = self.streams.remove(&id)?;
        if let Some(root) = self.roots.get_mut(&stream.root) {
            root.streams = root.streams.saturating_sub(1);
        }
        Some(stream.root)
    }

    fn next_id(&mut self) -> u32 {
        let id = self.next_context;
        self.next_context += 1;
        id
    }

    /// The context that host calls are about.
    fn context(&self) -> u32 {
        self.effective.unwrap_or(self.current)
    }

    /// The stream that host calls are about.
    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        let id = self.context();
        self.streams.get_mut(&id)
    }

    /// The root context of the one that host calls are about: itself, or its stream's.
    fn root(&mut self) -> Option<&mut Root> {
        let id = self.context();
        let root = self.streams.get(&id).map_or(id, |stream| stream.root);
        self.roots.get_mut(&root)
    }

    pub(crate) fn set_tick(&mut self, period: Duration) {
        let now = self.process.now();
        if let Some(root) = self.root() {
            root.timer = (period > Duration::ZERO).then(|| Timer::new(period, now));
        }
    }

    /// The plugin's configuration, while it is being configured; there are no other buffers.
    pub(crate) fn buffer(&mut self, of_plugin: bool) -> Option<Rc<[u8]>> {
        self.root().and_then(|root| root.configuration.clone()).filter(|_| of_plugin)
    }

    pub(crate) fn property(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.process.node();
        match self.streams.get(&self.context()) {
            Some(stream) => stream.info.attribute(path, node),
            // A root context has the node's attributes, and no other.
            None => StreamInfo::default().attribute(path, node),
        }
    }

    pub(crate) fn define_metric(&mut self, kind: MetricKind, name: &str) -> u32 {
        let place = self.process.metrics().define(kind, name);
        self.metrics.push((kind, place));
        self.metrics.len() as u32
    }

    pub(crate) fn metric(&self, id: u32) -> Option<(MetricKind, usize)> {
        self.metrics.get((id as usize).checked_sub(1)?).copied()
    }

    pub(crate) fn crash_at(&mut self, point: Option<CrashPoint>) {
        self.crash = point;
    }

    /// Whether the host call that begins, of this kind, is the one to crash at.
    pub(crate) fn crash_now(&mut self, call: Call) -> bool {
        match self.crash.as_mut() {
            None => false,
            Some(CrashPoint::Calls(left)) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            Some(CrashPoint::After(kind)) => {
                if *kind == call {
                    self.crash = Some(CrashPoint::Calls(1));
                }
                false
            }
        }
    }
}
