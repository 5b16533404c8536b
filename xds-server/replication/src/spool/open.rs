//! Opening a spool after whatever happened: who may use it, which segments belong together, and where the log ends. Reads the
//! last segment whole and the headers of the others; cuts off a torn tail and repairs nothing else.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    Spool, SpoolError, SpoolOptions, Tail,
    frame::{self, ALIGN, Unreadable},
    segment::{self, HEADER_BYTES, Header},
    writer::Segment,
};
use crate::{anchors, checkpoint::ClusterId, revision::Revision};

/// A process that was killed may hold the lock until the kernel has taken it apart, and a child between its fork and its exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The file that says what every key in the log starts with.
pub(super) const PREFIX: &str = "prefix";

/// What opening came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Bytes of a torn tail that were cut off.
    pub cut: u64,
    /// Segments found.
    pub segments: usize,
}

/// What reading a segment to its end found.
struct Scan {
    end: u64,
    revision: Revision,
    chain: u128,
    /// Why it ended there, when not because nothing more was written.
    broken: Option<&'static str>,
}

// === impl Spool ===

impl Spool {
    /// Opens the spool of a source, which is made if there is none.
    ///
    /// # Errors
    /// When it is damaged, belongs to another source, is in use, or the disk fails.
    pub fn open(options: SpoolOptions, cluster: ClusterId) -> Result<(Self, Recovery), SpoolError> {
        let directory = options.directory.as_path();
        fs::create_dir_all(directory).map_err(SpoolError::io("create", directory))?;
        let lock = lock(directory)?;
        let holder = holder(directory)?;
        let mut recovery = Recovery::default();
        let numbers = segment::list(directory)?;
        let mut segments = Vec::with_capacity(numbers.len());
        for (at, number) in numbers.iter().enumerate() {
            if let Some(before) = at.checked_sub(1).and_then(|at| numbers.get(at))
                && before + 1 != *number
            {
                return Err(SpoolError::Missing { directory: directory.to_owned(), segment: before + 1 });
            }
            segments.push(header(directory, *number, cluster)?);
        }
        recovery.segments = segments.len();
        let (tail, chain) = match segments.last() {
            None => {
                let at = Tail { segment: 0, offset: 0, revision: Revision(0) };
                (at, 0)
            }
            Some(last) => {
                let path = segment::name(directory, last.header.number);
                let bytes = fs::read(&path).map_err(SpoolError::io("read", &path))?;
                let scan = scan(&bytes, &last.header);
                if let Some(why) = scan.broken {
                    if was_synchronised(&bytes, scan.end) {
                        let why = why.to_owned();
                        return Err(SpoolError::Damaged { path, offset: scan.end, why });
                    }
                    recovery.cut = cut(&path, &bytes, scan.end)?;
                }
                let at = Tail { segment: last.header.number, offset: scan.end, revision: scan.revision };
                (at, scan.chain)
            }
        };
        Ok((Self::assemble(options, cluster, holder, lock, segments, tail, chain)?, recovery))
    }

    /// Whose changes the spool in `directory` holds; `None` when there are none.
    ///
    /// # Errors
    /// When it is damaged, or the disk fails.
    pub fn cluster_in(directory: &Path) -> Result<Option<ClusterId>, SpoolError> {
        if !directory.exists() {
            return Ok(None);
        }
        let Some(last) = segment::list(directory)?.last().copied() else { return Ok(None) };
        read_header(directory, last).map(|(header, _)| Some(header.cluster))
    }

    /// Puts the spool in `directory` aside, so that the next one begins empty. Who this replicator is stays.
    ///
    /// # Errors
    /// When it is in use, or the disk fails.
    pub fn reset(directory: &Path) -> Result<(), SpoolError> {
        if !directory.exists() {
            return Ok(());
        }
        let _lock = lock(directory)?;
        let aside = directory.join(format!("aside-{}", jiff::Timestamp::now().as_millisecond()));
        fs::create_dir(&aside).map_err(SpoolError::io("create", &aside))?;
        for number in segment::list(directory)? {
            let path = segment::name(directory, number);
            let to = segment::name(&aside, number);
            fs::rename(&path, to).map_err(SpoolError::io("move", &path))?;
        }
        // What its source is known by lies beside the log, and goes with it.
        let path = directory.join(anchors::FILE);
        match fs::rename(&path, aside.join(anchors::FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SpoolError::io("move", path)(error)),
            _ => segment::sync_directory(directory),
        }
    }

    /// Reads everything and checks every frame and the chain of digests from segment to segment.
    ///
    /// # Errors
    /// The first damage.
    pub fn check(directory: &Path, cluster: ClusterId) -> Result<Option<Revision>, SpoolError> {
        let mut before: Option<(u128, Revision)> = None;
        let numbers = segment::list(directory)?;
        for number in &numbers {
            let path = segment::name(directory, *number);
            let damaged =
                |offset, why: &str| SpoolError::Damaged { path: path.clone(), offset, why: why.to_owned() };
            let header = header(directory, *number, cluster)?.header;
            if before.is_some_and(|before| before != (header.chain, header.after)) {
                return Err(damaged(0, "the segment before it is not the one it was written after"));
            }
            let bytes = fs::read(&path).map_err(SpoolError::io("read", &path))?;
            let scan = scan(&bytes, &header);
            if let Some(why) = scan.broken
                && (Some(number) != numbers.last() || was_synchronised(&bytes, scan.end))
            {
                return Err(damaged(scan.end, why));
            }
            before = Some((scan.chain, scan.revision));
        }
        Ok(before.map(|(_, revision)| revision))
    }
}

/// Notes what every key in the log starts with, for whoever reads it without its replicator.
pub(crate) fn note_prefix(directory: &Path, prefix: &[u8]) -> Result<(), SpoolError> {
    let (path, part) = (directory.join(PREFIX), directory.join("prefix.part"));
    if fs::read(&path).is_ok_and(|known| known == prefix) {
        return Ok(());
    }
    fs::write(&part, prefix).map_err(SpoolError::io("write", &part))?;
    fs::rename(&part, &path).map_err(SpoolError::io("rename", &part))?;
    segment::sync_directory(directory)
}

/// Whether another process has the directory for itself. Asks, and takes nothing for longer than that.
pub(crate) fn in_use(directory: &Path) -> bool {
    let lock = File::options().write(true).open(directory.join("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Takes the directory for this process alone.
fn lock(directory: &Path) -> Result<File, SpoolError> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(SpoolError::io("open", &path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_PATIENCE / 50),
            Err(TryLockError::WouldBlock) => return Err(SpoolError::Locked(directory.to_owned())),
            Err(TryLockError::Error(error)) => return Err(SpoolError::Io { what: "lock", path, error }),
        }
    }
}

/// Who this replicator is; chosen once.
fn holder(directory: &Path) -> Result<Uuid, SpoolError> {
    let path = directory.join("holder");
    if let Ok(known) = fs::read_to_string(&path) {
        let why = "it holds no UUID".to_owned();
        return known.trim().parse().map_err(|_| SpoolError::Damaged { path, offset: 0, why });
    }
    let (holder, part) = (Uuid::now_v7(), directory.join("holder.part"));
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(holder.to_string().as_bytes())?;
        file.sync_all()
    });
    written.map_err(SpoolError::io("write", &part))?;
    fs::rename(&part, &path).map_err(SpoolError::io("rename", &part))?;
    segment::sync_directory(directory)?;
    Ok(holder)
}

fn header(directory: &Path, number: u64, cluster: ClusterId) -> Result<Segment, SpoolError> {
    let (header, size) = read_header(directory, number)?;
    if header.cluster != cluster {
        return Err(SpoolError::Foreign {
            directory: directory.to_owned(),
            found: header.cluster,
            wanted: cluster,
        });
    }
    Ok(Segment { header, size, first_ms: first_ms(directory, number)? })
}

/// When the first entry of a segment reached us; 0 where there is none that can be read.
fn first_ms(directory: &Path, number: u64) -> Result<u64, SpoolError> {
    let path = segment::name(directory, number);
    let mut file = File::open(&path).map_err(SpoolError::io("open", &path))?;
    file.seek(SeekFrom::Start(HEADER_BYTES)).map_err(SpoolError::io("read", &path))?;
    let mut bytes = Vec::new();
    file.take(frame::TIMED as u64).read_to_end(&mut bytes).map_err(SpoolError::io("read", &path))?;
    Ok(frame::seen_ms(&bytes))
}

/// A segment's header, and its size.
fn read_header(directory: &Path, number: u64) -> Result<(Header, u64), SpoolError> {
    let path = segment::name(directory, number);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(SpoolError::io("open", &path))?;
    let size = file.metadata().map_err(SpoolError::io("read", &path))?.len();
    file.take(HEADER_BYTES).read_to_end(&mut bytes).map_err(SpoolError::io("read", &path))?;
    match Header::decode(&bytes) {
        Ok(header) if header.number != number => {
            Err(SpoolError::Damaged { path, offset: 0, why: format!("it is segment {}", header.number) })
        }
        Ok(header) => Ok((header, size)),
        Err(why) => Err(SpoolError::Damaged { path, offset: 0, why: why.to_owned() }),
    }
}

/// The header of a segment, whoever's it is.
pub(super) fn peek(directory: &Path, number: u64) -> Result<Header, SpoolError> {
    let path = segment::name(directory, number);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(SpoolError::io("open", &path))?;
    file.take(HEADER_BYTES).read_to_end(&mut bytes).map_err(SpoolError::io("read", &path))?;
    Header::decode(&bytes).map_err(|why| SpoolError::Damaged { path, offset: 0, why: why.to_owned() })
}

/// Where the frames of a segment end, and at which revision; or where it is damaged, and how.
pub(super) fn end(bytes: &[u8], header: &Header) -> Result<(u64, Revision), (u64, &'static str)> {
    let scan = scan(bytes, header);
    match scan.broken {
        Some(why) if was_synchronised(bytes, scan.end) => Err((scan.end, why)),
        _ => Ok((scan.end, scan.revision)),
    }
}

fn scan(bytes: &[u8], header: &Header) -> Scan {
    let mut scan = Scan { end: HEADER_BYTES, revision: header.after, chain: header.chain, broken: None };
    loop {
        let rest = usize::try_from(scan.end).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
        match frame::decode(rest, scan.chain) {
            Ok(frame) if frame.entry.revision() <= scan.revision => {
                scan.broken = Some("a revision comes again");
                return scan;
            }
            Ok(frame) => {
                scan.end += frame.size as u64;
                scan.revision = frame.entry.revision();
                scan.chain = frame.chain;
            }
            Err(Unreadable::Blank) => {
                scan.broken = rest.iter().any(|byte| *byte != 0).then_some("zeros where a frame was");
                return scan;
            }
            Err(Unreadable::Short(_)) => {
                scan.broken = (!rest.is_empty()).then_some("a frame is cut off");
                return scan;
            }
            Err(Unreadable::Broken(why)) => {
                scan.broken = Some(why);
                return scan;
            }
        }
    }
}

/// Whether a frame further on says that the bytes at `end` were safe on disk before it was written.
fn was_synchronised(bytes: &[u8], end: u64) -> bool {
    let start = usize::try_from(end).unwrap_or(usize::MAX);
    (start..bytes.len()).step_by(ALIGN).any(|at| {
        let rest = bytes.get(at..).unwrap_or_default();
        frame::decode(rest, 0).is_ok_and(|frame| u64::from(frame.synced) > end)
    })
}

/// Overwrites what is behind the end with zeros, so that it is never taken for frames.
fn cut(path: &Path, bytes: &[u8], end: u64) -> Result<u64, SpoolError> {
    use std::os::unix::fs::FileExt as _;
    let start = usize::try_from(end).unwrap_or(usize::MAX);
    let behind = bytes.get(start..).unwrap_or_default();
    let dirty = behind.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let file = File::options().write(true).open(path).map_err(SpoolError::io("open", path))?;
    file.write_all_at(&vec![0; dirty], end).map_err(SpoolError::io("write", path))?;
    file.sync_all().map_err(SpoolError::io("synchronise", path))?;
    Ok(dirty as u64)
}
