//! The callbacks that Envoy makes for a stream, in the order that it makes them: the stream begins, headers, bodies and
//! trailers pass, it is over.

use super::{Headers, LocalResponse, MapKind, Stream, StreamInfo, Vm};
use crate::Crashed;

/// What a filter wants done after a callback on headers, a body or trailers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Wait until the filter says to go on.
    Pause,
    /// Answer this, and do not go on.
    Respond(LocalResponse),
}

// === impl Vm ===

impl Vm {
    /// A stream begins for the plugin of a root context. Gives the id of its context.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn open_stream(&mut self, root: u32, info: StreamInfo) -> Result<u32, Crashed> {
        let id = self.store.data_mut().add_stream(Stream { root, info, ..Stream::default() });
        self.call(id, |exports| &exports.on_context_create, (id, root))?;
        Ok(id)
    }

    /// The attributes of a stream, to be changed as it goes on.
    pub fn stream_info(&mut self, stream: u32) -> Option<&mut StreamInfo> {
        self.store.data_mut().streams.get_mut(&stream).map(|stream| &mut stream.info)
    }

    /// Whether the filter has let a request go on that it paused.
    pub fn is_resumed(&mut self, stream: u32) -> bool {
        self.store.data_mut().streams.get(&stream).is_some_and(|stream| stream.resumed)
    }

    /// Request headers pass.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has; the headers are then as they were left.
    pub fn request_headers(&mut self, id: u32, headers: &mut Headers, end: bool) -> Result<Verdict, Crashed> {
        let args = (id, headers.len() as u32, u32::from(end));
        self.with_map(id, MapKind::RequestHeaders, headers, |vm| {
            vm.call(id, |exports| &exports.on_request_headers, args)
        })
    }

    /// A piece of the request's body passes, `size` bytes of it.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn request_body(&mut self, id: u32, size: u32, end: bool) -> Result<Verdict, Crashed> {
        let action = self.call(id, |exports| &exports.on_request_body, (id, size, u32::from(end)))?;
        Ok(self.verdict(id, action))
    }

    /// Response headers pass.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn response_headers(
        &mut self,
        id: u32,
        headers: &mut Headers,
        end: bool,
    ) -> Result<Verdict, Crashed> {
        let args = (id, headers.len() as u32, u32::from(end));
        self.with_map(id, MapKind::ResponseHeaders, headers, |vm| {
            vm.call(id, |exports| &exports.on_response_headers, args)
        })
    }

    /// A piece of the response's body passes, `size` bytes of it.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn response_body(&mut self, id: u32, size: u32, end: bool) -> Result<Verdict, Crashed> {
        let action = self.call(id, |exports| &exports.on_response_body, (id, size, u32::from(end)))?;
        Ok(self.verdict(id, action))
    }

    /// Response trailers pass.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn response_trailers(&mut self, id: u32, trailers: &mut Headers) -> Result<Verdict, Crashed> {
        let args = (id, trailers.len() as u32);
        self.with_map(id, MapKind::ResponseTrailers, trailers, |vm| {
            vm.call(id, |exports| &exports.on_response_trailers, args)
        })
    }

    /// A stream is over, however it ended. An upstream filter is never asked to log.
    ///
    /// # Errors
    ///
    /// When the VM crashes, or has.
    pub fn close_stream(&mut self, id: u32, log: bool) -> Result<(), Crashed> {
        if log {
            self.call(id, |exports| &exports.on_log, id)?;
        }
        self.call(id, |exports| &exports.on_done, id)?;
        self.call(id, |exports| &exports.on_delete, id)?;
        match self.store.data_mut().remove_stream(id) {
            Some(root) => self.drop_retired(root),
            None => Ok(()),
        }
    }

    fn with_map(
        &mut self,
        id: u32,
        kind: MapKind,
        headers: &mut Headers,
        callback: impl FnOnce(&mut Self) -> Result<Option<u32>, Crashed>,
    ) -> Result<Verdict, Crashed> {
        self.lend_map(id, kind, Some(std::mem::take(headers)));
        let action = callback(self);
        *headers = self.lend_map(id, kind, None).unwrap_or_default();
        Ok(self.verdict(id, action?))
    }

    fn lend_map(&mut self, id: u32, kind: MapKind, map: Option<Headers>) -> Option<Headers> {
        let slot =
            self.store.data_mut().streams.get_mut(&id).and_then(|stream| stream.maps.get_mut(kind as usize));
        slot.and_then(|slot| std::mem::replace(slot, map))
    }

    /// A local response wins over the action, whatever that is.
    fn verdict(&mut self, id: u32, action: Option<u32>) -> Verdict {
        let response =
            self.store.data_mut().streams.get_mut(&id).and_then(|stream| stream.local_response.take());
        match (response, action) {
            (Some(response), _) => Verdict::Respond(response),
            (None, None | Some(0)) => Verdict::Continue,
            (None, Some(_)) => Verdict::Pause,
        }
    }
}
