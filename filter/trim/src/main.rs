//! Takes out of a proxy-wasm module the callbacks that its filter does not listen to, and the code that only they reach.
//! `zonebreak-trim MODULE TRIMMED`. Changes nothing that is left.
//!
//! The SDK defines every callback of the ABI and a library exports them all. Envoy calls whichever are exported, for each request,
//! each piece of a body and each log line, and compiles their code in each proxy: for the filter that is a tenth of the module.
//! Neither rustc nor the linker can be told to export less.

use std::{env, fs, path::Path};

use anyhow::{Context, ensure};
use walrus::{Module, ModuleConfig};

/// What Envoy wants of any module, then what the filter wants to hear (see `filter/src`).
const EXPORTS: [&str; 14] = [
    "memory",
    "_initialize",
    "malloc",
    "proxy_abi_version_0_2_1",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_tick",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_response_trailers",
    "proxy_on_done",
    "proxy_on_delete",
];

fn main() -> anyhow::Result<()> {
    let files: Vec<_> = env::args_os().skip(1).collect();
    let [module, trimmed] = files.as_slice() else {
        anyhow::bail!("usage: zonebreak-trim MODULE TRIMMED: two files, read and written");
    };
    let (module, trimmed) = (Path::new(module), Path::new(trimmed));
    let code = fs::read(module).with_context(|| format!("failed to read {}", module.display()))?;
    let code = trim(&code).with_context(|| format!("failed to trim {}", module.display()))?;
    // Whole or not at all: an Envoy may be reading the one that is there.
    let part = trimmed.with_extension("part");
    fs::write(&part, code)
        .and_then(|()| fs::rename(&part, trimmed))
        .with_context(|| format!("failed to write {}", trimmed.display()))
}

fn trim(code: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut module = ModuleConfig::new().generate_producers_section(false).parse(code)?;
    let exported = |name: &str| module.exports.iter().any(|export| export.name == name);
    let missing: Vec<_> = EXPORTS.into_iter().filter(|name| !exported(name)).collect();
    ensure!(missing.is_empty(), "it does not export {}: is it the filter?", missing.join(", "));
    let unheard = |module: &Module| {
        let exports = module.exports.iter();
        exports
            .filter(|export| !EXPORTS.contains(&export.name.as_str()))
            .map(|export| export.id())
            .collect::<Vec<_>>()
    };
    for export in unheard(&module) {
        module.exports.delete(export);
    }
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that exports all that is wanted, and one callback more that reaches a function of its own.
    fn module() -> Vec<u8> {
        let wanted = EXPORTS.iter().filter(|name| **name != "memory");
        let wanted: String = wanted.map(|name| format!("(func (export \"{name}\"))")).collect();
        let unheard =
            "(func $own (drop (memory.grow (i32.const 1))))(func (export \"proxy_on_log\") (call $own))";
        wat::parse_str(format!("(module (memory (export \"memory\") 1) {wanted} {unheard})")).unwrap()
    }

    #[test]
    fn what_nobody_listens_to_goes_with_its_code() {
        let trimmed = Module::from_buffer(&trim(&module()).unwrap()).unwrap();
        let mut exports: Vec<_> = trimmed.exports.iter().map(|export| export.name.as_str()).collect();
        let mut wanted = EXPORTS.to_vec();
        exports.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(exports, wanted);
        assert_eq!(trimmed.funcs.iter().count(), EXPORTS.len() - 1);
    }

    #[test]
    fn another_module_is_refused() {
        let other = wat::parse_str("(module (func (export \"run\")))").unwrap();
        let error = trim(&other).unwrap_err().to_string();
        assert!(error.contains("does not export memory, _initialize"), "{error}");
        assert!(trim(b"no wasm").is_err());
    }
}
