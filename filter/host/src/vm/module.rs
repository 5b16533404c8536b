//! A compiled proxy-wasm module, ready to be instantiated any number of times. It finds the filter that `scripts/build` made;
//! it never builds one.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::SystemTime,
};

use wasmtime::{Config, Engine, InstancePre, OptLevel};

use super::VmState;
use crate::{HostError, abi};

/// Compiled and linked code.
#[derive(Clone)]
pub struct Module {
    pub(super) engine: Engine,
    pub(super) linked: InstancePre<VmState>,
    size: usize,
}

/// Where `scripts/build` leaves the filter, and what it is made of, seen from this crate.
const FILTER: &str = "../../target/zonebreak_filter.wasm";
const SOURCES: [&str; 2] = ["../src", "../core/src"];

// === impl Module ===

impl Module {
    /// The filter: what `ZONEBREAK_FILTER` names, else the one in the workspace's target folder. Compiled once per process.
    ///
    /// # Errors
    ///
    /// When there is none, or one in the workspace that is older than its sources, or none that is a proxy-wasm module.
    pub fn filter() -> Result<Self, HostError> {
        static FILTER_MODULE: OnceLock<Module> = OnceLock::new();
        if let Some(module) = FILTER_MODULE.get() {
            return Ok(module.clone());
        }
        let path = match env::var_os("ZONEBREAK_FILTER") {
            Some(path) => PathBuf::from(path),
            None => built()?,
        };
        let code = fs::read(&path).map_err(|why| HostError::Read { path, why })?;
        let module = Self::new(&code)?;
        Ok(FILTER_MODULE.get_or_init(|| module).clone())
    }

    /// Compiles and links code: wasm.
    ///
    /// # Errors
    ///
    /// When it is no wasm, or imports what the ABI does not have.
    pub fn new(code: &[u8]) -> Result<Self, HostError> {
        let mut config = Config::new();
        config.cranelift_opt_level(OptLevel::Speed);
        let engine = Engine::new(&config).map_err(HostError::Compile)?;
        let module = wasmtime::Module::new(&engine, code).map_err(HostError::Compile)?;
        let linker = abi::link(&engine).map_err(HostError::Link)?;
        let linked = linker.instantiate_pre(&module).map_err(HostError::Link)?;
        Ok(Self { engine, linked, size: code.len() })
    }

    /// Bytes of the code as it is shipped.
    pub const fn size(&self) -> usize {
        self.size
    }
}

/// The filter in the workspace, unless it is older than its sources: a test of yesterday's code proves nothing.
fn built() -> Result<PathBuf, HostError> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = home.join(FILTER);
    let read = |path: &Path, why| HostError::Read { path: path.to_owned(), why };
    let made = fs::metadata(&path).and_then(|meta| meta.modified()).map_err(|why| read(&path, why))?;
    for sources in SOURCES.map(|sources| home.join(sources)) {
        if let Some(newer) = newer_than(made, &sources).map_err(|why| read(&sources, why))? {
            return Err(HostError::Stale { path, newer });
        }
    }
    Ok(path)
}

/// A file in a folder, or below it, that was changed after a time.
fn newer_than(time: SystemTime, folder: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = match entry.file_type()?.is_dir() {
            true => newer_than(time, &entry.path())?,
            false => (entry.metadata()?.modified()? > time).then(|| entry.path()),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
