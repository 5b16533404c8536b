//! Memory and CPU time of a child, from /proc. Reads; never interprets.

use std::{fs, time::Duration};

use super::LabError;

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

/// CPU time that a process has used, all its living threads together, to the nanosecond (`/proc/PID/task/TID/schedstat`, first
/// field). The usual `/proc/PID/stat` counts in hundredths of a second.
pub fn cpu_time(pid: u32) -> Result<Duration, LabError> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).map_err(LabError::io(format!("read {tasks}")))? {
        let path = task.map_err(LabError::io(format!("read {tasks}")))?.path().join("schedstat");
        // A thread may end between the two looks.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let used = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
        total +=
            Duration::from_nanos(used.ok_or_else(|| malformed(&format!("{}: {text:?}", path.display())))?);
    }
    Ok(total)
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
