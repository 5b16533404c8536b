//! Where the programs are that a lab runs: named by the environment, else at their places in the workspace. Only looks;
//! never fetches or builds, but says which command does.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::LabError;

/// A program or module that a lab needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The control plane (`ZONEBREAK_BIN`).
    Zonebreak,
    /// The filter as a wasm module (`ZONEBREAK_FILTER`).
    Filter,
    /// An empty filter, for a benchmark (`EMPTY_FILTER`).
    EmptyFilter,
    /// The proxy (`ENVOY`).
    Envoy,
    /// The store (`ETCD`).
    Etcd,
    /// Its command line, with its own mirror (`ETCDCTL`).
    Etcdctl,
    /// Its tool for files (`ETCDUTL`).
    Etcdutl,
}

/// Finds the programs of one workspace and one build profile.
#[derive(Debug, Clone)]
pub struct Programs {
    workspace: PathBuf,
    /// Cargo's target folder.
    target: PathBuf,
    /// Folder of the running program inside it, such as `debug`.
    profile: PathBuf,
    /// Goes before all other places of the filter.
    filter: Option<PathBuf>,
    /// The same of the store.
    etcd: Option<PathBuf>,
}

// === impl Tool ===

impl Tool {
    /// The environment variable that names another one.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Zonebreak => "ZONEBREAK_BIN",
            Self::Filter => "ZONEBREAK_FILTER",
            Self::EmptyFilter => "EMPTY_FILTER",
            Self::Envoy => "ENVOY",
            Self::Etcd => "ETCD",
            Self::Etcdctl => "ETCDCTL",
            Self::Etcdutl => "ETCDUTL",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Zonebreak => "the control plane (zonebreak)",
            Self::Filter => "the filter (zonebreak_filter.wasm)",
            Self::EmptyFilter => "the empty filter (empty_filter.wasm)",
            Self::Envoy => "envoy",
            Self::Etcd => "etcd",
            Self::Etcdctl => "etcdctl",
            Self::Etcdutl => "etcdutl",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::Zonebreak | Self::Filter => "scripts/build",
            Self::EmptyFilter => "scripts/bench-overhead",
            Self::Envoy | Self::Etcd | Self::Etcdctl | Self::Etcdutl => "scripts/setup",
        }
    }
}

// === impl Programs ===

impl Programs {
    /// The workspace around the running program, or else around the current directory.
    pub fn find() -> Result<Self, LabError> {
        let exe = env::current_exe().map_err(LabError::io("find the running program"))?;
        let here = env::current_dir().map_err(LabError::io("find the current directory"))?;
        let workspace = exe
            .ancestors()
            .chain(here.ancestors())
            .find(|folder| folder.join("scripts/tools.lock").is_file())
            .ok_or_else(|| LabError::NoWorkspace { from: exe.clone() })?
            .to_owned();
        // Programs lie in target/PROFILE, tests in target/PROFILE/deps, examples in target/PROFILE/examples.
        let mut profile = exe.parent().unwrap_or(Path::new(".")).to_owned();
        if profile.ends_with("deps") || profile.ends_with("examples") {
            profile.pop();
        }
        let mut target = profile.parent().unwrap_or(&workspace).to_owned();
        // What is built for a target of its own lies one folder deeper.
        if target.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-unknown-linux-musl")) {
            target.pop();
        }
        Ok(Self { workspace, target, profile, filter: None, etcd: None })
    }

    /// With another filter than the workspace's: one that was built for a test.
    #[must_use]
    pub fn with_filter(self, module: PathBuf) -> Self {
        Self { filter: Some(module), ..self }
    }

    /// With another etcd than the workspace's: one of another version.
    #[must_use]
    pub fn with_etcd(self, program: PathBuf) -> Self {
        Self { etcd: Some(program), ..self }
    }

    /// The checkout.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Where the tool is; an error that names the remedy when it is not there.
    pub fn path(&self, tool: Tool) -> Result<PathBuf, LabError> {
        if let (Tool::Filter, Some(other), _) | (Tool::Etcd, _, Some(other)) =
            (tool, &self.filter, &self.etcd)
        {
            return Ok(other.clone());
        }
        let path = match env::var_os(tool.variable()).filter(|value| !value.is_empty()) {
            // Children run in other folders, so a relative name is settled here.
            Some(named) => {
                env::current_dir().map_err(LabError::io("find the current directory"))?.join(named)
            }
            None => self.default_path(tool),
        };
        if path.is_file() {
            return Ok(path);
        }
        Err(LabError::Missing { what: tool.name(), path, remedy: tool.remedy(), variable: tool.variable() })
    }

    fn default_path(&self, tool: Tool) -> PathBuf {
        match tool {
            Tool::Zonebreak => self.newest_server(),
            Tool::Filter => self.target.join("zonebreak_filter.wasm"),
            Tool::EmptyFilter => self.target.join("empty_filter.wasm"),
            Tool::Envoy => self.workspace.join(".tools/bin/envoy"),
            Tool::Etcd => self.workspace.join(".tools/bin/etcd"),
            Tool::Etcdctl => self.workspace.join(".tools/bin/etcdctl"),
            Tool::Etcdutl => self.workspace.join(".tools/bin/etcdutl"),
        }
    }

    /// The static file of `scripts/build`, or what cargo built beside the running program: whichever is newer, so that
    /// nobody tests yesterday's server.
    fn newest_server(&self) -> PathBuf {
        let shipped = format!("{}-unknown-linux-musl/release/zonebreak", env::consts::ARCH);
        let shipped = self.target.join(shipped);
        let beside = self.profile.join("zonebreak");
        let built = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
        if built(&beside) > built(&shipped) { beside } else { shipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_command_that_makes_it() {
        let mut programs = Programs::find().unwrap();
        programs.target = PathBuf::from("nowhere");
        programs.profile = PathBuf::from("nowhere/debug");
        let error = programs.path(Tool::Zonebreak).unwrap_err().to_string();
        assert!(error.contains("nowhere/") && error.contains("/release/zonebreak"), "{error}");
        assert!(error.contains("`scripts/build`") && error.contains("ZONEBREAK_BIN"), "{error}");
    }

    #[test]
    fn the_tools_of_the_workspace_are_found() {
        let programs = Programs::find().unwrap();
        assert!(programs.path(Tool::Envoy).unwrap().is_file());
        assert!(programs.workspace().join("Cargo.toml").is_file());
    }
}
