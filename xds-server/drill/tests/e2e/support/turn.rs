//! At most two worlds at once, whichever thread or process of this checkout they are in: more of them on two cores would
//! measure each other. Waits; measures nothing.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    time::Duration,
};

/// Worlds that run at once. One takes about a tenth of a core at 200 requests a second, and most of one while it starts.
const PLACES: usize = 2;

/// Between two looks for a place.
const LOOK: Duration = Duration::from_millis(50);

/// Places among those that may run; given back when dropped, or when the process ends, however it ends.
#[derive(Debug)]
pub struct Turn {
    _locks: Vec<File>,
}

/// Waits for a place.
pub async fn turn() -> Turn {
    loop {
        if let Some(lock) = (0..PLACES).find_map(take) {
            return Turn { _locks: vec![lock] };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for all places: no other world runs beside. Whoever calls it holds none. All take them in the same order, so that of two who
/// do one waits for the other.
pub async fn alone() -> Turn {
    let mut locks = Vec::with_capacity(PLACES);
    for place in 0..PLACES {
        locks.push(loop {
            match take(place) {
                Some(lock) => break lock,
                None => tokio::time::sleep(LOOK).await,
            }
        });
    }
    Turn { _locks: locks }
}

fn take(place: usize) -> Option<File> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(format!("e2e-place-{place}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    match lock.try_lock() {
        Ok(()) => Some(lock),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => panic!("failed to lock a place: {error}"),
    }
}
