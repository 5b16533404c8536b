//! One file of the log: its name, its header, and making a new one. Knows nothing of the frames behind the header.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::SpoolError;
use crate::{checkpoint::ClusterId, revision::Revision};

/// The largest size of a segment, allocated in advance. A revision that is larger gets a segment of its own size.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// The least that a spool may take: eight segments of a mebibyte.
pub const MIN_BYTES: u64 = 8 << 20;

/// Bytes of the header.
pub(super) const HEADER_BYTES: u64 = 64;

const MAGIC: &[u8; 8] = b"ZBSPOOL1";

/// What a segment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Its number; the next segment's is one more.
    pub number: u64,
    /// Whose changes these are.
    pub cluster: ClusterId,
    /// The last revision before it.
    pub after: Revision,
    /// The digest of all frames before it.
    pub chain: u128,
}

// === impl Header ===

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.cluster.0.to_le_bytes());
        bytes.extend_from_slice(&self.after.0.to_le_bytes());
        bytes.extend_from_slice(&self.chain.to_le_bytes());
        bytes.resize(HEADER_BYTES as usize - 4, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.try_into().unwrap_or([0; HEADER_BYTES as usize])
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes = bytes.get(..HEADER_BYTES as usize).ok_or("the header is cut off")?;
        let (content, crc) = bytes.split_at(HEADER_BYTES as usize - 4);
        if crc != crc32c::crc32c(content).to_le_bytes() {
            return Err("the checksum of the header is wrong");
        }
        if !content.starts_with(MAGIC) {
            return Err("this is no segment of this version");
        }
        let word =
            |at: usize| content.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        Ok(Self {
            number: word(8),
            cluster: ClusterId(word(16)),
            after: Revision(word(24).cast_signed()),
            chain: u128::from(word(32)) | u128::from(word(40)) << 64,
        })
    }

    /// Makes the segment: whole on disk, with its name, when this returns.
    pub(super) fn create(&self, directory: &Path, size: u64) -> Result<(File, PathBuf), SpoolError> {
        let part = directory.join("new.part");
        let made = self.create_as(&part, directory, size);
        if made.is_err() {
            // What was allocated of it is room that is wanted elsewhere.
            let _gone = fs::remove_file(&part);
        }
        made
    }

    fn create_as(&self, part: &Path, directory: &Path, size: u64) -> Result<(File, PathBuf), SpoolError> {
        let path = name(directory, self.number);
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(part)
            .map_err(SpoolError::io("create", part))?;
        allocate(&file, size).map_err(SpoolError::io("allocate room for", part))?;
        file.write_all(&self.encode()).map_err(SpoolError::io("write", part))?;
        file.sync_all().map_err(SpoolError::io("synchronise", part))?;
        fs::rename(part, &path).map_err(SpoolError::io("rename", part))?;
        sync_directory(directory)?;
        Ok((file, path))
    }
}

/// Where a segment lies.
pub(super) fn name(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.seg"))
}

/// The numbers of the segments that are there, in order.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, SpoolError> {
    let failed = |error| SpoolError::Io { what: "read", path: directory.to_owned(), error };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes names that were created, changed or removed safe.
pub(super) fn sync_directory(directory: &Path) -> Result<(), SpoolError> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(SpoolError::io("synchronise", directory))
}

fn allocate(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        // A file system that cannot: the file has its size all the same, only not its blocks.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size),
        other => other.map_err(io::Error::from),
    }
}
