//! A moment of the source: the nearest snapshot before it, and what the log says came after. Finds both, or says why there are
//! none; reads files and no etcd.
//!
//! The log knows a stretch of history between two gaps. From a snapshot inside a stretch every later moment of the stretch can be
//! made; from a snapshot outside only its own. What is not known is refused, never guessed: a moment after the end of the log
//! may have had changes that nobody wrote down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Item, SnapshotError,
    catalog::Listed,
    format::{self, Header},
    is_state,
    overlay::Overlay,
};
use crate::{
    checkpoint::ClusterId,
    revision::Revision,
    spool::{Entry, History},
};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As of this revision.
    Revision(Revision),
    /// As of this time, in milliseconds since 1970: everything that had reached the log by then.
    Time(u64),
}

/// History that the log knows without a gap: every change after one revision, up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The revision before its first.
    pub after: Revision,
    /// Its last.
    pub through: Revision,
    /// When that reached the log.
    pub through_ms: u64,
}

/// What a snapshot says of itself that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Its revision.
    pub revision: Revision,
    /// Its time.
    pub at_ms: u64,
}

/// A stretch of moments that can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first: a snapshot.
    pub from: Base,
    /// The last.
    pub to: Base,
}

/// The state of the source at one moment, ready to be read.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The snapshot it begins at; none: it begins empty.
    pub base: Option<PathBuf>,
    /// What every key starts with.
    pub prefix: String,
    /// Whose state it is; nobody's in particular when absent.
    pub cluster: Option<ClusterId>,
    /// Its revision: the last one with something in it.
    pub revision: Revision,
    /// When that was known to be the latest.
    pub at_ms: u64,
    /// Revisions of the log on top of the snapshot.
    pub replayed: u64,
    /// Keys of the snapshot.
    pub base_keys: u64,
    /// Keys that changed since the snapshot.
    pub changed: Arc<Overlay>,
    /// Times to live of leases, as far as they are known.
    pub leases: Arc<BTreeMap<i64, i64>>,
}

/// A moment's keys, in order.
pub struct State {
    base: Option<format::Reader>,
    next: Option<Item>,
    changed: Arc<Overlay>,
    /// The last of the changed keys that was handed out or passed over.
    passed: Option<Vec<u8>>,
}

// === impl Target ===

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => write!(f, "revision {revision}"),
            Self::Time(ms) => f.write_str(&time(*ms)),
        }
    }
}

// === impl Target ===

impl Target {
    /// Whether a snapshot's own moment is the one.
    fn is(self, base: &Base) -> bool {
        match self {
            Self::Revision(wanted) => wanted == base.revision,
            Self::Time(wanted) => wanted == base.at_ms,
        }
    }
}

// === impl Range ===

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            return write!(f, "revision {} ({})", self.from.revision, time(self.from.at_ms));
        }
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "revisions {} to {} ({} to {})",
            from.revision,
            to.revision,
            time(from.at_ms),
            time(to.at_ms)
        )
    }
}

/// A time for people and for `--time`.
pub fn time(ms: u64) -> String {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default().to_string()
}

/// Reads the log and says what it knows without gaps.
///
/// # Errors
/// When the log is damaged.
pub fn stretches(history: Option<&History>) -> Result<Vec<Stretch>, SnapshotError> {
    let Some(history) = history else { return Ok(Vec::new()) };
    let begin = history.begins_after;
    let mut all = vec![Stretch { after: begin, through: begin, through_ms: 0 }];
    let mut reader = history.reader(begin);
    while let Some(entry) = reader.read()? {
        match (entry, all.last_mut()) {
            (Entry::Revision(source), Some(last)) => {
                (last.through, last.through_ms) = (source.revision, source.seen_ms.max(last.through_ms));
            }
            (Entry::Gap { through, seen_ms }, _) => {
                all.push(Stretch { after: through, through, through_ms: seen_ms });
            }
            (_, None) => {}
        }
    }
    Ok(all)
}

/// What can be restored, the oldest first. Ranges that meet are one.
pub fn ranges(bases: &[Base], stretches: &[Stretch]) -> Vec<Range> {
    let mut all: Vec<Range> = Vec::new();
    for base in bases {
        let to = end(*base, bases, stretches);
        match all.last_mut() {
            Some(last) if base.revision <= last.to.revision && last.from != last.to => {
                if to.at_ms > last.to.at_ms {
                    last.to = to;
                }
            }
            _ => all.push(Range { from: *base, to }),
        }
    }
    all
}

/// Whether a log says what came after a snapshot.
pub fn goes_on(log: &History, header: &Header) -> bool {
    log.cluster == header.cluster && log.covers(&header.prefix)
}

/// Why nothing goes on from these snapshots by this log, when it is another cluster's.
pub fn foreign<'a>(log: &History, headers: impl Iterator<Item = &'a Header>) -> Option<String> {
    let clusters: BTreeSet<String> = headers.map(|header| header.cluster.to_string()).collect();
    let (log_of, spool) = (log.cluster.to_string(), log.directory().display());
    (!clusters.is_empty() && !clusters.contains(&log_of)).then(|| {
        let of = clusters.into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "no snapshot of cluster {log_of}, of which the change log in {spool} is; the snapshots are of cluster {of}: name another \
             --spool"
        )
    })
}

/// [`ranges`], and the snapshots that the log says nothing about, each at its own revision. Where the log's own history has a moment of
/// that number or time, [`find`] takes that one: such a snapshot is left out here, and can be had by its name.
pub fn restorable(bases: &[Base], others: &[Base], stretches: &[Stretch]) -> Vec<Range> {
    let mut all = ranges(bases, stretches);
    let known = |at: &Base| {
        all.iter().any(|range| {
            (range.from.revision..=range.to.revision).contains(&at.revision)
                || (range.from.at_ms..=range.to.at_ms).contains(&at.at_ms)
        })
    };
    let alone: Vec<Range> =
        others.iter().filter(|at| !known(at)).map(|at| Range { from: *at, to: *at }).collect();
    all.extend(alone);
    all.sort_by_key(|range| range.from.at_ms);
    all
}

/// The last moment that can be made from a snapshot.
fn end(base: Base, bases: &[Base], stretches: &[Stretch]) -> Base {
    let Some(stretch) = around(base.revision, stretches) else { return base };
    // A later snapshot of the same history knows that nothing came between the last change and itself.
    let known = bases.iter().filter(|other| (base.revision..=stretch.through).contains(&other.revision));
    let at_ms = known.map(|other| other.at_ms).max().unwrap_or(0).max(stretch.through_ms);
    Base { revision: stretch.through.max(base.revision), at_ms: at_ms.max(base.at_ms) }
}

fn around(revision: Revision, stretches: &[Stretch]) -> Option<&Stretch> {
    // The end of one may be the beginning of the next: the one that goes on.
    stretches.iter().rev().find(|stretch| (stretch.after..=stretch.through).contains(&revision))
}

/// Which snapshot a moment begins at: its place in `bases`, which are in the order of time.
///
/// # Errors
/// Why there is none, in words.
pub fn choose(target: Target, bases: &[Base], stretches: &[Stretch]) -> Result<usize, String> {
    let fits = |base: &Base| match target {
        Target::Revision(wanted) => base.revision <= wanted,
        Target::Time(wanted) => base.at_ms <= wanted,
    };
    let Some(at) = bases.iter().rposition(fits) else {
        return Err(if bases.is_empty() {
            "there is no snapshot".to_owned()
        } else {
            "every snapshot is younger".to_owned()
        });
    };
    let base = bases.get(at).copied().unwrap_or(Base { revision: Revision(0), at_ms: 0 });
    let to = end(base, bases, stretches);
    let (reached, exact) = match target {
        Target::Revision(wanted) => (wanted <= to.revision, wanted == base.revision),
        Target::Time(wanted) => (wanted <= to.at_ms, wanted == base.at_ms),
    };
    if reached || exact {
        Ok(at)
    } else if around(base.revision, stretches).is_none() {
        Err(format!("the change log does not go on from the snapshot before it (revision {})", base.revision))
    } else {
        let (revision, at) = (to.revision, time(to.at_ms));
        Err(format!("what the change log knows without a gap ends at revision {revision} ({at})"))
    }
}

/// The moment that was asked for.
///
/// # Errors
/// When nothing knows it, naming what is known; when a file is damaged.
pub fn find(
    target: Target,
    snapshots: &[Listed],
    history: Option<&History>,
) -> Result<Moment, SnapshotError> {
    let (usable, others): (Vec<_>, Vec<_>) = snapshots
        .iter()
        .filter_map(|listed| listed.content.as_ref().ok().map(|(header, _)| (listed, header)))
        .partition(|(_, header)| history.is_none_or(|log| goes_on(log, header)));
    let base = |(_, header): &(&Listed, &Header)| Base { revision: header.revision, at_ms: header.at_ms };
    let bases: Vec<Base> = usable.iter().map(base).collect();
    let stretches = stretches(history)?;
    let of_others: Vec<Base> = others.iter().map(base).collect();
    let chosen = match choose(target, &bases, &stretches) {
        Ok(at) => Ok(usable.get(at).copied()),
        // Of the log's own history nothing is that moment; a snapshot that the log says nothing about is its own.
        Err(why) => match others.iter().zip(&of_others).find(|(_, base)| target.is(base)) {
            Some((other, _)) => Ok(Some(*other)),
            None if bases.is_empty() => Err(history
                .and_then(|log| foreign(log, others.iter().map(|(_, header)| *header)))
                .unwrap_or(why)),
            None => Err(why),
        },
    };
    let listed = match chosen {
        Ok(Some((listed, _))) => listed,
        Ok(None) => return Err(SnapshotError::Internal("the chosen snapshot is not there".to_owned())),
        Err(why) => {
            let ranges: Vec<String> =
                restorable(&bases, &of_others, &stretches).iter().map(Range::to_string).collect();
            let ranges = if ranges.is_empty() { "nothing".to_owned() } else { ranges.join("; ") };
            return Err(SnapshotError::NoMoment { asked: target.to_string(), why, ranges });
        }
    };
    let mut moment = of_snapshot(listed)?;
    // A snapshot from before the log begins is a moment of its own: nothing is known of what came after it.
    if let Some(history) = history.filter(|log| moment.is_of(log) && log.begins_after <= moment.revision) {
        moment.replay(history, target)?;
    }
    Ok(moment)
}

/// A snapshot's own moment, once its bytes are found to be good.
///
/// # Errors
/// When it is damaged.
pub fn of_snapshot(listed: &Listed) -> Result<Moment, SnapshotError> {
    let mut reader = format::check_bytes(&listed.path)?;
    while reader.read()?.is_some() {}
    Ok(Moment {
        base: Some(listed.path.clone()),
        prefix: reader.header.prefix.clone(),
        cluster: Some(reader.header.cluster),
        revision: reader.header.revision,
        at_ms: reader.header.at_ms,
        replayed: 0,
        base_keys: reader.footer.keys,
        changed: Arc::default(),
        leases: Arc::new(reader.leases().clone()),
    })
}

// === impl Moment ===

impl Moment {
    /// Entries from elsewhere, such as a file that somebody wrote.
    pub fn of_items(prefix: &str, items: Vec<Item>, leases: BTreeMap<i64, i64>) -> Self {
        Self {
            base: None,
            prefix: prefix.to_owned(),
            cluster: None,
            revision: Revision(0),
            at_ms: 0,
            replayed: 0,
            base_keys: 0,
            changed: Arc::new(Overlay::of_items(items)),
            leases: Arc::new(leases),
        }
    }

    fn is_of(&self, log: &History) -> bool {
        self.cluster == Some(log.cluster) && log.covers(&self.prefix)
    }

    /// Goes on by the log, up to `target`, its end, or a gap: then it says `false`.
    pub(crate) fn replay(&mut self, history: &History, target: Target) -> Result<bool, SnapshotError> {
        let (prefix, changed) = (self.prefix.as_str(), Arc::make_mut(&mut self.changed));
        let mut reader = history.reader(self.revision);
        let mut whole = true;
        while let Some(entry) = reader.read()? {
            let Entry::Revision(source) = entry else {
                whole = false;
                break;
            };
            let past = match target {
                Target::Revision(wanted) => source.revision > wanted,
                Target::Time(wanted) => source.seen_ms > wanted,
            };
            if past {
                break;
            }
            (self.revision, self.at_ms) = (source.revision, self.at_ms.max(source.seen_ms));
            self.replayed += 1;
            if let Some(place) = reader.place() {
                changed.apply(source, &place, |key| is_state(prefix, key));
            }
        }
        Ok(whole)
    }

    /// About how many keys it has: a bound for a progress bar.
    pub fn about(&self) -> u64 {
        self.base_keys + self.changed.len() as u64
    }

    /// Its keys from the beginning.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub fn state(&self) -> Result<State, SnapshotError> {
        let mut base = self.base.as_deref().map(format::Reader::open).transpose()?;
        let next = base.as_mut().map_or(Ok(None), format::Reader::read)?;
        Ok(State { base, next, changed: Arc::clone(&self.changed), passed: None })
    }
}

// === impl State ===

impl State {
    /// The next key.
    ///
    /// # Errors
    /// When the snapshot is damaged or the disk fails.
    pub fn read(&mut self) -> Result<Option<Item>, SnapshotError> {
        loop {
            let changed = self.changed.after(self.passed.as_deref());
            let overlaid = match (&self.next, changed) {
                (None, None) => return Ok(None),
                (Some(_), None) => None,
                (None, Some(_)) => Some(false),
                (Some(base), Some(key)) => (key <= base.key.as_slice()).then_some(key == base.key),
            };
            let changed = changed.filter(|_| overlaid.is_some()).map(<[u8]>::to_vec);
            let base = match overlaid {
                None | Some(true) => {
                    let following = self.base.as_mut().map_or(Ok(None), format::Reader::read)?;
                    std::mem::replace(&mut self.next, following)
                }
                Some(false) => None,
            };
            // What changed since the snapshot stands for what was in it; a deleted key is passed over.
            let Some(key) = changed else { return Ok(base) };
            let item = self.changed.item(&key)?;
            self.passed = Some(key);
            if item.is_some() {
                return Ok(item);
            }
        }
    }
}

#[cfg(test)]
mod tests;
