//! The engines' errors as endings of a command: which exit code, and what to do.

use zonebreak_topology::{
    etcd::EtcdError,
    shift::{ShiftError, ShiftErrorKind},
};

use crate::exit::{Exit, Failure};

/// A drain that was not made.
pub fn shift(error: ShiftError) -> Failure {
    let exit = match error.kind() {
        ShiftErrorKind::Usage => Exit::Usage,
        ShiftErrorKind::Refused => Exit::Refused,
        ShiftErrorKind::Conflict => Exit::Conflict,
        ShiftErrorKind::Unreachable => Exit::Unreachable,
        ShiftErrorKind::Failed => Exit::Unexpected,
    };
    Failure::new(exit, format_args!("failed to {error}"))
}

/// An etcd that does not do what was asked.
pub fn etcd(error: EtcdError) -> Failure {
    Failure::new(etcd_exit(&error), format_args!("failed to {error}"))
}

/// The one place that says how an etcd error ends a command.
pub const fn etcd_exit(error: &EtcdError) -> Exit {
    match error {
        EtcdError::Options(_) | EtcdError::Certificates { .. } | EtcdError::Denied(_) => Exit::Usage,
        EtcdError::Unreachable { .. } => Exit::Unreachable,
        EtcdError::NotOwner { .. } => Exit::Refused,
        EtcdError::Failed(_) => Exit::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_etcd_did_not_take_ends_as_any_other_write() {
        for error in [
            || EtcdError::Denied("no".to_owned()),
            || EtcdError::Failed("no space".to_owned()),
            || EtcdError::Unreachable { endpoints: "a:1".to_owned(), why: "no route".to_owned() },
        ] {
            assert_eq!(shift(ShiftError::Etcd(error())), etcd(error()));
        }
    }
}
