//! The `zonebreak` program. Everything is in the library; this only enters it.

use std::process::ExitCode;

fn main() -> ExitCode {
    zonebreak::cli::root::main()
}
