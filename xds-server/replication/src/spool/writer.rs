//! The writing end of a spool: appends groups of revisions and makes room. Blocks; runs on a thread of its own.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Entry, Reader, SpoolError, SpoolOptions, Tail,
    segment::{self, HEADER_BYTES, Header},
};
use crate::{checkpoint::ClusterId, revision::Revision};

/// The largest revision that is taken in; etcd's own limits are far below.
const MAX_FRAME: usize = 1 << 30;

/// The writing end.
#[derive(Debug)]
pub struct Spool {
    options: SpoolOptions,
    cluster: ClusterId,
    holder: Uuid,
    _lock: File,
    segments: VecDeque<Segment>,
    /// The last segment, opened for writing.
    file: Option<(File, PathBuf)>,
    tail: watch::Sender<Tail>,
    chain: u128,
    /// The same as of `tail`: without what is in a group that is not safe yet.
    safe: u128,
    /// What the destination has.
    released: Revision,
}

/// A segment that is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub header: Header,
    pub size: u64,
    /// When its first entry reached us, in milliseconds since 1970; 0 while it has none.
    pub first_ms: u64,
}

// === impl Spool ===

impl Spool {
    pub(super) fn assemble(
        options: SpoolOptions,
        cluster: ClusterId,
        holder: Uuid,
        lock: File,
        segments: Vec<Segment>,
        tail: Tail,
        chain: u128,
    ) -> Result<Self, SpoolError> {
        let file = match segments.last() {
            None => None,
            Some(last) => {
                let path = segment::name(&options.directory, last.header.number);
                let file = File::options().read(true).write(true).open(&path);
                Some((file.map_err(SpoolError::io("open", &path))?, path))
            }
        };
        Ok(Self {
            options,
            cluster,
            holder,
            _lock: lock,
            segments: segments.into(),
            file,
            tail: watch::Sender::new(tail),
            chain,
            safe: chain,
            released: Revision(0),
        })
    }

    /// Who this replicator is to others.
    pub const fn holder(&self) -> Uuid {
        self.holder
    }

    /// Whose changes it holds.
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How far the log is safe.
    pub fn tail(&self) -> Tail {
        *self.tail.borrow()
    }

    /// The same, as it moves.
    pub fn follow(&self) -> watch::Receiver<Tail> {
        self.tail.subscribe()
    }

    /// The revision after which the log begins: everything from there on is in it, but for gaps that it names.
    pub fn begins_after(&self) -> Revision {
        self.segments.front().map_or(Revision(0), |first| first.header.after)
    }

    /// What it takes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// When the oldest change in it reached us, in milliseconds since 1970; 0 while there is none.
    pub fn oldest_ms(&self) -> u64 {
        self.segments.front().map_or(0, |first| first.first_ms)
    }

    /// A reader of what comes after `after`.
    pub fn reader(&self, after: Revision) -> Reader {
        Reader::new(self.options.directory.clone(), after, self.follow())
    }

    /// A reader of its last segment, from the beginning of that.
    pub(crate) fn recent(&self) -> Reader {
        self.reader(self.segments.back().map_or(Revision(0), |last| last.header.after))
    }

    /// The destination has everything up to this revision: it may be dropped when room is needed.
    pub fn release(&mut self, through: Revision) {
        self.released = self.released.max(through);
    }

    /// Appends entries and makes them safe, all together.
    ///
    /// # Errors
    /// [`SpoolError::Full`] leaves the log as it was. After any other error the spool must be opened again: nobody knows what
    /// is on the disk.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), SpoolError> {
        let mut tail = self.tail();
        let mut group = Vec::new();
        for entry in entries {
            if entry.revision() <= tail.revision {
                let why = format!("revision {} came after {}", entry.revision(), tail.revision);
                return Err(self.damaged(tail.offset, why));
            }
            let (before, synced) = (group.len(), u32::try_from(self.tail().offset).unwrap_or(u32::MAX));
            let mut chain = entry.encode(synced, self.chain, &mut group);
            let size = group.len() - before;
            if size > MAX_FRAME {
                return Err(self.damaged(tail.offset, format!("revision {} is too large", entry.revision())));
            }
            let room = self.segments.back().map_or(0, |last| last.size.saturating_sub(tail.offset));
            if room < size as u64 {
                // What fits is made safe first; the rest goes into the next segment.
                group.truncate(before);
                self.write(&mut group, &mut tail)?;
                self.expire(entry.seen_ms())?;
                self.roll(tail.revision, HEADER_BYTES + size as u64)?;
                tail = self.tail();
                chain = entry.encode(u32::try_from(tail.offset).unwrap_or(u32::MAX), self.chain, &mut group);
            }
            self.chain = chain;
            if let Some(last) = self.segments.back_mut()
                && tail.offset == HEADER_BYTES
            {
                last.first_ms = entry.seen_ms();
            }
            tail.offset += size as u64;
            tail.revision = entry.revision();
        }
        self.write(&mut group, &mut tail)
    }

    /// Writes a group that ends at `tail`.
    fn write(&mut self, group: &mut Vec<u8>, tail: &mut Tail) -> Result<(), SpoolError> {
        while let Err(error) = self.put(group, *tail) {
            if !is_full(&error) {
                return Err(error);
            }
            // The file system allocated nothing in advance, and somebody else fills the disk.
            if let Err(error) = self.drop_first() {
                self.take_back()?;
                return Err(error);
            }
        }
        if !group.is_empty() {
            group.clear();
            self.safe = self.chain;
            self.tail.send_replace(*tail);
        }
        Ok(())
    }

    fn put(&self, group: &[u8], tail: Tail) -> Result<(), SpoolError> {
        let Some((file, path)) = self.file.as_ref().filter(|_| !group.is_empty()) else { return Ok(()) };
        file.write_all_at(group, tail.offset - group.len() as u64).map_err(SpoolError::io("write", path))?;
        file.sync_data().map_err(SpoolError::io("synchronise", path))
    }

    /// Makes the log what it was before a group that could not be written: the next one is chained to what is safe, and nothing of
    /// this one is left behind it.
    fn take_back(&mut self) -> Result<(), SpoolError> {
        self.chain = self.safe;
        let (tail, last) = (self.tail(), self.segments.back_mut());
        if let (Some(last), Some((file, path))) = (last, &self.file) {
            if tail.offset == HEADER_BYTES {
                last.first_ms = 0;
            }
            let blank = file.set_len(tail.offset).and_then(|()| file.set_len(last.size));
            blank.map_err(SpoolError::io("cut", path))?;
        }
        Ok(())
    }

    /// Begins the next segment, of at least `needed` bytes.
    fn roll(&mut self, after: Revision, needed: u64) -> Result<(), SpoolError> {
        let size = needed.max(self.options.segment_bytes);
        self.make_room(size)?;
        let number = self.segments.back().map_or(1, |last| last.header.number + 1);
        let header = Header { number, cluster: self.cluster, after, chain: self.chain };
        self.file = Some(loop {
            match header.create(&self.options.directory, size) {
                // Somebody else fills the disk: what the destination has goes before what it has not is refused.
                Err(error) if is_full(&error) => self.drop_first()?,
                made => break made?,
            }
        });
        self.segments.push_back(Segment { header, size, first_ms: 0 });
        self.tail.send_replace(Tail { segment: number, offset: HEADER_BYTES, revision: after });
        Ok(())
    }

    /// Drops segments that the destination has and that hold nothing young enough, from the old end.
    fn expire(&mut self, now_ms: u64) -> Result<(), SpoolError> {
        let keep_ms = u64::try_from(self.options.keep_for.as_millis()).unwrap_or(u64::MAX);
        let (oldest, released) = (now_ms.saturating_sub(keep_ms), self.released);
        // What a segment holds is older than the first of the next one.
        let expired = |next: &Segment| {
            keep_ms > 0 && next.first_ms > 0 && next.first_ms <= oldest && next.header.after <= released
        };
        while self.segments.get(1).is_some_and(&expired) {
            self.drop_first()?;
        }
        Ok(())
    }

    /// Drops segments that the destination has, from the old end, until another `size` bytes fit in.
    fn make_room(&mut self, size: u64) -> Result<(), SpoolError> {
        while self.bytes() + size > self.options.max_bytes {
            self.drop_first()?;
        }
        Ok(())
    }

    /// Drops the oldest segment, if the destination has it.
    fn drop_first(&mut self) -> Result<(), SpoolError> {
        // A segment ends where the next one begins; the last one may still be read.
        let droppable = self.segments.get(1).is_some_and(|next| next.header.after <= self.released);
        let (true, Some(first)) = (droppable, self.segments.front()) else {
            return Err(SpoolError::Full { bytes: self.bytes() });
        };
        let path = segment::name(&self.options.directory, first.header.number);
        std::fs::remove_file(&path).map_err(SpoolError::io("remove", &path))?;
        self.segments.pop_front();
        Ok(())
    }

    fn damaged(&self, offset: u64, why: String) -> SpoolError {
        let path = self.file.as_ref().map_or(&self.options.directory, |(_, path)| path).clone();
        SpoolError::Damaged { path, offset, why }
    }
}

/// Whether a disk has no room, or no more of it for us.
fn is_full(error: &SpoolError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, SpoolError::Io { error, .. } if matches!(error.kind(), StorageFull | QuotaExceeded))
}
