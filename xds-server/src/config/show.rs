//! Prints the configuration as the YAML that the server reads, with a comment beside each key. Reads nothing.

use serde_json::{Value, json};

use super::{
    keys::{KEYS, Key},
    load::Effective,
    schema::Config,
};

/// Every key with its default and its meaning: a file to start from.
pub fn defaults() -> String {
    render(&Config::default(), |path| {
        KEYS.iter().find(|key| key.path == path).map_or("", |key| key.doc).to_owned()
    })
}

/// Every key with the value in force and where it came from.
pub fn effective(effective: &Effective) -> String {
    render(&effective.config, |path| effective.origin(path).to_string())
}

/// The same for programs: an object of `section.key` to `{value, from}`.
pub fn settings(effective: &Effective) -> Value {
    let row = |key: &Key| json!({"value": key.get(&effective.config), "from": effective.origin(key.path).to_string()});
    KEYS.iter().map(|key| (key.path.to_owned(), row(key))).collect()
}

fn render(config: &Config, comment: impl Fn(&str) -> String) -> String {
    let rows: Vec<(&str, &str, String, &str)> = KEYS
        .iter()
        .map(|key| {
            let (section, name) = key.path.split_once('.').unwrap_or(("", key.path));
            (section, name, key.get(config).to_string(), key.path)
        })
        .collect();
    // Long values stand out of the column rather than push it away.
    let width = rows.iter().map(|(_, name, value, _)| name.len() + value.len()).max().unwrap_or(0).min(36);
    let (mut out, mut last) = (String::new(), "");
    for (section, name, value, path) in rows {
        if section != last {
            out.push_str(&format!("{section}:\n"));
            last = section;
        }
        // JSON is YAML, so a quoted value reads back as it is.
        let pad = width.saturating_sub(name.len() + value.len());
        out.push_str(&format!("  {name}: {value}{:pad$}  # {}\n", "", comment(path)));
    }
    out
}
