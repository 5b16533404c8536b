//! Reads discovery responses off a stream as their bytes pass by: what must be answered, how many resources there are, and the
//! number of the newest change in them. It keeps nothing of a resource and decodes none, so a response of a megabyte costs about
//! as much as looking at it.

use prost::Message;

use super::messages::Entry;
use super::plan::Speaks;

/// The byte that begins a change's number in a resource, and how many digits follow it.
const MARK: u8 = b'~';
const DIGITS: u32 = 12;

const VERSION: u64 = 1;
const RESOURCE: u64 = 2;
const TYPE_URL: u64 = 4;
const NONCE: u64 = 5;
/// Of the incremental response; the other one has its control plane there.
const REMOVED: u64 = 6;

/// What a response said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub type_url: String,
    pub version: String,
    pub nonce: String,
    pub resources: usize,
    pub removed: usize,
    /// The newest change that is in it; 0 when none is.
    pub change: u64,
    /// The size of the message.
    pub bytes: usize,
    /// Names and versions, where they were to be learned.
    pub learned: Vec<(String, String)>,
}

/// Reads one stream.
#[derive(Debug)]
pub(super) struct Scan {
    speaks: Speaks,
    learns: bool,
    at: At,
    /// What is left of the message.
    left: usize,
    response: Response,
    /// The digits of a number that is being read, and how many.
    mark: Option<(u64, u32)>,
    /// The field that is being kept.
    kept: Vec<u8>,
}

/// Where in a stream of messages.
#[derive(Debug, Clone, Copy)]
enum At {
    /// gRPC's prefix: a flag and four bytes of length, of which so many were read.
    Prefix { read: usize },
    /// A field's tag, or (with a tag) its length.
    Varint { tag: Option<u64>, value: u64, shift: u32 },
    /// Inside a length-delimited field.
    Body { field: u64, left: usize },
}

const TAG: At = At::Varint { tag: None, value: 0, shift: 0 };

// === impl Scan ===

impl Scan {
    /// `learns`: keep names and versions, for a reconnect.
    pub(super) fn new(speaks: Speaks, learns: bool) -> Self {
        Self {
            speaks,
            learns: learns && speaks == Speaks::Delta,
            at: At::Prefix { read: 0 },
            left: 0,
            response: Response::default(),
            mark: None,
            kept: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream and gives away each response that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut done: impl FnMut(Response)) {
        while let Some(&first) = bytes.first() {
            match &mut self.at {
                At::Prefix { read } => {
                    if *read > 0 {
                        self.left = self.left << 8 | usize::from(first);
                    }
                    *read += 1;
                    bytes = &bytes[1..];
                    if *read == 5 {
                        self.response.bytes = self.left;
                        self.at = TAG;
                    }
                }
                At::Varint { tag, value, shift } => {
                    *value |= u64::from(first & 0x7f) << *shift;
                    *shift += 7;
                    self.left -= 1;
                    bytes = &bytes[1..];
                    if first & 0x80 == 0 {
                        self.at = match *tag {
                            None => At::Varint { tag: Some(*value), value: 0, shift: 0 },
                            // Wire type 2; the only other one that occurs is a varint, whose value this was.
                            Some(tag) if tag & 7 == 2 => At::Body {
                                field: tag >> 3,
                                left: usize::try_from(*value).unwrap_or(usize::MAX),
                            },
                            Some(_) => TAG,
                        };
                        if let At::Body { left: 0, field } = self.at {
                            self.end_field(field);
                        }
                    }
                }
                At::Body { field, left } => {
                    let (field, take) = (*field, bytes.len().min(*left));
                    *left -= take;
                    self.left -= take;
                    let (part, rest) = bytes.split_at(take);
                    let over = *left == 0;
                    bytes = rest;
                    if field == RESOURCE {
                        self.find_marks(part);
                    }
                    if field != RESOURCE || self.learns {
                        self.kept.extend_from_slice(part);
                    }
                    if over {
                        self.end_field(field);
                    }
                }
            }
            if self.left == 0 && !matches!(self.at, At::Prefix { .. }) {
                self.at = At::Prefix { read: 0 };
                done(std::mem::take(&mut self.response));
            }
        }
    }

    fn end_field(&mut self, field: u64) {
        let text = |kept: &[u8]| String::from_utf8_lossy(kept).into_owned();
        match field {
            VERSION => self.response.version = text(&self.kept),
            TYPE_URL => self.response.type_url = text(&self.kept),
            NONCE => self.response.nonce = text(&self.kept),
            RESOURCE => {
                self.response.resources += 1;
                self.mark = None;
                if self.learns
                    && let Ok(entry) = Entry::decode(self.kept.as_slice())
                {
                    self.response.learned.push((entry.name, entry.version));
                }
            }
            REMOVED if self.speaks == Speaks::Delta => self.response.removed += 1,
            _ => {}
        }
        self.kept.clear();
        self.at = TAG;
    }

    /// Finds the numbers of changes, also where one is cut in two.
    fn find_marks(&mut self, mut bytes: &[u8]) {
        loop {
            let Some((value, digits)) = &mut self.mark else {
                let Some(at) = memchr::memchr(MARK, bytes) else { return };
                self.mark = Some((0, 0));
                bytes = &bytes[at + 1..];
                continue;
            };
            let Some((&digit, rest)) = bytes.split_first() else { return };
            bytes = rest;
            if digit.is_ascii_digit() {
                *value = *value * 10 + u64::from(digit - b'0');
                *digits += 1;
                if *digits == DIGITS {
                    self.response.change = self.response.change.max(*value);
                    self.mark = None;
                }
            } else {
                self.mark = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A delta response with the given resources, framed.
    fn framed(resources: &[(&str, &str, &[u8])], removed: &[&str]) -> Vec<u8> {
        let mut message = Vec::new();
        let mut field = |field: u8, value: &[u8]| {
            message.push(field << 3 | 2);
            prost::encoding::encode_varint(value.len() as u64, &mut message);
            message.extend_from_slice(value);
        };
        field(1, b"v1");
        for (name, version, body) in resources {
            let mut entry = Entry { version: (*version).into(), name: (*name).into() }.encode_to_vec();
            entry.push(2 << 3 | 2);
            prost::encoding::encode_varint(body.len() as u64, &mut entry);
            entry.extend_from_slice(body);
            field(2, &entry);
        }
        field(4, b"a/type");
        field(5, b"nonce");
        for name in removed {
            field(6, name.as_bytes());
        }
        field(7, b"");
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed
    }

    #[test]
    fn responses_are_read_whole_however_their_bytes_are_cut() {
        let big = [&[b'x'; 300][..], b"~000000000042", &[b'y'; 300]].concat();
        let mut bytes = framed(&[("a", "1", b"~12 ~000000000007"), ("b", "2", &big)], &["c"]);
        bytes.extend(framed(&[], &[]));
        for cut in [1, 2, 7, 64, bytes.len()] {
            let mut scan = Scan::new(Speaks::Delta, true);
            let mut found = Vec::new();
            for part in bytes.chunks(cut) {
                scan.feed(part, |response| found.push(response));
            }
            let [first, second] = found.as_slice() else { panic!("cut by {cut}: {found:?}") };
            assert_eq!((first.resources, first.removed, first.change), (2, 1, 42), "cut by {cut}");
            assert_eq!((first.type_url.as_str(), first.nonce.as_str()), ("a/type", "nonce"));
            assert_eq!(first.learned, [("a".into(), "1".into()), ("b".into(), "2".into())]);
            assert_eq!((second.resources, second.removed, second.change), (0, 0, 0));
        }
    }

    #[test]
    fn state_of_the_world_has_its_control_plane_where_the_other_has_removals() {
        let mut scan = Scan::new(Speaks::Sotw, true);
        let mut found = Vec::new();
        scan.feed(&framed(&[("a", "1", b"")], &["x"]), |response| found.push(response));
        assert_eq!((found[0].removed, found[0].resources), (0, 1));
        assert!(found[0].learned.is_empty());
    }
}
