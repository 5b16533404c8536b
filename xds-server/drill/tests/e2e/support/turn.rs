//! At most two worlds at once, whichever thread or process of this checkout they are in: more of them on two cores would
//! measure each other. Waits; measures nothing.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    time::Duration,
};

/// Worlds that run at once. One takes about a tenth of a core at 200 requests a second, and most of one while it starts.
const PLACES: usize = 2;

/// A place among those that may run; given back when dropped, or when the process ends, however it ends.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

/// Waits for a place.
pub async fn turn() -> Turn {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    loop {
        for place in 0..PLACES {
            let path = folder.join(format!("e2e-place-{place}.lock"));
            let lock = File::options().create(true).truncate(false).write(true).open(path).unwrap();
            match lock.try_lock() {
                Ok(()) => return Turn { _lock: lock },
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("failed to lock a place: {error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
