//! The one directory of a lab: configurations, data and logs of its children. Gone when the lab is dropped, unless asked to
//! stay. Owns no process.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use super::{LabError, paths::Programs};

/// A temporary directory and the programs to run in it. Cheap to clone; the last clone removes the directory, and every
/// child holds one.
///
/// `ZONEBREAK_LAB_KEEP=1` leaves the directory in place, for a look at the logs.
#[derive(Debug, Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: TempDir,
    programs: Programs,
}

// === impl Lab ===

impl Lab {
    /// A fresh directory under the temporary folder (`TMPDIR`, which the scripts put into the checkout), with the programs of this workspace.
    pub fn new() -> Result<Self, LabError> {
        Self::with(Programs::find()?)
    }

    /// The same with other programs.
    pub fn with(programs: Programs) -> Result<Self, LabError> {
        let mut dir = tempfile::Builder::new()
            .prefix("zonebreak-lab-")
            .tempdir()
            .map_err(LabError::io("make the lab's temporary directory"))?;
        dir.disable_cleanup(
            std::env::var_os("ZONEBREAK_LAB_KEEP").is_some_and(|v| !v.is_empty() && v != "0"),
        );
        Ok(Self { inner: Arc::new(Inner { dir, programs }) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.inner.dir.path()
    }

    /// What the lab runs.
    pub fn programs(&self) -> &Programs {
        &self.inner.programs
    }

    /// Writes a file of the lab, whole or not at all, and says where it is.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.path().join(name);
        let part = self.path().join(format!(".{name}.part"));
        // Renamed into place, because a child may be watching the file.
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(LabError::io(format!("write {}", path.display())))?;
        Ok(path)
    }
}
