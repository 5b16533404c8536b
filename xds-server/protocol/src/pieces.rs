//! The fields of a protobuf message as they lie in its bytes.
//!
//! It finds them and copies nothing; what a field means is the reader's matter. Rules: protobuf.dev, "Encoding".

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// One field as it stands in the bytes.
pub(crate) struct Piece<'a> {
    pub(crate) number: u32,
    /// Tag and all.
    pub(crate) all: &'a [u8],
    /// What a length-delimited field holds.
    pub(crate) content: Option<&'a [u8]>,
}

/// The fields of a message in their order; ends after `None` where the bytes are not well-formed.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Option<Piece<'_>>> {
    let mut rest = bytes;
    let mut broken = false;
    std::iter::from_fn(move || {
        if rest.is_empty() || broken {
            return None;
        }
        let piece = next_piece(&mut rest);
        broken = piece.is_none();
        Some(piece)
    })
}

fn next_piece<'a>(rest: &mut &'a [u8]) -> Option<Piece<'a>> {
    let start = *rest;
    let (number, wire) = decode_key(rest).ok()?;
    let content = if wire == WireType::LengthDelimited {
        let len = usize::try_from(decode_varint(rest).ok()?).ok()?;
        let (content, after) = rest.split_at_checked(len)?;
        *rest = after;
        Some(content)
    } else {
        skip_field(wire, number, rest, DecodeContext::default()).ok()?;
        None
    };
    let all = start.get(..start.len() - rest.len())?;
    Some(Piece { number, all, content })
}
