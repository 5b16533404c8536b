//! One thread of Envoy: its VM, the plugins in it, their ticks, and the reload of a VM that has crashed.
//!
//! A thread has one VM for all plugins of the same `vm_id` and code. When it crashes, each plugin is reloaded by the first
//! request that needs it; the first plugin brings a new VM, the next ones join it. A thread without requests stays as it is.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use super::{
    FailurePolicy, FilterStream, Opened, Place, Reloads,
    failure::Remedy,
    plugin::{Handle, Plugin},
};
use crate::{
    HostError,
    process::Process,
    vm::{Module, StreamInfo, Vm},
};

/// What a thread needs to make a VM.
pub(super) struct Maker {
    pub module: Module,
    pub process: Rc<Process>,
    pub vm_id: String,
    pub policy: FailurePolicy,
}

/// The main thread (0) or a worker.
pub(super) struct Thread {
    number: usize,
    vm: Option<Rc<RefCell<Vm>>>,
    plugins: BTreeMap<Place, Handle>,
    rng: fastrand::Rng,
}

/// The most that an event loop adds to a tick's period.
const LATE: Duration = Duration::from_millis(2);

// === impl Maker ===

impl Maker {
    pub fn vm(&self, thread: usize) -> Result<Vm, HostError> {
        Vm::start(&self.module, &self.process, &self.vm_id, thread)
    }
}

// === impl Thread ===

impl Thread {
    pub fn new(number: usize, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ (number as u64) << 32);
        Self { number, vm: None, plugins: BTreeMap::new(), rng }
    }

    /// Puts a plugin in place of the one before, which stays as long as a stream refers to it.
    pub fn configure(&mut self, plugin: &Plugin, maker: &Maker) -> Result<(), HostError> {
        let handle = self.load(plugin, maker)?;
        if let Some(before) = self.plugins.insert(plugin.place, handle) {
            // A crash is for the requests to find: it is theirs to fail.
            let _ = before.vm.borrow_mut().retire_plugin(before.root);
        }
        Ok(())
    }

    /// Leaves the VM to the streams that are in it: the next plugin brings a new one.
    pub fn forget_vm(&mut self) {
        self.vm = None;
    }

    fn load(&mut self, plugin: &Plugin, maker: &Maker) -> Result<Handle, HostError> {
        let vm = match self.vm.as_ref().filter(|vm| vm.borrow().crashed().is_none()) {
            Some(vm) => Rc::clone(vm),
            None => Rc::new(RefCell::new(maker.vm(self.number)?)),
        };
        self.vm = Some(Rc::clone(&vm));
        let root = vm.borrow_mut().start_plugin(&plugin.configuration)?;
        Ok(Handle { plugin: plugin.clone(), vm, root, loaded: maker.process.now() })
    }

    /// A stream begins.
    pub fn open(&mut self, place: Place, info: StreamInfo, maker: &Maker, reloads: &mut Reloads) -> Opened {
        let Some(handle) = self.plugins.get_mut(&place) else { return Opened::Absent };
        if handle.vm.borrow().crashed().is_some() {
            let now = maker.process.now();
            match maker.policy.remedy(now.saturating_sub(handle.loaded), self.rng.f64()) {
                Remedy::Bypass => return Opened::Absent,
                Remedy::FailRequest => return Opened::Failed,
                Remedy::WaitAndFail => {
                    reloads.backed_off += 1;
                    return Opened::Failed;
                }
                Remedy::Reload => {
                    handle.loaded = now;
                    let plugin = handle.plugin.clone();
                    let Ok(loaded) = self.load(&plugin, maker) else {
                        reloads.failed += 1;
                        return Opened::Failed;
                    };
                    reloads.succeeded += 1;
                    self.plugins.insert(place, loaded);
                }
            }
        }
        match self.plugins.get(&place).map(|handle| FilterStream::open(&handle.vm, handle.root, place, info))
        {
            Some(Ok(stream)) => Opened::Stream(stream),
            Some(Err(_)) => Opened::Failed,
            None => Opened::Absent,
        }
    }

    pub fn vm(&self) -> Option<&Rc<RefCell<Vm>>> {
        self.vm.as_ref()
    }

    pub fn next_tick(&self) -> Option<Duration> {
        self.vm.as_ref()?.borrow().next_tick()
    }

    /// Ticks what is due. A crash shows at the next request.
    pub fn tick(&mut self) {
        let late = LATE.mul_f64(self.rng.f64());
        if let Some(vm) = &self.vm {
            let _ = vm.borrow_mut().tick(late);
        }
    }
}
