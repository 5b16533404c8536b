//! The filter's module: read from its file, measured and checked before any proxy hears of it. Sends nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    config::{Delivery, FilterConfig, Sha256Hex},
    resources,
};

/// The largest module that is taken, 1.9 MiB. A state-of-the-world response cannot be split, gRPC clients refuse one of more
/// than 4 MiB, and it carries the module twice, once for each role; what two modules leave of it is for the policies.
pub const MAX_MODULE_BYTES: u64 = 19 * 1024 * 1024 / 10;

/// What every wasm module starts with (WebAssembly Core Specification, "Modules", binary format: `\0asm`).
const MAGIC: &[u8] = b"\0asm";

/// A module that may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Where the server read it.
    pub file: PathBuf,
    /// Its hash. With delivery by path it is part of the VM's configuration, so that a proxy loads a replaced file again; Envoy
    /// itself checks no hash of a local file.
    pub sha256: Sha256Hex,
    /// How it reaches the proxy.
    pub delivery: resources::Module,
}

/// Why a module was refused.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// It could not be read.
    #[error("failed to read the filter module {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not WebAssembly.
    #[error("{} is not a WebAssembly module: it does not start with \\0asm", file.display())]
    NotWasm {
        /// The file.
        file: PathBuf,
    },
    /// It ends in the middle of a section.
    #[error("{} is not whole: it ends inside a section (is it still being copied?)", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
    },
    /// It is larger than [`MAX_MODULE_BYTES`].
    #[error("the filter module {} has {size} bytes, at most {MAX_MODULE_BYTES} are allowed", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// It is not the module that was asked for.
    #[error(
        "the filter module {} has sha256 {found}, but filter.sha256 asks for {expected}: install the module that was \
         meant, or change filter.sha256",
        file.display()
    )]
    Sha256 {
        /// The file.
        file: PathBuf,
        /// What it hashes to.
        found: Sha256Hex,
        /// What was asked for.
        expected: Sha256Hex,
    },
}

// === impl Module ===

impl Module {
    /// Reads and checks the module that the configuration names; `None` when it names none.
    ///
    /// # Errors
    /// When the file cannot be read, is no module, is too large or is not the one that was asked for.
    pub fn load(config: &FilterConfig) -> Result<Option<Self>, ModuleError> {
        let Some(file) = config.file.clone() else { return Ok(None) };
        let bytes = read(&file)?;
        if !bytes.starts_with(MAGIC) {
            return Err(ModuleError::NotWasm { file });
        }
        if !whole(&bytes) {
            return Err(ModuleError::Truncated { file });
        }
        let sha256 = Sha256Hex::of(&bytes);
        if let Some(expected) = config.sha256.clone().filter(|expected| *expected != sha256) {
            return Err(ModuleError::Sha256 { file, found: sha256, expected });
        }
        let delivery = match config.deliver {
            Delivery::Bytes => resources::Module::Inline(bytes.into()),
            Delivery::Path => {
                let path = config.path.clone().unwrap_or_else(|| absolute(&file));
                resources::Module::Path { path: path.display().to_string(), sha256: sha256.to_string() }
            }
        };
        Ok(Some(Self { file, sha256, delivery }))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ModuleError> {
    let failed = |error| ModuleError::Read { file: file.to_owned(), error };
    // Asked before the reading, so that a wrong path to a huge file costs nothing.
    let size = fs::metadata(file).map_err(failed)?.len();
    if size > MAX_MODULE_BYTES {
        return Err(ModuleError::TooLarge { file: file.to_owned(), size });
    }
    fs::read(file).map_err(failed)
}

/// Whether the sections add up to the file, so that a module caught in the middle of a copy reaches no proxy (WebAssembly Core
/// Specification, "Binary Format, Sections": an id, the size as unsigned LEB128, the content).
fn whole(module: &[u8]) -> bool {
    const HEADER: usize = 8;
    let Some(mut rest) = module.get(HEADER..) else { return false };
    while let Some((_id, after_id)) = rest.split_first() {
        let Some((size, content)) = leb128(after_id) else { return false };
        match content.get(size..) {
            Some(next) => rest = next,
            None => return false,
        }
    }
    true
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let last = bytes.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(last + 1);
    let value = number.iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((usize::try_from(value).ok()?, rest))
}

/// A proxy has a working directory of its own.
fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn config(bytes: &[u8]) -> (tempfile::TempDir, FilterConfig) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("filter.wasm");
        fs::write(&file, bytes).unwrap();
        (dir, FilterConfig { file: Some(file), ..FilterConfig::default() })
    }

    #[test]
    fn a_sound_module_is_measured_and_taken() {
        let (_dir, mut config) = config(EMPTY_MODULE);
        let module = Module::load(&config).unwrap().unwrap();
        assert_eq!(module.delivery, resources::Module::Inline(bytes::Bytes::from_static(EMPTY_MODULE)));
        let sha256 = module.sha256.to_string();
        config.sha256 = Some(module.sha256);
        config.deliver = Delivery::Path;
        let by_path = Module::load(&config).unwrap().unwrap();
        assert_eq!(
            by_path.delivery,
            resources::Module::Path {
                path: config.file.clone().unwrap().display().to_string(),
                sha256: sha256.clone()
            }
        );
        config.path = Some("/elsewhere.wasm".into());
        assert_eq!(
            Module::load(&config).unwrap().unwrap().delivery,
            resources::Module::Path { path: "/elsewhere.wasm".into(), sha256 }
        );
        assert_eq!(Module::load(&FilterConfig::default()).unwrap(), None);
    }

    #[test]
    fn the_wrong_module_is_refused_and_both_hashes_are_named() {
        let (_dir, mut config) = config(EMPTY_MODULE);
        let (found, expected) = (Sha256Hex::of(EMPTY_MODULE), Sha256Hex::of(b"another"));
        config.sha256 = Some(expected.clone());
        let error = Module::load(&config).unwrap_err().to_string();
        assert!(error.contains(found.as_str()) && error.contains(expected.as_str()), "{error}");
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let (_dir, not_wasm) = config(b"#!/bin/sh\n");
        assert!(matches!(Module::load(&not_wasm), Err(ModuleError::NotWasm { .. })));
        // A custom section of 300 bytes, cut off at every place.
        let mut module = EMPTY_MODULE.to_vec();
        module.extend([0, 0xac, 0x02]);
        module.extend([0; 300]);
        assert!(whole(&module));
        for cut in EMPTY_MODULE.len() + 1..module.len() {
            assert!(!whole(&module[..cut]), "cut at {cut}");
        }
        let (_dir, cut) = config(&module[..200]);
        assert!(matches!(Module::load(&cut), Err(ModuleError::Truncated { .. })));
        let (_dir, huge) = config(&vec![0; MAX_MODULE_BYTES as usize + 1]);
        assert!(matches!(Module::load(&huge), Err(ModuleError::TooLarge { .. })));
        let missing = FilterConfig { file: Some("/nowhere/filter.wasm".into()), ..FilterConfig::default() };
        assert!(Module::load(&missing).unwrap_err().to_string().contains("/nowhere/filter.wasm"));
    }
}
