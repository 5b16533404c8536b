//! One entry of the log as bytes: `magic u32 | length u32 | synced u32 | crc u32 | body`, little endian, padded to 8 bytes. The
//! checksum (CRC-32C) covers length, `synced` and body. Reads any bytes without a panic; opens no file.

use crate::revision::{Change, Op, Revision, SourceRevision};

/// What a frame begins with: `ZBRF`.
const MAGIC: u32 = u32::from_le_bytes(*b"ZBRF");

/// Bytes before the body.
pub(super) const HEADER: usize = 16;

/// Bytes of a frame up to the time in it: the header, its kind, the revision, the time.
pub(super) const TIMED: usize = HEADER + 1 + 8 + 8;

/// Frames begin at multiples of this, so that a search for them is cheap.
pub(super) const ALIGN: usize = 8;

/// Bytes of a change before its key: the kind, the lease, both lengths.
const CHANGE: usize = 1 + 8 + 4 + 4;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A whole revision of the source.
    Revision(SourceRevision),
    /// The changes up to this revision are not in the log: the destination was brought there by comparing both sides.
    Gap {
        /// The revision.
        through: Revision,
        /// When, in milliseconds since 1970.
        seen_ms: u64,
    },
}

/// A frame that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub entry: Entry,
    /// Up to where the segment was safe on disk when this was written.
    pub synced: u32,
    /// Bytes with header and padding.
    pub size: usize,
    /// The chain of digests after it.
    pub chain: u128,
}

/// Why there is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Zeros: nothing was written here.
    Blank,
    /// The bytes end before the frame does; it needs this many.
    Short(usize),
    /// Something else.
    Broken(&'static str),
}

// === impl Entry ===

impl Entry {
    /// The revision up to which the log is complete after this entry.
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Revision(source) => source.revision,
            Self::Gap { through, .. } => *through,
        }
    }

    /// When it reached us, in milliseconds since 1970.
    pub const fn seen_ms(&self) -> u64 {
        match self {
            Self::Revision(source) => source.seen_ms,
            Self::Gap { seen_ms, .. } => *seen_ms,
        }
    }

    /// Where the value of each change begins, counted from the beginning of the frame.
    pub(crate) fn value_offsets(source: &SourceRevision) -> impl Iterator<Item = u64> {
        let mut at = TIMED + 4;
        source.changes.iter().map(move |change| {
            let value = at + CHANGE + change.key.len();
            at = value + change.op.size();
            value as u64
        })
    }

    /// Appends the frame to `out` and hands out the chain of digests after it.
    pub(super) fn encode(&self, synced: u32, chain: u128, out: &mut Vec<u8>) -> u128 {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        match self {
            Self::Revision(source) => {
                out.push(1);
                out.extend_from_slice(&source.revision.0.to_le_bytes());
                out.extend_from_slice(&source.seen_ms.to_le_bytes());
                out.extend_from_slice(&length(source.changes.len()));
                for change in &source.changes {
                    encode_change(change, out);
                }
            }
            Self::Gap { through, seen_ms } => {
                out.push(2);
                out.extend_from_slice(&through.0.to_le_bytes());
                out.extend_from_slice(&seen_ms.to_le_bytes());
            }
        }
        let frame = out.get_mut(start..).unwrap_or_default();
        let (header, body) = frame.split_at_mut(HEADER);
        let head = [length(body.len()), synced.to_le_bytes()].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), body);
        header.copy_from_slice(&[&MAGIC.to_le_bytes()[..], &head, &mask(crc).to_le_bytes()].concat());
        let chain = link(chain, body);
        out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
        chain
    }
}

/// Reads the frame at the beginning of `bytes`; `chain` is the digest of everything before it.
pub(super) fn decode(bytes: &[u8], chain: u128) -> Result<Frame, Unreadable> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else { return Err(Unreadable::Short(HEADER)) };
    let word =
        |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    if header.iter().all(|byte| *byte == 0) {
        return Err(Unreadable::Blank);
    }
    if word(0) != MAGIC {
        return Err(Unreadable::Broken("no frame begins here"));
    }
    let length = word(4) as usize;
    let size = (HEADER + length).next_multiple_of(ALIGN);
    let Some(body) = rest.get(..length) else { return Err(Unreadable::Short(size)) };
    let crc = crc32c::crc32c_append(crc32c::crc32c(header.get(4..12).unwrap_or_default()), body);
    if mask(crc) != word(12) {
        return Err(Unreadable::Broken("a checksum is wrong"));
    }
    let entry = decode_body(body).ok_or(Unreadable::Broken("a frame has another form"))?;
    Ok(Frame { entry, synced: word(8), size, chain: link(chain, body) })
}

/// The time in a frame of which only the first [`TIMED`] bytes are here; 0 where there is none. Says how old a log is, and nothing
/// rests on it: the frame's checksum is not looked at.
pub(super) fn seen_ms(bytes: &[u8]) -> u64 {
    let time = bytes.get(TIMED - 8..TIMED).and_then(|bytes| bytes.try_into().ok());
    time.map_or(0, u64::from_le_bytes)
}

/// The next digest in the chain.
fn link(chain: u128, body: &[u8]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(body);
    hasher.digest128()
}

/// Keeps the checksum of bytes that hold a checksum from being a constant, as Snappy's framing format does.
const fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn length(length: usize) -> [u8; 4] {
    // The writer refuses revisions of 1 GiB and more before they come here.
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn encode_change(change: &Change, out: &mut Vec<u8>) {
    let (kind, lease, value) = match &change.op {
        Op::Put { value, lease } => (1, *lease, value.as_slice()),
        Op::Delete => (2, 0, &[][..]),
    };
    out.push(kind);
    out.extend_from_slice(&lease.to_le_bytes());
    out.extend_from_slice(&length(change.key.len()));
    out.extend_from_slice(&length(value.len()));
    out.extend_from_slice(&change.key);
    out.extend_from_slice(value);
}

struct Bytes<'a>(&'a [u8]);

// === impl Bytes ===

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn size(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.array()?) as usize)
    }
}

fn decode_body(body: &[u8]) -> Option<Entry> {
    let mut bytes = Bytes(body);
    let [kind] = bytes.array()?;
    let revision = Revision(i64::from_le_bytes(bytes.array()?));
    let seen_ms = u64::from_le_bytes(bytes.array()?);
    let entry = match kind {
        1 => {
            let count = bytes.size()?;
            let changes = (0..count).map(|_| decode_change(&mut bytes)).collect::<Option<Vec<_>>>()?;
            Entry::Revision(SourceRevision { revision, seen_ms, changes })
        }
        2 => Entry::Gap { through: revision, seen_ms },
        _ => return None,
    };
    bytes.0.is_empty().then_some(entry)
}

fn decode_change(bytes: &mut Bytes<'_>) -> Option<Change> {
    let [kind] = bytes.array()?;
    let lease = i64::from_le_bytes(bytes.array()?);
    let (key, value) = (bytes.size()?, bytes.size()?);
    let (key, value) = (bytes.take(key)?.to_vec(), bytes.take(value)?.to_vec());
    let op = match kind {
        1 => Op::Put { value, lease },
        2 if value.is_empty() => Op::Delete,
        _ => return None,
    };
    Some(Change { key, op })
}
