//! What can be wrong with a snapshot and with a client's request.
//!
//! Each message says where, why and what to do; none is ever more than the stream's or the call's own end.

use std::sync::Arc;

use tonic::Code;

use crate::types::TypeUrl;

/// Why a resource cannot be part of a snapshot: "failed to build the snapshot: ...".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A resource without a name could never be subscribed to.
    #[error("a resource of type {type_url} has an empty name; every resource needs one to be subscribed to")]
    EmptyName {
        /// The resource's type.
        type_url: TypeUrl,
    },
    /// `*` is what clients say for "all of them", and `xdstp:.../*` for all of a collection.
    #[error("a resource of type {type_url} is named {name:?}, which means all of many; give it another name")]
    WildcardName {
        /// The resource's type.
        type_url: TypeUrl,
        /// Its name.
        name: Arc<str>,
    },
    /// Two resources of one name and different content.
    #[error("two different resources of type {type_url} are named {name:?}; clients refuse such a response")]
    Duplicate {
        /// The resources' type.
        type_url: TypeUrl,
        /// Their name.
        name: Arc<str>,
    },
}

/// Why a client's stream was ended: "failed to serve the stream: ...". The client reads it as the status message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The first request did not say who asks.
    #[error(
        "the first request on the stream carries no node; set node.id and node.locality in the client's bootstrap"
    )]
    NoNode,
    /// On an aggregated stream every request must say its type.
    #[error("the request carries no type_url; an aggregated stream needs one in every request")]
    NoType,
    /// A per-type service was asked for another type.
    #[error(
        "the request asks for type {asked}, but this service serves only {served}; use the aggregated service"
    )]
    WrongType {
        /// What the request said.
        asked: String,
        /// What the service serves.
        served: TypeUrl,
    },
    /// More names than one stream may watch.
    #[error(
        "the stream subscribes to more than {limit} names of type {type_url}; subscribe to \"*\" or to fewer"
    )]
    TooManyNames {
        /// The type.
        type_url: TypeUrl,
        /// The most names allowed for one type.
        limit: usize,
    },
    /// More text than one stream may have remembered.
    #[error(
        "the names that the stream subscribes to, and what it said of an earlier stream, are more than {limit} bytes together; \
         subscribe to \"*\" or to fewer"
    )]
    TooMuchText {
        /// The most bytes allowed.
        limit: usize,
    },
    /// A type that no API has.
    #[error(
        "the request's type_url has {bytes} bytes, of at most {limit}; it should be the full name of a message"
    )]
    LongType {
        /// How long it is.
        bytes: usize,
        /// The most bytes allowed.
        limit: usize,
    },
    /// More types than one stream may watch.
    #[error("the stream subscribes to more than {limit} resource types")]
    TooManyTypes {
        /// The most types allowed.
        limit: usize,
    },
}

// === impl ProtocolError ===

impl ProtocolError {
    /// The gRPC status code the stream ends with.
    pub fn code(&self) -> Code {
        match self {
            Self::NoNode | Self::NoType | Self::WrongType { .. } | Self::LongType { .. } => {
                Code::InvalidArgument
            }
            Self::TooManyNames { .. } | Self::TooMuchText { .. } | Self::TooManyTypes { .. } => {
                Code::ResourceExhausted
            }
        }
    }
}

impl From<ProtocolError> for tonic::Status {
    fn from(error: ProtocolError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
