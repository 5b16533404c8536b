//! The reading end of a spool: entries in order, up to what is safe on disk. Blocks on the disk only; waiting for more is the
//! caller's.

use std::{fs::File, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use tokio::sync::watch;

use super::{
    Entry, SpoolError, Tail,
    frame::{self, HEADER, Unreadable},
    segment::{self, HEADER_BYTES, Header},
};
use crate::revision::Revision;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// The reading end.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    after: Revision,
    tail: watch::Receiver<Tail>,
    at: Option<Place>,
}

/// A segment that is read. It stays readable when the writer drops it.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
}

/// Where the values of one revision lie.
#[derive(Debug)]
pub(crate) struct FramePlace {
    pub log: Arc<LogFile>,
    pub offset: u64,
}

#[derive(Debug)]
struct Place {
    log: Arc<LogFile>,
    number: u64,
    /// Where the frame that was read last begins.
    began: u64,
    /// Where the next frame begins.
    offset: u64,
    /// Bytes of the file from `offset` on.
    ahead: Vec<u8>,
    /// How many of them are done with.
    used: usize,
    chain: u128,
    /// That of the last frame read.
    revision: Revision,
}

// === impl Reader ===

impl Reader {
    pub(super) const fn new(directory: PathBuf, after: Revision, tail: watch::Receiver<Tail>) -> Self {
        Self { directory, after, tail, at: None }
    }

    /// Where the log ends, as it moves: what to wait for when there is no entry.
    pub fn tail(&self) -> watch::Receiver<Tail> {
        self.tail.clone()
    }

    /// The last revision that is safe.
    pub fn end(&self) -> Revision {
        self.tail.borrow().revision
    }

    /// The next entry, or `None` when all that is safe has been read.
    ///
    /// # Errors
    /// When the log is damaged, begins after what is asked for, or the disk fails.
    pub fn read(&mut self) -> Result<Option<Entry>, SpoolError> {
        loop {
            let tail = *self.tail.borrow_and_update();
            if tail.segment == 0 {
                return Ok(None);
            }
            let mut place = match self.at.take() {
                Some(place) => place,
                None => self.seek()?,
            };
            let limit = if place.number == tail.segment { tail.offset } else { u64::MAX };
            if place.offset >= limit {
                self.at = Some(place);
                return Ok(None);
            }
            match place.frame(limit)? {
                Some(entry) => {
                    self.at = Some(place);
                    if entry.revision() > self.after {
                        self.after = entry.revision();
                        return Ok(Some(entry));
                    }
                }
                // The end of a segment that is full.
                None => {
                    let (next, header) = Place::open_with_header(&self.directory, place.number + 1)?;
                    if (header.chain, header.after) != (place.chain, place.revision) {
                        return Err(next.foreign());
                    }
                    self.at = Some(next);
                }
            }
        }
    }

    /// Where the entry that was read last lies.
    pub(crate) fn place(&self) -> Option<FramePlace> {
        self.at.as_ref().map(|place| FramePlace { log: Arc::clone(&place.log), offset: place.began })
    }

    /// The segment in which the entry after `after` is. A log that begins later has not that entry, and says so: to go on with the
    /// first that there is would pass over history.
    fn seek(&self) -> Result<Place, SpoolError> {
        let directory = self.directory.clone();
        let mut begins = None;
        for number in segment::list(&self.directory)?.into_iter().rev() {
            let (place, header) = Place::open_with_header(&self.directory, number)?;
            if header.after <= self.after {
                return Ok(place);
            }
            begins = Some(header.after);
        }
        Err(match begins {
            Some(begins) => SpoolError::Forgotten { directory, after: self.after, begins },
            None => SpoolError::Missing { directory, segment: 1 },
        })
    }
}

// === impl Place ===

impl Place {
    fn open_with_header(directory: &std::path::Path, number: u64) -> Result<(Self, Header), SpoolError> {
        let path = segment::name(directory, number);
        let file = File::open(&path).map_err(SpoolError::io("open", &path))?;
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut bytes, 0).map_err(SpoolError::io("read", &path))?;
        let header = Header::decode(&bytes).map_err(|why| SpoolError::Damaged {
            path: path.clone(),
            offset: 0,
            why: why.to_owned(),
        })?;
        let place = Self {
            log: Arc::new(LogFile { file, path }),
            number,
            began: HEADER_BYTES,
            offset: HEADER_BYTES,
            ahead: Vec::new(),
            used: 0,
            chain: header.chain,
            revision: header.after,
        };
        Ok((place, header))
    }

    /// The next frame before `limit`; `None` at the end of the segment.
    fn frame(&mut self, limit: u64) -> Result<Option<Entry>, SpoolError> {
        let mut want = HEADER;
        loop {
            let ahead = self.ahead.get(self.used..).unwrap_or_default();
            // Zeros that were read before something was written there say nothing.
            if ahead.len() >= want {
                match frame::decode(ahead, self.chain) {
                    Ok(frame) => {
                        self.used += frame.size;
                        self.began = self.offset;
                        self.offset += frame.size as u64;
                        self.chain = frame.chain;
                        self.revision = frame.entry.revision();
                        return Ok(Some(frame.entry));
                    }
                    Err(Unreadable::Short(needed)) if ahead.len() < needed => want = needed,
                    Err(Unreadable::Blank) => return Ok(None),
                    Err(Unreadable::Broken(why)) => return Err(self.damaged(why)),
                    Err(Unreadable::Short(_)) => return Err(self.damaged("a frame is cut off")),
                }
            }
            if !self.fill(want, limit)? {
                // Fewer bytes than a header are left in the segment, or none.
                return if want <= HEADER { Ok(None) } else { Err(self.damaged("a frame is cut off")) };
            }
        }
    }

    /// Reads on, up to `limit`, until `want` bytes lie ahead; `false` when the file has no more.
    fn fill(&mut self, want: usize, limit: u64) -> Result<bool, SpoolError> {
        self.ahead.clear();
        self.used = 0;
        let most = usize::try_from(limit.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        self.ahead.resize(want.max(CHUNK).min(most), 0);
        let mut filled = 0;
        while let Some(room) = self.ahead.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.log.file.read_at(room, self.offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SpoolError::io("read", &self.log.path)(error)),
            }
        }
        self.ahead.truncate(filled);
        Ok(filled >= want)
    }

    /// It is not the one that was written after the segment before it.
    fn foreign(&self) -> SpoolError {
        let why = "the segment before it is not the one it was written after".to_owned();
        SpoolError::Damaged { path: self.log.path.clone(), offset: 0, why }
    }

    fn damaged(&self, why: &str) -> SpoolError {
        SpoolError::Damaged { path: self.log.path.clone(), offset: self.offset, why: why.to_owned() }
    }
}

// === impl LogFile ===

impl LogFile {
    /// The bytes at `offset`, which were read once before and had this CRC-32C then.
    pub(crate) fn read(&self, offset: u64, length: usize, crc: u32) -> Result<Vec<u8>, SpoolError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(SpoolError::io("read", &self.path))?;
        if crc32c::crc32c(&bytes) != crc {
            let why = "a value is not what it was a moment ago".to_owned();
            return Err(SpoolError::Damaged { path: self.path.clone(), offset, why });
        }
        Ok(bytes)
    }
}
