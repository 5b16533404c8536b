//! One order for what protobuf leaves without one: the entries of maps.
//!
//! prost keeps maps in a `HashMap`, whose order differs from process to process and even from message to message. Content
//! hashes need the same bytes for the same content everywhere (xds_protocol.rst: a version is "a property of the resources
//! themselves"), so entries are sorted by key after encoding, also inside `Any`s of known types. Nothing else is touched: the
//! message decodes to the same, and what is not well-formed or not known stays as it is.
//!
//! `canonical/schema.txt` says where maps are: a line for each message of Envoy's API from which a map or an `Any` can be
//! reached, with `<field>=<line>` for a message field and `<field>*<line>` for a map to such messages (`-`: to anything
//! else). `examples/canonical_schema.rs` writes it.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::encoding::{WireType, encode_varint};

use crate::pieces::{Piece, pieces};

#[cfg(test)]
mod tests;

/// How deep messages may be nested before the rest is left as it is: prost's own limit for decoding.
const DEPTH: usize = 100;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("canonical/schema.txt")));

/// Where maps are.
struct Schema {
    lines: HashMap<&'static str, usize>,
    messages: Vec<Vec<Field>>,
    any: Option<usize>,
}

/// A field that holds a map, or a message from which one can be reached.
#[derive(Clone, Copy)]
struct Field {
    number: u32,
    is_map: bool,
    /// The line of the message or of the map's value.
    line: Option<usize>,
}

/// The entries of a map that is being read: key, and the entry itself.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The bytes of a message of this type, with every map in the order of its keys.
pub(crate) fn canonical(type_url: &str, bytes: Vec<u8>) -> Vec<u8> {
    match SCHEMA.message(type_url).and_then(|line| SCHEMA.sort(line, &bytes, DEPTH)) {
        Some(sorted) => sorted,
        None => bytes,
    }
}

// === impl Schema ===

impl Schema {
    fn parse(text: &'static str) -> Self {
        let mut schema = Self { lines: HashMap::new(), messages: Vec::new(), any: None };
        for (at, line) in text.lines().enumerate() {
            let mut words = line.split(' ');
            schema.lines.insert(words.next().unwrap_or_default(), at);
            schema.messages.push(words.filter_map(Field::parse).collect());
        }
        schema.any = schema.lines.get("google.protobuf.Any").copied();
        schema
    }

    fn message(&self, type_url: &str) -> Option<usize> {
        let name = type_url.rsplit_once('/').map_or(type_url, |(_, name)| name);
        self.lines.get(name).copied()
    }

    /// `None` where the bytes are not a well-formed message.
    fn sort(&self, line: usize, bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
        let depth = depth.checked_sub(1)?;
        if self.any == Some(line) {
            return self.sort_any(bytes, depth);
        }
        let fields = self.messages.get(line)?;
        let mut out = Vec::with_capacity(bytes.len());
        let mut map: Option<(u32, Entries)> = None;
        for piece in pieces(bytes) {
            let piece = piece?;
            if map.as_ref().is_some_and(|(number, _)| *number != piece.number) {
                flush(map.take(), &mut out);
            }
            let field = fields.iter().find(|field| field.number == piece.number);
            match (field, piece.content) {
                (Some(field), Some(content)) if field.is_map => {
                    let (key, entry) = self.sort_entry(field.line, content, depth)?;
                    map.get_or_insert_with(|| (piece.number, Vec::new())).1.push((key, entry));
                }
                (Some(field), Some(content)) => {
                    let sorted = field.line.and_then(|line| self.sort(line, content, depth));
                    put(piece.number, sorted.as_deref().unwrap_or(content), &mut out);
                }
                _ => out.extend_from_slice(piece.all),
            }
        }
        flush(map, &mut out);
        Some(out)
    }

    /// A map entry's key and the entry itself.
    fn sort_entry(&self, value: Option<usize>, entry: &[u8], depth: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut key, mut out) = (Vec::new(), Vec::with_capacity(entry.len()));
        for piece in pieces(entry) {
            let piece = piece?;
            match (piece.number, piece.content, value) {
                (2, Some(content), Some(line)) => {
                    let sorted = self.sort(line, content, depth);
                    put(2, sorted.as_deref().unwrap_or(content), &mut out);
                }
                (number, content, _) => {
                    if number == 1 {
                        key = content.unwrap_or(piece.all).to_vec();
                    }
                    out.extend_from_slice(piece.all);
                }
            }
        }
        Some((key, out))
    }

    /// `google.protobuf.Any { type_url = 1, value = 2 }`.
    fn sort_any(&self, bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
        let pieces: Vec<Piece<'_>> = pieces(bytes).collect::<Option<_>>()?;
        let type_url = pieces.iter().find(|piece| piece.number == 1)?.content?;
        let line = self.message(std::str::from_utf8(type_url).ok()?)?;
        let mut out = Vec::with_capacity(bytes.len());
        for piece in pieces {
            match (piece.number, piece.content) {
                (2, Some(content)) => put(2, &self.sort(line, content, depth)?, &mut out),
                _ => out.extend_from_slice(piece.all),
            }
        }
        Some(out)
    }
}

// === impl Field ===

impl Field {
    fn parse(word: &str) -> Option<Self> {
        let is_map = word.contains('*');
        let (number, line) = word.split_once(['=', '*'])?;
        Some(Self { number: number.parse().ok()?, is_map, line: line.parse().ok() })
    }
}

fn flush(map: Option<(u32, Entries)>, out: &mut Vec<u8>) {
    if let Some((number, mut entries)) = map {
        // Stable: of two entries of one key the last counts, and stays last.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.iter().for_each(|(_, entry)| put(number, entry, out));
    }
}

fn put(number: u32, content: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
