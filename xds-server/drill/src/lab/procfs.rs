//! Memory and CPU time of a child, from /proc. Reads; never interprets.

use std::{fs, time::Duration};

use super::{LabError, sys};

/// What a process holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident anonymous pages (`RssAnon`): heap and stacks, what the process itself needs. Pages of the binary, which all
    /// proxies of a node share, are not in it.
    pub anonymous: u64,
    /// All resident pages (`VmRSS`).
    pub resident: u64,
}

/// The memory of a process (`/proc/PID/status`).
pub fn memory(pid: u32) -> Result<Memory, LabError> {
    let text = read(&format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024)
    };
    match (field("RssAnon"), field("VmRSS")) {
        (Some(anonymous), Some(resident)) => Ok(Memory { anonymous, resident }),
        _ => Err(malformed(&format!("/proc/{pid}/status: no RssAnon or VmRSS"))),
    }
}

/// User and system CPU time that a process has used, all its threads together (`/proc/PID/stat`, fields 14 and 15).
pub fn cpu_time(pid: u32) -> Result<Duration, LabError> {
    let text = read(&format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&text).ok_or_else(|| malformed(&format!("/proc/{pid}/stat: {text:?}")))?;
    Ok(Duration::from_micros(ticks * 1_000_000 / sys::ticks_per_second()))
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses and may itself hold spaces and parentheses; field 3 follows the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

fn read(path: &str) -> Result<String, LabError> {
    fs::read_to_string(path).map_err(LabError::io(format!("read {path}")))
}

fn malformed(what: &str) -> LabError {
    LabError::io("read the process table")(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn cpu_fields_are_counted_from_the_last_parenthesis() {
        let stat = "42 (a) (b c)) S 1 2 3 4 5 6 7 8 9 10 700 31 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(731));
        assert_eq!(cpu_ticks("garbage"), None);
    }

    #[test]
    fn our_own_figures_move_when_we_work() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(cpu_time(pid).unwrap() > before);
        let small = memory(pid).unwrap();
        let pages = std::hint::black_box(vec![1_u8; 32 << 20]);
        let large = memory(pid).unwrap();
        assert!(large.anonymous >= small.anonymous + (16 << 20), "{small:?} {large:?} {}", pages.len());
        assert!(large.resident >= large.anonymous);
    }
}
