//! The etcds that figures are measured on: the pinned one, and a newer one where it has been built. Finds them and asks their
//! versions; starts none.

use std::{path::PathBuf, process::Command};

use anyhow::Context as _;

use crate::lab::{Lab, LabError, Programs, Tool};

/// Where `scripts/etcd 3.6` leaves what it has built, from the top of the checkout.
const NEWER: &str = ".tools/bin/etcd-3.6";

/// One etcd program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    program: PathBuf,
    /// Its version, such as 3.5.1.
    pub version: String,
}

// === impl Server ===

impl Server {
    /// The pinned etcd, or the one that `ETCD` names.
    ///
    /// # Errors
    /// When it is not there or does not run.
    pub fn pinned() -> anyhow::Result<Self> {
        Self::of(Programs::find()?.path(Tool::Etcd)?)
    }

    /// A newer one, where `scripts/etcd 3.6` has built it.
    ///
    /// # Errors
    /// When it is there and does not run.
    pub fn newer() -> anyhow::Result<Option<Self>> {
        let program = Programs::find()?.workspace().join(NEWER);
        program.is_file().then(|| Self::of(program)).transpose()
    }

    fn of(program: PathBuf) -> anyhow::Result<Self> {
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .with_context(|| format!("failed to run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let version = version
            .with_context(|| format!("failed to read the version of {}: {text:?}", program.display()))?
            .to_owned();
        Ok(Self { program, version })
    }

    /// A lab whose etcds are this one.
    pub(super) fn lab(&self) -> Result<Lab, LabError> {
        Lab::with(Programs::find()?.with_etcd(self.program.clone()))
    }
}
