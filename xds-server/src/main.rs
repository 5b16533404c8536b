//! The `zonebreak` program. Everything is in the library; this only enters it.

use std::process::ExitCode;

/// Not musl's own: that has one lock for all threads, and maps and unmaps what is larger than a few pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    zonebreak::cli::root::main()
}
