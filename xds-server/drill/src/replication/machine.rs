//! How much of the machine is free for a measurement: on a crowded one every wait is a wait for a core, and figures say little about
//! what was measured. Looks; waits for nobody.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::lab::{LabError, cpu_time};

/// How long it computes to find out.
const LOOK: Duration = Duration::from_millis(300);

/// The cores of this machine.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The share of all cores that a program gets which wants all of them, from 0 to 1.
///
/// # Errors
/// When the kernel does not tell what this process has used.
pub fn free() -> Result<f64, LabError> {
    let (pid, cores) = (std::process::id(), cores());
    let (begun, before) = (Instant::now(), cpu_time(pid)?);
    // What an ended thread has used is not told any more: they end when it has been asked for.
    let (done, gone) = (std::sync::Barrier::new(cores + 1), std::sync::Barrier::new(cores + 1));
    let used = thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while begun.elapsed() < LOOK {
                    std::hint::spin_loop();
                }
                done.wait();
                gone.wait();
            });
        }
        done.wait();
        let (used, took) = (cpu_time(pid), begun.elapsed());
        gone.wait();
        used.map(|used| used.saturating_sub(before).as_secs_f64() / took.as_secs_f64())
    })?;
    Ok((used / cores as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_the_machine_is_ours() {
        let share = free().unwrap();
        assert!(share > 0.0 && share <= 1.0, "{share}");
    }
}
