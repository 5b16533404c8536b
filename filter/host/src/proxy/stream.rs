//! A stream of one filter on one worker: it knows its VM, and outlives the configuration it began with.

use std::{cell::RefCell, rc::Rc};

use super::Place;
use crate::{
    Crashed,
    vm::{Headers, StreamInfo, Verdict, Vm},
};

/// What came of opening a stream.
pub enum Opened {
    /// The filter takes part.
    Stream(FilterStream),
    /// There is no filter here, or it is bypassed.
    Absent,
    /// Its VM has crashed: the request gets 503.
    Failed,
}

/// A stream of the filter.
pub struct FilterStream {
    vm: Rc<RefCell<Vm>>,
    id: u32,
    place: Place,
}

// === impl FilterStream ===

impl FilterStream {
    pub(super) fn open(
        vm: &Rc<RefCell<Vm>>,
        root: u32,
        place: Place,
        info: StreamInfo,
    ) -> Result<Self, Crashed> {
        let id = vm.borrow_mut().open_stream(root, info)?;
        Ok(Self { vm: Rc::clone(vm), id, place })
    }

    /// Changes what the attributes say.
    pub fn update(&self, change: impl FnOnce(&mut StreamInfo)) {
        if let Some(info) = self.vm.borrow_mut().stream_info(self.id) {
            change(info);
        }
    }

    /// Request headers pass.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has: the request gets 503. So for all that follow.
    pub fn request_headers(&self, headers: &mut Headers, end: bool) -> Result<Verdict, Crashed> {
        self.vm.borrow_mut().request_headers(self.id, headers, end)
    }

    /// Whether the filter has said that a request which it paused may go on.
    pub fn is_resumed(&self) -> bool {
        self.vm.borrow_mut().is_resumed(self.id)
    }

    /// Response headers pass.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn response_headers(&self, headers: &mut Headers, end: bool) -> Result<Verdict, Crashed> {
        self.vm.borrow_mut().response_headers(self.id, headers, end)
    }

    /// A piece of the response's body passes.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn response_body(&self, size: u32, end: bool) -> Result<Verdict, Crashed> {
        self.vm.borrow_mut().response_body(self.id, size, end)
    }

    /// Response trailers pass.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn response_trailers(&self, trailers: &mut Headers) -> Result<Verdict, Crashed> {
        self.vm.borrow_mut().response_trailers(self.id, trailers)
    }

    /// The stream is over. Envoy asks a downstream filter to log first; an upstream filter never.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn close(self) -> Result<(), Crashed> {
        self.vm.borrow_mut().close_stream(self.id, self.place == Place::Downstream)
    }
}
