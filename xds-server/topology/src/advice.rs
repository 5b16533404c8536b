//! A parser's complaint in words that help: which field it is about, what somebody may have meant, and how a value of it is written.
//! Works on what serde's readers say, whatever the format; reads nothing itself.

pub mod yaml;

use serde_json::Value;
pub use serde_path_to_error::Path;
use serde_path_to_error::Segment;

use crate::near;

/// The parser's `message` about what stands at `path`, with the field before it and advice behind it. `sample` is a value of the whole
/// in which every field is as it may be written.
pub fn advise(message: &str, path: &Path, sample: &Value) -> String {
    let mut names: Vec<&str> = path.iter().map_while(name).collect();
    let mut field = path.to_string();
    let complaint = Complaint::of(message);
    let advice = match &complaint {
        Complaint::Field(written, known) => {
            // Where the unknown one stands says more than its name, which is said anyway.
            field = field.strip_suffix(written).unwrap_or(&field).to_owned();
            match near::offer(&elsewhere(sample, written)) {
                none if none.is_empty() => near::did_you_mean(written, known.iter().copied()),
                there => there,
            }
        }
        Complaint::Variant(written, known) => {
            let meant = near::did_you_mean(written, known.iter().copied());
            // A choice that has a value of its own is not told by its name.
            let whole = at(sample, &names).is_some_and(|(_, value)| value.is_object());
            if whole { format!("{}{meant}", example(sample, &names)) } else { meant }
        }
        Complaint::Missing(missing) => {
            names.push(missing);
            example(sample, &names)
        }
        // Of the wrong kind. Other complaints say themselves what is allowed, or are about the text as a whole.
        Complaint::Other
            if ["must be", "invalid type", "invalid value"].iter().any(|it| message.starts_with(it)) =>
        {
            example(sample, &names)
        }
        Complaint::Other => String::new(),
    };
    let field = match field.trim_end_matches(['.', '?']) {
        "" => String::new(),
        field => format!("{field}: "),
    };
    format!("{field}{}{advice}", plain(message))
}

/// What a reader complains about.
enum Complaint<'a> {
    /// A field that it does not know, and those that it does.
    Field(&'a str, Vec<&'a str>),
    /// A word that it does not know, and those that it does.
    Variant(&'a str, Vec<&'a str>),
    /// A field that is not there.
    Missing(&'a str),
    /// Anything else.
    Other,
}

// === impl Complaint ===

impl<'a> Complaint<'a> {
    fn of(message: &'a str) -> Self {
        let quoted = message.split('`').nth(1);
        let known = || {
            let (_, known) = message.split_once(", expected ").unwrap_or_default();
            let known =
                known.strip_prefix("one of ").unwrap_or(known).split([',', ' ']).filter(|word| *word != "or");
            known.map(|word| word.trim_matches('`')).filter(|word| !word.is_empty()).collect()
        };
        match quoted {
            Some(written) if message.starts_with("unknown field") => Self::Field(written, known()),
            Some(written) if message.starts_with("unknown variant") => Self::Variant(written, known()),
            Some(missing) if message.starts_with("missing field") => Self::Missing(missing),
            _ => Self::Other,
        }
    }
}

/// Rust's names for kinds of number as people call them.
fn plain(message: &str) -> String {
    let kinds = [
        ("u16", "a whole number from 0 to 65535"),
        ("u32", "a whole number"),
        ("u64", "a whole number"),
        ("usize", "a whole number"),
        ("f64", "a number"),
        ("a boolean", "true or false"),
    ];
    let named = kinds.iter().find_map(|(kind, words)| {
        Some(format!("{}expected {words}", message.strip_suffix(&format!("expected {kind}"))?))
    });
    named.unwrap_or_else(|| message.to_owned())
}

/// The name of a field; nothing at a place in a list.
fn name(segment: &Segment) -> Option<&str> {
    if let Segment::Map { key } = segment { Some(key) } else { None }
}

/// The last of these names that the sample has one below the other, and what stands there.
fn at<'a>(sample: &'a Value, names: &[&'a str]) -> Option<(&'a str, &'a Value)> {
    let mut found = None;
    let mut value = sample;
    for name in names {
        let Some(inner) = value.get(name) else { break };
        (found, value) = (Some((*name, inner)), inner);
    }
    found
}

/// Fields of that very name one level down: whoever wrote it a level too high is told where it belongs.
fn elsewhere(sample: &Value, written: &str) -> Vec<String> {
    let outer = sample.as_object().into_iter().flatten();
    let there = outer.filter(|(_, inner)| inner.get(written).is_some());
    there.map(|(name, _)| format!("{name}.{written}")).collect()
}

/// How the field is written, or the nearest above it that the sample has; as the end of a message.
fn example(sample: &Value, names: &[&str]) -> String {
    match at(sample, names) {
        Some((name, value)) if !is_empty(value) => format!(", as in {name}: {}", written(value)),
        _ => String::new(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A value as YAML, in one line: JSON is that. Of many fields two show how it is done.
fn written(value: &Value) -> String {
    let some = |value: &Value| {
        value
            .as_object()
            .map(|map| map.iter().take(2).map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>())
    };
    match (value, some(value)) {
        (_, Some(fields)) => format!("{{{}}}", fields.join(", ")),
        (Value::String(text), _)
            if text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./ ".contains(c)) =>
        {
            text.clone()
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "what is read is not looked at")]
    struct Outer {
        inner: Inner,
        list: Vec<u16>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "what is read is not looked at")]
    struct Inner {
        mode: Mode,
        port: u16,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Strong,
        Eventual,
    }

    #[test]
    fn a_complaint_says_which_field_and_what_is_meant() {
        let sample = json!({"inner": {"mode": "strong", "port": 80}, "list": [1, 2]});
        for (text, says) in [
            (
                r#"{"inner": {"mode": "strog"}}"#,
                "inner.mode: unknown variant `strog`, expected `strong` or `eventual`; did you mean \"strong\"?",
            ),
            (
                r#"{"inner": {"prot": 1}}"#,
                "inner: unknown field `prot`, expected `mode` or `port`; did you mean \"port\"?",
            ),
            (r#"{"innr": {}}"#, "unknown field `innr`, expected `inner` or `list`; did you mean \"inner\"?"),
            (
                r#"{"inner": {"port": "x"}}"#,
                "inner.port: invalid type: string \"x\", expected a whole number from 0 to 65535, as in port: 80",
            ),
            (
                r#"{"port": 1}"#,
                "unknown field `port`, expected `inner` or `list`; did you mean \"inner.port\"?",
            ),
            (r#"{"inner": {"mode": "strong"}}"#, "inner: missing field `port`, as in port: 80"),
            (
                r#"{"list": [1, "x"]}"#,
                "list[1]: invalid type: string \"x\", expected a whole number from 0 to 65535, as in list: [1,2]",
            ),
            ("[]", "invalid length 0, expected struct Outer with 2 elements"),
        ] {
            let mut reader = serde_json::Deserializer::from_str(text);
            let error = serde_path_to_error::deserialize::<_, Outer>(&mut reader).unwrap_err();
            let message = error.inner().to_string();
            let message = message.split(" at line").next().unwrap();
            assert_eq!(advise(message, error.path(), &sample), says);
        }
    }
}
