//! A look into a VM for unit tests: its memory, and any function of it.

use std::time::Duration;

use wasmtime::{Val, ValType};

use super::Vm;
use crate::Crashed;

// === impl Vm ===

impl Vm {
    /// Calls an exported function that gives an `i32`.
    pub(crate) fn invoke(&mut self, name: &str, args: &[i64]) -> Result<u32, Crashed> {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let parameters: Vec<_> = function.ty(&self.store).params().collect();
        assert_eq!(parameters.len(), args.len(), "{name}");
        let value = |(parameter, arg): (&ValType, &i64)| match parameter {
            ValType::I64 => Val::I64(*arg),
            _ => Val::I32(*arg as i32),
        };
        let args: Vec<_> = parameters.iter().zip(args).map(value).collect();
        let mut results = [Val::I32(0)];
        let called = function.call(&mut self.store, &args, &mut results);
        called.map_err(|trap| {
            let crashed = Crashed { why: format!("in {name}: {trap:#}") };
            self.crashed = Some(crashed.clone());
            crashed
        })?;
        Ok(results[0].unwrap_i32() as u32)
    }

    /// Bytes of its memory.
    pub(crate) fn peek(&self, at: usize, size: usize) -> Vec<u8> {
        self.store.data().memory.unwrap().data(&self.store)[at..at + size].to_vec()
    }

    /// Puts bytes into its memory.
    pub(crate) fn poke(&mut self, at: usize, bytes: &[u8]) {
        let memory = self.store.data().memory.unwrap();
        memory.data_mut(&mut self.store)[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes a context the one that host calls are about.
    pub(crate) fn enter_for_test(&mut self, context: u32) {
        self.store.data_mut().enter(context);
    }

    /// Moves its process's clock on.
    pub(crate) fn advance_for_test(&self, span: Duration) {
        let process = &self.store.data().process;
        process.advance_to(process.now() + span);
    }
}
