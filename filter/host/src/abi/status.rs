//! The results of host calls. Names only.

/// What a host call says of itself (proxy-wasm ABI 0.2.1, `proxy_result_t`; `WasmResult` in Envoy's host).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// It did what was asked.
    Ok = 0,
    /// There is no such thing.
    NotFound = 1,
    /// An argument makes no sense, or not now.
    BadArgument = 2,
    /// A pointer leads out of the VM's memory.
    InvalidMemoryAccess = 6,
    /// Nothing is in the queue.
    Empty = 7,
    /// The shared value was replaced meanwhile.
    CasMismatch = 8,
    /// The host failed.
    InternalFailure = 10,
    /// The host does not have this.
    Unimplemented = 12,
}
