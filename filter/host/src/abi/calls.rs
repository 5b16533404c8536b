//! A count of the host calls that a VM has made, by kind: what they cost in Envoy depends on it. Counts; judges nothing.

/// A kind of host call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the ABI's own")]
pub enum Call {
    Log,
    GetLogLevel,
    GetTime,
    SetTick,
    GetBuffer,
    GetBufferStatus,
    GetHeader,
    GetHeaders,
    GetHeadersSize,
    SetHeader,
    SetHeaders,
    GetProperty,
    SetProperty,
    GetShared,
    SetShared,
    DefineMetric,
    IncrementMetric,
    RecordMetric,
    GetMetric,
    SendLocalResponse,
    SetEffectiveContext,
    ContinueStream,
    Foreign,
    Done,
    Unsupported,
}

/// How many host calls there were.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls {
    by_kind: [u64; Call::COUNT],
    returned: u64,
}

// === impl Call ===

impl Call {
    const COUNT: usize = Self::Unsupported as usize + 1;
}

// === impl Calls ===

impl Calls {
    pub(crate) fn count(&mut self, call: Call) {
        self.by_kind[call as usize] += 1;
    }

    pub(crate) fn count_returned(&mut self) {
        self.returned += 1;
    }

    /// Calls of one kind.
    pub fn of(&self, call: Call) -> u64 {
        self.by_kind[call as usize]
    }

    /// All calls.
    pub fn all(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// Calls that returned bytes. Each makes the VM allocate, and costs about ten times what the others do.
    pub fn returned_bytes(&self) -> u64 {
        self.returned
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (now, then) in since.by_kind.iter_mut().zip(earlier.by_kind) {
            *now -= then;
        }
        since.returned -= earlier.returned;
        since
    }
}
