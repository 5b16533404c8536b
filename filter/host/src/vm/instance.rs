//! A VM from its start to its crash, and the plugins in it. What streams do in it is in [`super::callbacks`]. After a trap
//! nothing is called any more.

use std::{rc::Rc, time::Duration};

use wasmtime::{Store, WasmParams, WasmResults};

use super::{
    CrashPoint, Module, VmState,
    exports::{Callback, Exports, find},
    root::Root,
};
use crate::{Crashed, HostError, abi::Calls, process::Process};

/// An instance of a module on one thread.
pub struct Vm {
    pub(super) store: Store<VmState>,
    #[cfg(test)]
    pub(super) instance: wasmtime::Instance,
    exports: Exports,
    pub(super) crashed: Option<Crashed>,
}

// === impl Vm ===

impl Vm {
    /// Instantiates a module on a thread and initializes it; there is no plugin in it yet.
    ///
    /// # Errors
    ///
    /// When the module lacks its memory or allocator, or crashes.
    pub fn start(
        module: &Module,
        process: &Rc<Process>,
        vm_id: &str,
        thread: usize,
    ) -> Result<Self, HostError> {
        let state = VmState::new(Rc::clone(process), vm_id.into(), thread);
        let mut store = Store::new(&module.engine, state);
        let instance = module.linked.instantiate(&mut store).map_err(HostError::Link)?;
        let exports = Exports::find(&instance, &mut store)?;
        let malloc = find(&instance, &mut store, "malloc")?.function;
        let malloc = match malloc {
            None => find(&instance, &mut store, "proxy_on_memory_allocate")?.function,
            found => found,
        };
        let memory = instance.get_memory(&mut store, "memory");
        let missing = |name| HostError::Export { name, why: wasmtime::Error::msg("it is missing") };
        store.data_mut().malloc = Some(malloc.ok_or_else(|| missing("malloc"))?);
        store.data_mut().memory = Some(memory.ok_or_else(|| missing("memory"))?);
        let mut vm = Self {
            store,
            #[cfg(test)]
            instance,
            exports,
            crashed: None,
        };
        vm.call(0, |exports| &exports.initialize, ())?;
        Ok(vm)
    }

    /// Starts a plugin: makes its root context and configures it. Gives the root context's id.
    ///
    /// # Errors
    ///
    /// When the plugin refuses its configuration, or crashes over it.
    pub fn start_plugin(&mut self, configuration: &Rc<[u8]>) -> Result<u32, HostError> {
        let logged = self.process().logged().len();
        let root = self.store.data_mut().add_root();
        self.call(root, |exports| &exports.on_context_create, (root, 0))?;
        let mut agreed = self.call(root, |exports| &exports.on_vm_start, (root, 0))? != Some(0);
        if agreed {
            self.set_configuration(root, Some(configuration));
            let size = configuration.len() as u32;
            let answer = self.call(root, |exports| &exports.on_configure, (root, size));
            self.set_configuration(root, None);
            agreed = answer? != Some(0);
        }
        if agreed {
            return Ok(root);
        }
        self.store.data_mut().roots.remove(&root);
        let said: Vec<_> =
            self.process().logged().iter().skip(logged).map(|line| line.text.clone()).collect();
        Err(HostError::Refused { said: said.join("; ") })
    }

    fn set_configuration(&mut self, root: u32, configuration: Option<&Rc<[u8]>>) {
        if let Some(root) = self.store.data_mut().roots.get_mut(&root) {
            root.configuration = configuration.cloned();
        }
    }

    /// A newer configuration has taken this one's place: it goes once its last stream has.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn retire_plugin(&mut self, root: u32) -> Result<(), Crashed> {
        if let Some(root) = self.store.data_mut().roots.get_mut(&root) {
            root.retired = true;
        }
        self.drop_retired(root)
    }

    pub(super) fn drop_retired(&mut self, id: u32) -> Result<(), Crashed> {
        let root = self.store.data_mut().roots.get_mut(&id);
        if root.is_some_and(|root| root.retired && root.streams == 0) {
            self.call(id, |exports| &exports.on_done, id)?;
            self.call(id, |exports| &exports.on_delete, id)?;
            self.store.data_mut().roots.remove(&id);
        }
        Ok(())
    }

    /// When a root context ticks next; never in a VM that has crashed.
    pub fn next_tick(&self) -> Option<Duration> {
        let due = |root: &Root| root.timer.map(|timer| timer.due());
        self.store.data().roots.values().filter_map(due).min().filter(|_| self.crashed.is_none())
    }

    /// Ticks every root context whose time has come. Each is armed again, `late` after its period.
    ///
    /// # Errors
    ///
    /// When the VM crashes.
    pub fn tick(&mut self, late: Duration) -> Result<(), Crashed> {
        let now = self.process().now();
        let due = |root: &Root| root.timer.is_some_and(|timer| timer.due() <= now);
        let roots = self.store.data().roots.iter().filter(|(_, root)| due(root)).map(|(id, _)| *id);
        for root in roots.collect::<Vec<_>>() {
            self.call(root, |exports| &exports.on_tick, root)?;
            let timer = self.store.data_mut().roots.get_mut(&root).and_then(|root| root.timer.as_mut());
            if let Some(timer) = timer {
                timer.again(now, late);
            }
        }
        Ok(())
    }

    /// Why it crashed, if it has.
    pub fn crashed(&self) -> Option<&Crashed> {
        self.crashed.as_ref()
    }

    /// Makes it crash; `None` takes that back. A VM that has crashed stays so.
    pub fn crash_at(&mut self, point: Option<CrashPoint>) {
        self.store.data_mut().crash_at(point);
    }

    /// Size of its memory in bytes. Wasm memory only grows.
    pub fn memory_size(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    /// The host calls it has made.
    pub fn calls(&self) -> &Calls {
        &self.store.data().calls
    }

    /// Streams that are open in it.
    pub fn open_streams(&self) -> usize {
        self.store.data().streams.len()
    }

    /// Root contexts in it, retired ones that still have streams among them.
    pub fn plugins(&self) -> usize {
        self.store.data().roots.len()
    }

    fn process(&self) -> &Rc<Process> {
        &self.store.data().process
    }

    /// Calls back; `None` when the module has no such callback.
    pub(super) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        context: u32,
        callback: impl Fn(&Exports) -> &Callback<P, R>,
        args: P,
    ) -> Result<Option<R>, Crashed> {
        if let Some(crashed) = &self.crashed {
            return Err(crashed.clone());
        }
        let Callback { name, function } = callback(&self.exports);
        let Some(function) = function else { return Ok(None) };
        self.store.data_mut().enter(context);
        match function.call(&mut self.store, args) {
            Ok(result) => Ok(Some(result)),
            Err(trap) => {
                let crashed = Crashed { why: format!("in {name}: {:#}", trap) };
                self.crashed = Some(crashed.clone());
                Err(crashed)
            }
        }
    }
}
