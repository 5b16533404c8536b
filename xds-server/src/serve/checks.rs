//! The health checks as Kubernetes and people read them: each part by name, and one verdict. Judges what it is told; asks
//! nobody.
//!
//! A check that is *degraded* is shown and does not fail the whole: a control plane that has lost etcd still serves the last
//! good state, and taking it out of its Service would take that away from the proxies too. What fails readiness is only what
//! makes the server useless: nothing loaded yet, or nobody listening.

use std::fmt::Write as _;

/// One part's condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, for `?exclude=NAME`.
    pub name: &'static str,
    /// How it is.
    pub condition: Condition,
}

/// How a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Ok,
    /// Something is wrong that does not make the server useless.
    Degraded(String),
    /// The server cannot do its work.
    Failed(String),
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the probe passes.
    pub passed: bool,
    /// What to print.
    pub body: String,
}

// === impl Check ===

impl Check {
    /// A part in this condition.
    pub fn new(name: &'static str, condition: Condition) -> Self {
        Self { name, condition }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Judges all checks of `probe` but the `excluded` ones. A failure always prints every part, as Kubernetes' own
    /// endpoints do; success prints `ok` unless more was asked for.
    pub fn of(probe: &str, checks: &[Check], excluded: &[String], verbose: bool) -> Self {
        let (mut passed, mut lines) = (true, String::new());
        // Writing to a string cannot fail.
        let mut line = |sign: char, name: &str, text: &str| {
            let _infallible = writeln!(lines, "[{sign}]{name} {text}");
        };
        for Check { name, condition } in checks {
            match condition {
                _ if excluded.iter().any(|excluded| excluded == name) => line('+', name, "excluded: ok"),
                Condition::Ok => line('+', name, "ok"),
                Condition::Degraded(why) => line('~', name, &format!("degraded: {why}")),
                Condition::Failed(why) => {
                    passed = false;
                    line('-', name, &format!("failed: {why}"));
                }
            }
        }
        for unknown in excluded.iter().filter(|excluded| checks.iter().all(|check| check.name != *excluded)) {
            line('~', unknown, "there is no such check to exclude");
        }
        let body = match (passed, verbose) {
            (true, false) => "ok".to_owned(),
            (true, true) => format!("{lines}{probe} check passed\n"),
            (false, _) => format!("{lines}{probe} check failed\n"),
        };
        Self { passed, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::new("etcd", Condition::Degraded("connection lost".to_owned())),
            Check::new("topology", Condition::Failed("nothing was loaded yet".to_owned())),
            Check::new("xds", Condition::Ok),
        ]
    }

    #[test]
    fn a_failure_names_its_part_even_when_not_verbose() {
        let verdict = Verdict::of("readyz", &checks(), &[], false);
        assert!(!verdict.passed);
        let lines =
            "[~]etcd degraded: connection lost\n[-]topology failed: nothing was loaded yet\n[+]xds ok\n";
        assert_eq!(verdict.body, format!("{lines}readyz check failed\n"));
    }

    #[test]
    fn an_excluded_part_does_not_count() {
        let excluded = ["topology".to_owned(), "dsik".to_owned()];
        let verdict = Verdict::of("readyz", &checks(), &excluded, true);
        assert!(verdict.passed);
        assert!(verdict.body.contains("[+]topology excluded: ok"), "{}", verdict.body);
        assert!(verdict.body.contains("[~]dsik there is no such check"), "{}", verdict.body);
        assert_eq!(Verdict::of("readyz", &checks(), &excluded, false).body, "ok");
    }
}
