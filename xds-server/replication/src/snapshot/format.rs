//! One snapshot as one file. Reads any bytes without a panic, and believes nothing that its checks do not hold for.
//!
//! ```text
//! "ZBSNAP1\n" | length u32 | header, JSON | crc32c u32
//! zstd [ entry ... | lease ... | end ]
//!    entry: 1 | key u32 | value u32 | modified i64 | lease i64 | key | value      in the order of keys, each once
//!    lease: 2 | number i64 | granted time to live in seconds i64
//!    end:   0
//! keys u64 | digest u128 | sha256 of everything before it | "ZBSNEND\n"
//! ```
//!
//! Little endian throughout. Header and footer are read alone to list snapshots; the SHA-256 tells damage, and the digest
//! ([`crate::digest`]) is the same that replication compares, so that a snapshot can be compared with a live etcd by one number.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Take, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Item, SnapshotError};
use crate::{checkpoint::ClusterId, digest::Digest, revision::Revision};

const MAGIC: &[u8; 8] = b"ZBSNAP1\n";
const END: &[u8; 8] = b"ZBSNEND\n";
const FORMAT: u32 = 1;

/// Bytes before the header's JSON and after it.
const HEAD: u64 = 8 + 4;
const CRC: u64 = 4;
const FOOTER: u64 = 8 + 16 + 32 + 8;

/// More than any header has; a larger one is damage.
const MAX_HEADER: u64 = 64 << 10;

/// More than any key or value has: etcd refuses requests far below.
const MAX_BYTES: u64 = 1 << 30;

/// zstd's own default: 100k keys of 200 bytes take a tenth of a second.
const LEVEL: i32 = 3;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// The cluster whose revisions these are.
    pub cluster: ClusterId,
    /// The revision.
    pub revision: Revision,
    /// When that was the latest one, in milliseconds since 1970.
    pub at_ms: u64,
    /// What every key starts with.
    pub prefix: String,
}

/// What a snapshot comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Footer {
    /// Keys.
    pub keys: u64,
    /// The digest of keys and values.
    pub digest: Digest,
    /// SHA-256 of the file but for its last 40 bytes, in hexadecimal.
    #[serde(serialize_with = "hex")]
    pub sha256: [u8; 32],
}

/// Writes a snapshot.
pub struct Writer<W: Write> {
    out: zstd::Encoder<'static, Hashing<W>>,
    keys: u64,
    digest: Digest,
}

/// Reads a snapshot, entry by entry.
pub struct Reader {
    path: PathBuf,
    /// What it is of.
    pub header: Header,
    /// What it comes to.
    pub footer: Footer,
    body: zstd::Decoder<'static, BufReader<Take<File>>>,
    keys: u64,
    digest: Digest,
    last: Vec<u8>,
    leases: BTreeMap<i64, i64>,
    ended: bool,
}

/// Hashes what goes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

// === impl Header ===

impl Header {
    /// The header of a snapshot that is about to be made.
    pub fn new(cluster: ClusterId, revision: Revision, at_ms: u64, prefix: &str) -> Self {
        Self { format: FORMAT, cluster, revision, at_ms, prefix: prefix.to_owned() }
    }
}

fn hex<S: serde::Serializer>(bytes: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

// === impl Hashing ===

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

// === impl Writer ===

impl<W: Write> Writer<W> {
    /// Begins a snapshot.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn new(out: W, header: &Header) -> io::Result<Self> {
        let json = serde_json::to_vec(header)?;
        let mut out = Hashing { inner: out, hasher: Sha256::new() };
        out.write_all(MAGIC)?;
        out.write_all(&length(&json)?)?;
        out.write_all(&json)?;
        out.write_all(&crc32c::crc32c(&json).to_le_bytes())?;
        Ok(Self { out: zstd::Encoder::new(out, LEVEL)?, keys: 0, digest: Digest::default() })
    }

    /// The next entry, in the order of keys.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, item: &Item) -> io::Result<()> {
        self.out.write_all(&[1])?;
        self.out.write_all(&length(&item.key)?)?;
        self.out.write_all(&length(&item.value)?)?;
        self.out.write_all(&item.modified.0.to_le_bytes())?;
        self.out.write_all(&item.lease.to_le_bytes())?;
        self.out.write_all(&item.key)?;
        self.out.write_all(&item.value)?;
        self.keys += 1;
        self.digest = self.digest.with(&item.key, &item.value);
        Ok(())
    }

    /// Ends the snapshot with the times to live of the leases that entries named, and hands out what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, leases: &BTreeMap<i64, i64>) -> io::Result<(Footer, W)> {
        for (lease, ttl) in leases {
            self.out.write_all(&[2])?;
            self.out.write_all(&lease.to_le_bytes())?;
            self.out.write_all(&ttl.to_le_bytes())?;
        }
        self.out.write_all(&[0])?;
        let mut out = self.out.finish()?;
        out.write_all(&self.keys.to_le_bytes())?;
        out.write_all(&self.digest.to_bytes())?;
        let sha256: [u8; 32] = out.hasher.finalize().into();
        let mut out = out.inner;
        out.write_all(&sha256)?;
        out.write_all(END)?;
        out.flush()?;
        Ok((Footer { keys: self.keys, digest: self.digest, sha256 }, out))
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(io::Error::other)
}

// === impl Reader ===

impl Reader {
    /// Opens a snapshot: reads what it is of and what it should come to, and none of its entries.
    ///
    /// # Errors
    /// When it is none, is cut off, or the disk fails.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let damaged = |why: &str| SnapshotError::Damaged { path: path.to_owned(), why: why.to_owned() };
        let read = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
            _ => SnapshotError::io("read", path)(error),
        };
        let mut file = File::open(path).map_err(SnapshotError::io("open", path))?;
        let size = file.metadata().map_err(read)?.len();
        let (mut magic, mut word) = ([0; 8], [0; 4]);
        file.read_exact(&mut magic).map_err(read)?;
        if &magic != MAGIC {
            return Err(damaged("it is no snapshot of this program, or of a newer version of it"));
        }
        file.read_exact(&mut word).map_err(read)?;
        let length = u64::from(u32::from_le_bytes(word));
        let body = HEAD + length + CRC;
        if length > MAX_HEADER || size < body + FOOTER {
            return Err(damaged("it is cut off, or its header is damaged"));
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(read)?;
        file.read_exact(&mut word).map_err(read)?;
        if u32::from_le_bytes(word) != crc32c::crc32c(&json) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let header: Header = serde_json::from_slice(&json)
            .map_err(|error| damaged(&format!("its header has another form ({error})")))?;
        if header.format != FORMAT {
            return Err(damaged(&format!(
                "its format is {}, and this program knows {FORMAT}",
                header.format
            )));
        }
        let footer = footer(&mut file, size).map_err(read)?;
        let footer =
            footer.ok_or_else(|| damaged("it is cut off: its last bytes are not those of an end"))?;
        file.seek(SeekFrom::Start(body)).map_err(read)?;
        let body = zstd::Decoder::new(file.take(size - body - FOOTER)).map_err(read)?;
        Ok(Self {
            path: path.to_owned(),
            header,
            footer,
            body,
            keys: 0,
            digest: Digest::default(),
            last: Vec::new(),
            leases: BTreeMap::new(),
            ended: false,
        })
    }

    /// The next entry; `None` at the end, when everything that the footer says has been found true.
    ///
    /// # Errors
    /// When it is damaged or the disk fails.
    pub fn read(&mut self) -> Result<Option<Item>, SnapshotError> {
        while !self.ended {
            match self.array::<1>()? {
                [1] => return self.entry().map(Some),
                [2] => {
                    let lease = i64::from_le_bytes(self.array()?);
                    let ttl = i64::from_le_bytes(self.array()?);
                    self.leases.insert(lease, ttl);
                }
                [0] => {
                    self.ended = true;
                    if (self.keys, self.digest) != (self.footer.keys, self.footer.digest) {
                        return Err(self.damaged("the digest of its entries is not the one at its end"));
                    }
                }
                _ => return Err(self.damaged("no entry begins here")),
            }
        }
        Ok(None)
    }

    /// The leases that entries live by and their times to live in seconds; known after the last entry.
    pub const fn leases(&self) -> &BTreeMap<i64, i64> {
        &self.leases
    }

    fn entry(&mut self) -> Result<Item, SnapshotError> {
        let key = u64::from(u32::from_le_bytes(self.array()?));
        let value = u64::from(u32::from_le_bytes(self.array()?));
        let modified = Revision(i64::from_le_bytes(self.array()?));
        let lease = i64::from_le_bytes(self.array()?);
        let (key, value) = (self.bytes(key)?, self.bytes(value)?);
        if self.keys > 0 && key <= self.last {
            return Err(self.damaged("its keys are not in order"));
        }
        if !key.starts_with(self.header.prefix.as_bytes()) {
            return Err(self.damaged("a key is not under its prefix"));
        }
        self.keys += 1;
        self.digest = self.digest.with(&key, &value);
        self.last.clone_from(&key);
        Ok(Item { key, value, modified, lease })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        let read = self.body.read_exact(&mut bytes);
        read.map_err(|error| self.damaged(&format!("its entries cannot be unpacked: {error}")))?;
        Ok(bytes)
    }

    /// Reads that many bytes, without believing that there are as many before they came.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        let read = if length > MAX_BYTES {
            Err(io::Error::other("an entry is longer than any can be"))
        } else {
            bytes.reserve((length as usize).min(64 << 10));
            (&mut self.body).take(length).read_to_end(&mut bytes)
        };
        match read {
            Ok(read) if read as u64 == length => Ok(bytes),
            Ok(_) => Err(self.damaged("an entry is cut off")),
            Err(error) => Err(self.damaged(&format!("its entries cannot be unpacked: {error}"))),
        }
    }

    fn damaged(&self, why: &str) -> SnapshotError {
        let path = self.path.clone();
        SnapshotError::Damaged {
            path,
            why: format!("{why} (after {} of {} keys)", self.keys, self.footer.keys),
        }
    }
}

fn footer(file: &mut File, size: u64) -> io::Result<Option<Footer>> {
    let mut bytes = [0; FOOTER as usize];
    file.seek(SeekFrom::Start(size - FOOTER))?;
    file.read_exact(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let (mut keys, mut digest, mut sha256, mut end) = ([0; 8], [0; 16], [0; 32], [0; 8]);
    for part in [&mut keys[..], &mut digest, &mut sha256, &mut end] {
        rest.read_exact(part)?;
    }
    let footer = Footer { keys: u64::from_le_bytes(keys), digest: Digest::from_bytes(digest), sha256 };
    Ok((&end == END).then_some(footer))
}

/// Reads all of a snapshot: its SHA-256 over the bytes, then every entry, their order and their digest.
///
/// # Errors
/// The first thing that is not as it was written.
pub fn verify(path: &Path) -> Result<(Header, Footer), SnapshotError> {
    let mut reader = check_bytes(path)?;
    while reader.read()?.is_some() {}
    Ok((reader.header, reader.footer))
}

/// Opens a snapshot once its SHA-256 is found right: none of its entries is used before all of its bytes are known to be good.
///
/// # Errors
/// When a byte is not as it was written, or the disk fails.
pub fn check_bytes(path: &Path) -> Result<Reader, SnapshotError> {
    let reader = Reader::open(path)?;
    let read = SnapshotError::io("read", path);
    let hashed = || -> io::Result<[u8; 32]> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let (mut rest, mut buffer) = (size.saturating_sub(32 + 8), vec![0; 256 << 10]);
        let mut hasher = Sha256::new();
        while rest > 0 {
            let most = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let part = buffer.get_mut(..most).unwrap_or_default();
            file.read_exact(part)?;
            hasher.update(part);
            rest -= most as u64;
        }
        Ok(hasher.finalize().into())
    };
    if hashed().map_err(read)? != reader.footer.sha256 {
        return Err(reader.damaged("its SHA-256 is not the one at its end"));
    }
    Ok(reader)
}

#[cfg(test)]
mod tests;
