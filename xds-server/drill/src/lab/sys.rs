//! The lab's only calls into libc: children that die with their parent, and signals to a whole process group. Decides
//! nothing; everything else of the lab is safe Rust.
#![expect(unsafe_code, reason = "prctl between fork and exec, kill and sysconf have no safe form in std")]

use std::{io, os::unix::process::CommandExt, process::Command};

/// Makes the child die when the *thread* that spawns it ends (`PR_SET_PDEATHSIG`, prctl(2)), so that it does not outlive a
/// parent that was killed with SIGKILL and could not clean up. Spawn from a thread that lives as long as the process.
pub(super) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, both async-signal-safe, and nothing allocates:
    // `from_raw_os_error` and `last_os_error` hold a number.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died between fork and prctl; then nobody would send the signal.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Sends a signal to the process group that a child leads. A group that is gone is no error: the purpose is reached.
pub(super) fn signal_group(leader: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    if unsafe { libc::kill(-leader.cast_signed(), signal) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}
