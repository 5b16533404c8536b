//! The proxy: configurations go through a scratch VM first and then to all threads, requests to one of them.

use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
    time::Duration,
};

use super::{
    FailurePolicy, Opened, Place, Reloads,
    plugin::Plugin,
    thread::{Maker, Thread},
};
use crate::{
    HostError,
    process::{Node, Process},
    vm::{Module, StreamInfo, Vm},
};

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--concurrency`.
    pub workers: usize,
    /// What the bootstrap says of the node.
    pub node: Node,
    /// `vm_config.vm_id` of all plugins.
    pub vm_id: String,
    /// What is done about a crashed VM.
    pub on_failure: FailurePolicy,
    /// Of the little that is left to chance.
    pub seed: u64,
}

/// One Envoy process.
pub struct Proxy {
    maker: Maker,
    threads: Vec<Thread>,
    plugins: Vec<Plugin>,
    reloads: Reloads,
}

/// Between one thread's turn at a new configuration and the next one's.
const APART: Duration = Duration::from_micros(50);

// === impl Settings ===

impl Default for Settings {
    /// Two workers in `az-a`, and the failure policy that the control plane emits.
    fn default() -> Self {
        Self {
            workers: 2,
            node: Node { zone: Some("az-a".to_owned()), ..Node::default() },
            vm_id: "zonebreak".to_owned(),
            on_failure: FailurePolicy::Reload { base: Duration::from_millis(200) },
            seed: 1,
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// A proxy without plugins.
    pub fn new(module: Module, settings: &Settings) -> Self {
        let process = Rc::new(Process::new(settings.node.clone()));
        let threads = (0..=settings.workers).map(|number| Thread::new(number, settings.seed)).collect();
        let maker = Maker { module, process, vm_id: settings.vm_id.clone(), policy: settings.on_failure };
        Self { maker, threads, plugins: Vec::new(), reloads: Reloads::default() }
    }

    /// What all threads share.
    pub fn process(&self) -> &Rc<Process> {
        &self.maker.process
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.threads.len() - 1
    }

    /// A new configuration for one place, as ECDS brings it: tried in a scratch VM, whose statics are fresh, and then given
    /// to the VM of every thread, where it takes the place of the one before. The same text again changes nothing.
    ///
    /// # Errors
    ///
    /// When the plugin refuses it in the scratch VM: Envoy rejects the update, and the configuration before goes on. When a
    /// VM crashes over it.
    pub fn configure(&mut self, place: Place, configuration: &str) -> Result<(), HostError> {
        let plugin = Plugin { place, configuration: configuration.as_bytes().into() };
        if self.plugins.contains(&plugin) {
            return Ok(());
        }
        self.try_out(&plugin)?;
        for thread in &mut self.threads {
            self.maker.process.advance_to(self.maker.process.now() + APART);
            thread.configure(&plugin, &self.maker)?;
        }
        self.plugins.retain(|known| known.place != place);
        self.plugins.push(plugin);
        Ok(())
    }

    /// New code under the same `vm_id`: a new VM on every thread, with the configurations at hand. Metrics and shared data
    /// stay, statics do not; requests in flight end in the old VM.
    ///
    /// # Errors
    ///
    /// As [`Self::configure`].
    pub fn upgrade(&mut self, module: Module) -> Result<(), HostError> {
        self.maker.module = module;
        for plugin in &self.plugins {
            self.try_out(plugin)?;
        }
        for thread in &mut self.threads {
            thread.forget_vm();
            for plugin in &self.plugins {
                thread.configure(plugin, &self.maker)?;
            }
        }
        Ok(())
    }

    fn try_out(&self, plugin: &Plugin) -> Result<(), HostError> {
        let mut scratch = self.maker.vm(0)?;
        scratch.start_plugin(&plugin.configuration).map(drop)
    }

    /// When the next tick is due on any thread.
    pub fn next_tick(&self) -> Option<Duration> {
        self.threads.iter().filter_map(Thread::next_tick).min()
    }

    /// Ticks what is due by now on all threads.
    pub fn tick(&mut self) {
        let now = self.process().now();
        for thread in &mut self.threads {
            if thread.next_tick().is_some_and(|due| due <= now) {
                thread.tick();
            }
        }
    }

    /// A stream begins on a worker, counted from 0.
    pub fn open(&mut self, worker: usize, place: Place, info: StreamInfo) -> Opened {
        match self.threads.get_mut(worker + 1) {
            Some(thread) => thread.open(place, info, &self.maker, &mut self.reloads),
            None => Opened::Absent,
        }
    }

    /// The VM of a worker, counted from 0; the one that crashed, until it is reloaded.
    pub fn vm(&self, worker: usize) -> Option<RefMut<'_, Vm>> {
        self.threads.get(worker + 1)?.vm().map(|vm| RefCell::borrow_mut(vm))
    }

    /// The VM of the main thread, which ticks and serves no request.
    pub fn main_vm(&self) -> Option<RefMut<'_, Vm>> {
        self.threads.first()?.vm().map(|vm| RefCell::borrow_mut(vm))
    }

    /// What became of crashed VMs.
    pub fn reloads(&self) -> Reloads {
        self.reloads
    }
}
