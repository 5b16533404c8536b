//! The YAML of `snapshot export` and `import`. What is written is read back to the same bytes; what cannot be read is refused with
//! line and column.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_saphyr::Spanned;
use zonebreak_replication::{
    RESERVED,
    revision::Revision,
    snapshot::{Item, save::Contents},
};

use super::text::{compact, pretty};

const FORMAT: &str = "zonebreak/export/v1";

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What every key starts with.
    pub prefix: String,
    /// The keys.
    pub items: Vec<Item>,
    /// Times to live of their leases.
    pub leases: BTreeMap<i64, i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: Spanned<String>,
    prefix: String,
    #[serde(default, rename = "revision")]
    _revision: Option<i64>,
    keys: Vec<Spanned<Row>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    key: Option<String>,
    key_base64: Option<String>,
    json: Option<String>,
    text: Option<String>,
    base64: Option<String>,
    lease: Option<Lease>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    id: String,
    ttl: i64,
}

/// Contents as YAML.
pub fn write(prefix: &str, contents: &Contents) -> String {
    let mut out = format!("format: {FORMAT}\nprefix: {}\nrevision: {}\n", quoted(prefix), contents.revision);
    out += if contents.items.is_empty() { "keys: []\n" } else { "keys:\n" };
    for item in &contents.items {
        let _infallible = match readable(&item.key) {
            Some(key) => writeln!(out, "- key: {}", quoted(key)),
            None => writeln!(out, "- key_base64: {}", STANDARD.encode(&item.key)),
        };
        match readable(&item.value) {
            Some(text) => match pretty(text) {
                Some(json) => block(&mut out, "json", &json),
                None => text_of(&mut out, text),
            },
            None => out += &format!("  base64: {}\n", quoted(&STANDARD.encode(&item.value))),
        }
        if item.lease != 0 {
            let ttl = contents.leases.get(&item.lease).copied().unwrap_or(60);
            out += &format!("  lease: {{id: \"{:x}\", ttl: {ttl}}}\n", item.lease);
        }
    }
    out
}

/// Text that every YAML parser reads as it is.
fn readable(bytes: &[u8]) -> Option<&str> {
    let odd = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(odd))
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn text_of(out: &mut String, text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    let plain =
        |line: &&str| !line.is_empty() && !line.starts_with([' ', '\t']) && !line.ends_with([' ', '\t']);
    // Lines as lines where YAML has nothing to fold, indent or strip; otherwise on one line, escaped.
    if lines.len() > 1 && lines.iter().all(plain) {
        block(out, "text", text);
    } else {
        *out += &format!("  text: {}\n", quoted(text));
    }
}

fn block(out: &mut String, name: &str, text: &str) {
    *out += &format!("  {name}: |-\n");
    for line in text.split('\n') {
        *out += &format!("    {line}\n");
    }
}

/// Reads what `write` wrote, or somebody after it.
///
/// # Errors
/// `LINE:COLUMN: what is wrong there`.
pub fn read(text: &str) -> Result<Read, String> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        let message = message.strip_suffix(&format!(" at line {line}, column {column}")).unwrap_or(&message);
        format!("{line}:{column}: {message}")
    })?;
    if document.format.value != FORMAT {
        let at = document.format.referenced;
        let found = &document.format.value;
        return Err(format!(
            "{}:{}: the format is {found:?}, and this program knows {FORMAT}",
            at.line(),
            at.column()
        ));
    }
    let mut read = Read { prefix: document.prefix, items: Vec::new(), leases: BTreeMap::new() };
    let mut seen = BTreeSet::new();
    for row in document.keys {
        let at = row.referenced;
        let fail = |why: String| format!("{}:{}: {why}", at.line(), at.column());
        let (item, ttl) = row.value.item().map_err(fail)?;
        let key = item.key.escape_ascii();
        if !item.key.starts_with(read.prefix.as_bytes()) {
            return Err(fail(format!("the key {key} is not under the file's prefix {}", read.prefix)));
        }
        if item.key.starts_with(RESERVED.as_bytes()) {
            return Err(fail(format!("the key {key} is one of replication's own ({RESERVED})")));
        }
        if !seen.insert(item.key.clone()) {
            return Err(fail(format!("the key {key} comes twice")));
        }
        if let Some(ttl) = ttl {
            read.leases.insert(item.lease, ttl);
        }
        read.items.push(item);
    }
    Ok(read)
}

// === impl Row ===

impl Row {
    fn item(self) -> Result<(Item, Option<i64>), String> {
        let decode = |name: &str, text: &str| {
            STANDARD.decode(text.trim()).map_err(|error| format!("{name} is no base64: {error}"))
        };
        let key = match (self.key, self.key_base64) {
            (Some(key), None) => key.into_bytes(),
            (None, Some(key)) => decode("key_base64", &key)?,
            _ => return Err("a key has either `key` or `key_base64`".to_owned()),
        };
        let value = match (self.json, self.text, self.base64) {
            (Some(json), None, None) => {
                serde_json::from_str::<serde::de::IgnoredAny>(&json)
                    .map_err(|error| format!("the value of {} is no JSON: {error}", key.escape_ascii()))?;
                compact(&json).into_bytes()
            }
            (None, Some(text), None) => text.into_bytes(),
            (None, None, Some(text)) => decode("base64", &text)?,
            _ => {
                let key = key.escape_ascii();
                return Err(format!("the value of {key} is one of `json`, `text` and `base64`"));
            }
        };
        let (lease, ttl) = match self.lease {
            None => (0, None),
            Some(lease) => {
                let id = i64::from_str_radix(&lease.id, 16).ok().filter(|id| *id != 0);
                let id = id.ok_or_else(|| format!("a lease has a hexadecimal id, unlike {:?}", lease.id))?;
                (id, Some(lease.ttl))
            }
        };
        Ok((Item { key, value, modified: Revision(0), lease }, ttl))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zonebreak_replication::checkpoint::ClusterId;

    use super::*;

    fn contents(values: Vec<(Vec<u8>, Vec<u8>, i64)>) -> Contents {
        let items: BTreeMap<Vec<u8>, (Vec<u8>, i64)> = values
            .into_iter()
            .map(|(key, value, lease)| ([b"/p/", &key[..]].concat(), (value, lease)))
            .collect();
        let leases = items.values().filter(|it| it.1 != 0).map(|it| (it.1, it.1 + 7)).collect();
        let item = |(key, (value, lease))| Item { key, value, modified: Revision(0), lease };
        let items = items.into_iter().map(item).collect();
        Contents { cluster: ClusterId(1), revision: Revision(5), items, leases }
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            any::<String>().prop_map(String::into_bytes),
            "[ \t\na-c:#\\-|>'\"\\\\{}\\[\\],&*!%@`~?]{0,20}".prop_map(String::into_bytes),
            "(true|null|1e3|0x1|~|- a|a: b|=|<<|yes|2026-11-26)\n?".prop_map(String::into_bytes),
            prop::collection::btree_map("[a-z\"\\\\ ]{0,4}", any::<(i64, String)>(), 0..4)
                .prop_map(|map| serde_json::to_vec(&map).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_exported_is_imported_to_the_same_bytes(
            values in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..6), value(), 0_i64..3), 0..8),
        ) {
            let contents = contents(values);
            let text = write("/p/", &contents);
            let read = read(text.trim_end()).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(read.items, contents.items, "{}", text);
            prop_assert_eq!((read.prefix.as_str(), read.leases), ("/p/", contents.leases));
        }
    }

    #[test]
    fn a_value_is_shown_as_what_it_is() {
        let all = [
            (b"a".to_vec(), br#"{"x":1}"#.to_vec(), 0),
            (b"b".to_vec(), b"one\ntwo".to_vec(), 26),
            (b"c".to_vec(), vec![0], 0),
        ];
        let text = write("/p/", &contents(all.to_vec()));
        assert_eq!(
            text,
            "format: zonebreak/export/v1\nprefix: \"/p/\"\nrevision: 5\nkeys:\n- key: \"/p/a\"\n  json: |-\n    {\n      \"x\": 1\n    }\n\
             - key: \"/p/b\"\n  text: |-\n    one\n    two\n  lease: {id: \"1a\", ttl: 33}\n- key: \"/p/c\"\n  base64: \"AA==\"\n"
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_its_place() {
        let head = "format: zonebreak/export/v1\nprefix: /p/\nkeys:\n";
        for (rest, says) in [
            ("- key: /p/a\n  text: x\n- key: /q/b\n  text: x\n", "6:3: the key /q/b is not under"),
            ("- key: /p/a\n  text: x\n- key: /p/a\n  text: x\n", "6:3: the key /p/a comes twice"),
            ("- key: /p/a\n  text: x\n  base64: eA==\n", "4:3: the value of /p/a is one of"),
            ("- key: /p/a\n  json: '{'\n", "4:3: the value of /p/a is no JSON"),
            ("- key: /p/a\n  base64: '?'\n", "4:3: base64 is no base64"),
            ("- key: /p/a\n  text: x\n  lease: {id: zz, ttl: 3}\n", "4:3: a lease has a hexadecimal id"),
            ("- key: /p/a\n  txt: x\n", "5:3: "),
            ("- text: x\n", "4:3: a key has either"),
        ] {
            let error = read(&format!("{head}{rest}")).unwrap_err();
            assert!(error.starts_with(says), "{error:?} for {rest:?}");
        }
        let error = read("format: other\nprefix: /p/\nkeys: []\n").unwrap_err();
        assert!(error.starts_with("1:9: the format is \"other\""), "{error}");
        let error = read(
            "format: zonebreak/export/v1\nprefix: /\nkeys:\n- key: /zonebreak/v1/replication/x\n  text: y\n",
        );
        assert!(error.unwrap_err().contains("replication's own"));
    }
}
