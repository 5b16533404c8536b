//! Reads the configuration from its layers, each over the one before: defaults, the file, the environment, flags; and
//! remembers where each value came from. Starts nothing.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use serde_path_to_error::Track;
use zonebreak_topology::{
    advice::{self, yaml},
    near,
};

use super::{
    error::ConfigError,
    keys::{KEYS, Key},
    schema::Config,
};

/// Where a configuration is read from. Kept by a running server, which reads it again.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The process's environment; only `ZONEBREAK_SECTION__KEY` matters.
    pub environment: Vec<(String, String)>,
    /// What flags say.
    pub flags: Vec<Override>,
}

/// One value given by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The flag, as typed.
    pub flag: &'static str,
    /// The key it sets.
    pub path: &'static str,
    /// The value.
    pub value: String,
}

/// Where a value came from; later ones win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File(PathBuf),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
}

/// What a command cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// Exactly one source of the topology.
    Source,
    /// The same, unless the file is for replication and snapshots alone.
    SourceIfServed,
    /// An etcd.
    Etcd,
    /// Nothing.
    Nothing,
}

/// The configuration in force and where each value came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The values.
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

// === impl Layers ===

impl Layers {
    /// The layers of this process: `file`, the environment, `flags`.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Override>) -> Self {
        // Variables that are not UTF-8 cannot be ours: every name and value of ours is text.
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { file, environment: environment.collect(), flags }
    }

    /// Reads and checks all layers.
    ///
    /// # Errors
    /// The first value that cannot be used, by file, line and column or by the name of its variable or flag.
    pub fn load(&self, requirement: Requirement) -> Result<Effective, ConfigError> {
        let mut effective = match &self.file {
            Some(path) => Effective::of_file(path)?,
            None => Effective { config: Config::default(), origins: BTreeMap::new() },
        };
        for (variable, value) in &self.environment {
            if let Some(key) = key_of(variable)? {
                effective.set(key, value, Origin::Environment(variable.clone()))?;
            }
        }
        for Override { flag, path, value } in &self.flags {
            if let Some(key) = Key::find(path) {
                effective.set(key, value, Origin::Flag(flag))?;
            }
        }
        effective.check(requirement)?;
        Ok(effective)
    }
}

/// The key that a variable names; `None` for a variable that is none of ours.
fn key_of(variable: &str) -> Result<Option<&'static Key>, ConfigError> {
    // One underscore names no key (ZONEBREAK_SERVER belongs to the client commands).
    if !variable.strip_prefix("ZONEBREAK_").is_some_and(|rest| rest.contains("__")) {
        return Ok(None);
    }
    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let found = KEYS.iter().find(|key| key.variable() == variable);
    found.map(Some).ok_or_else(|| ConfigError::UnknownVariable {
        variable: variable.to_owned(),
        near: near::did_you_mean(variable, known.iter().map(String::as_str)),
    })
}

// === impl Effective ===

impl Effective {
    fn of_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let mut config: Config = parse(path, &text, &sample())?;
        let present: Value = parse(path, &text, &Value::Null)?;
        let set = |key: &&Key| present.pointer(&format!("/{}", key.path.replacen('.', "/", 1))).is_some();
        let origins = KEYS.iter().filter(set).map(|key| (key.path, Origin::File(path.to_owned()))).collect();
        // A file that moves takes its neighbours along: its relative paths start where it lies.
        let home = path.parent().unwrap_or(Path::new(""));
        let etcd = &mut config.etcd;
        let relative = [
            &mut etcd.ca_file,
            &mut etcd.cert_file,
            &mut etcd.key_file,
            &mut etcd.password_file,
            &mut config.xds.cert_file,
            &mut config.xds.key_file,
            &mut config.xds.client_ca_file,
            &mut config.topology.file,
            &mut config.filter.file,
        ];
        for file in relative
            .into_iter()
            .flatten()
            .chain(config.replicate.files())
            .chain([&mut config.snapshots.directory])
        {
            *file = home.join(&*file);
        }
        Ok(Self { config, origins })
    }

    fn set(&mut self, key: &'static Key, value: &str, origin: Origin) -> Result<(), ConfigError> {
        key.set(&mut self.config, value)
            .map_err(|message| ConfigError::Value { origin: origin.to_string(), message })?;
        self.origins.insert(key.path, origin);
        Ok(())
    }

    /// Where the value of a key came from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }

    fn check(&mut self, requirement: Requirement) -> Result<(), ConfigError> {
        let config = &mut self.config;
        let (etcd, xds) = (&config.etcd, &config.xds);
        let pairs = [
            ("etcd.user", etcd.user.is_some(), "etcd.password_file", etcd.password_file.is_some()),
            ("etcd.cert_file", etcd.cert_file.is_some(), "etcd.key_file", etcd.key_file.is_some()),
            ("xds.cert_file", xds.cert_file.is_some(), "xds.key_file", xds.key_file.is_some()),
        ];
        for (one, has_one, other, has_other) in pairs {
            match (has_one, has_other) {
                (true, false) => return Err(ConfigError::Pair { given: one, missing: other }),
                (false, true) => return Err(ConfigError::Pair { given: other, missing: one }),
                _ => {}
            }
        }
        if xds.client_ca_file.is_some() && xds.cert_file.is_none() {
            return Err(ConfigError::Value {
                origin: "xds.client_ca_file".to_owned(),
                message: "clients show a certificate to a server that has one: set xds.cert_file and xds.key_file as well"
                    .to_owned(),
            });
        }
        if config.filter.sha256.is_some() && config.filter.file.is_none() {
            return Err(ConfigError::Pair { given: "filter.sha256", missing: "filter.file" });
        }
        let (has_etcd, has_file) = (!config.etcd.endpoints.is_empty(), config.topology.file.is_some());
        match requirement {
            Requirement::Etcd if !has_etcd => Err(ConfigError::NoEtcd),
            Requirement::SourceIfServed if !has_etcd && !has_file && self.only_carries() => Ok(()),
            Requirement::Source | Requirement::SourceIfServed if !has_etcd && !has_file => {
                Err(ConfigError::NoSource)
            }
            Requirement::Source | Requirement::SourceIfServed if has_etcd && has_file => self.one_source(),
            _ => Ok(()),
        }
    }

    /// Whether something was said, and nothing of it is for a server.
    fn only_carries(&self) -> bool {
        let carries = |path: &str| {
            ["replicate.", "snapshots.", "health.", "log."].iter().any(|section| path.starts_with(section))
        };
        let ours = |path: &str| path.starts_with("replicate.") || path.starts_with("snapshots.");
        self.origins.keys().all(|path| carries(path)) && self.origins.keys().any(|path| ours(path))
    }

    /// The source that was named closer to the command line wins: `--topology` beats an etcd in the environment.
    fn one_source(&mut self) -> Result<(), ConfigError> {
        let (etcd, file) = (self.origin("etcd.endpoints").clone(), self.origin("topology.file").clone());
        match etcd.rank().cmp(&file.rank()) {
            std::cmp::Ordering::Less => self.config.etcd.endpoints.clear(),
            std::cmp::Ordering::Greater => self.config.topology.file = None,
            std::cmp::Ordering::Equal => {
                return Err(ConfigError::TwoSources { etcd: etcd.to_string(), file: file.to_string() });
            }
        }
        Ok(())
    }
}

/// Reads this YAML, which is from there. Complaints take their examples from `sample`.
pub fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    text: &str,
    sample: &Value,
) -> Result<T, ConfigError> {
    let mut track = Track::new();
    let read = serde_saphyr::with_deserializer_from_str(text, |reader| {
        T::deserialize(serde_path_to_error::Deserializer::new(reader, &mut track))
    });
    read.map_err(|error| {
        let (line, column) = yaml::position(&error).unwrap_or((1, 1));
        let message = advice::advise(&yaml::words(&error, text), &track.path(), sample);
        ConfigError::Parse { path: path.to_owned(), line, column, message, snippet: snippet(&error) }
    })
}

/// The place in the file, for people.
fn snippet(error: &serde_saphyr::Error) -> String {
    // The parser's own first lines, and its last word at the place, repeat the message and name the file "<input>".
    let rendered = error.render();
    let shown =
        rendered.split_once("-->").and_then(|(_, rest)| rest.split_once('\n')).map_or("", |(_, it)| it);
    let bare = |line: &str| match line.split_once("| ") {
        Some((number, mark)) if number.trim().is_empty() => {
            let arrow = mark.rfind('^').map_or(mark, |end| &mark[..=end]);
            format!("{number}| {arrow}\n")
        }
        _ => format!("{line}\n"),
    };
    shown.lines().map(bare).collect::<String>().trim_end().to_owned()
}

/// A configuration in which what has no default is as it may be written.
fn sample() -> Value {
    let mut sample = serde_json::to_value(Config::default()).unwrap_or_default();
    for (at, value) in [
        ("/etcd/endpoints", json!(["http://10.0.0.1:2379"])),
        ("/topology/file", json!("topology.yaml")),
        ("/state/dir", json!("/var/lib/zonebreak/state")),
        ("/replicate/source", json!(["http://10.1.0.1:2379"])),
        ("/replicate/destination", json!(["http://10.2.0.1:2379"])),
    ] {
        if let Some(there) = sample.pointer_mut(at) {
            *there = value;
        }
    }
    sample
}

// === impl Origin ===

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => write!(f, "${variable}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}
