//! An HTTP stream as one filter of it sees it. Data; the callbacks are in [`super::Vm`].

use super::{Headers, StreamInfo};

/// What the host keeps of a stream context.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stream {
    /// The root context it belongs to.
    pub(crate) root: u32,
    /// What the attributes say.
    pub info: StreamInfo,
    /// A map is there during its callback, and not otherwise.
    pub(crate) maps: [Option<Headers>; 4],
    pub(crate) local_response: Option<LocalResponse>,
    /// The filter paused its request and has said since that it may go on.
    pub(crate) resumed: bool,
}

/// The header maps of a stream (`proxy_map_type_t`; those of calls of its own a filter has none of here).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the ABI's own")]
pub enum MapKind {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
}

/// An answer that the filter gives in the service's stead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// HTTP status.
    pub status: u32,
    /// Headers beside the status.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// gRPC status; negative when the filter leaves it to Envoy to derive one from the HTTP status.
    pub grpc_status: i32,
}

// === impl Stream ===

impl Stream {
    /// A map, while it is there.
    pub fn map(&mut self, kind: MapKind) -> Option<&mut Headers> {
        self.maps.get_mut(kind as usize)?.as_mut()
    }
}

// === impl MapKind ===

impl MapKind {
    pub(crate) const fn from_abi(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::RequestHeaders),
            1 => Some(Self::RequestTrailers),
            2 => Some(Self::ResponseHeaders),
            3 => Some(Self::ResponseTrailers),
            _ => None,
        }
    }
}
