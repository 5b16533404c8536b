//! JSON laid out for people, and back: whitespace outside of strings comes and goes, every other byte stays. So what is laid out
//! and laid in again is the same text, whatever its numbers and duplicate names.

/// The text without whitespace outside of strings.
pub fn compact(text: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if !quoted && matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        }
        (quoted, escaped) = match (quoted, escaped, c) {
            (true, false, '\\') => (true, true),
            (_, false, '"') => (!quoted, false),
            _ => (quoted, false),
        };
        out.push(c);
    }
    out
}

/// JSON laid out over lines; `None` when it is no object or list, or when laying it in would not make the same text of it.
pub fn pretty(text: &str) -> Option<String> {
    let is_compound = text.starts_with(['{', '[']) && text.len() > 2;
    if !is_compound || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() || compact(text) != text {
        return None;
    }
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let mut before = ' ';
    for c in text.chars() {
        if quoted {
            (quoted, escaped) = (escaped || c != '"', !escaped && c == '\\');
            out.push(c);
        } else {
            match c {
                '{' | '[' => {
                    out.push(c);
                    depth += 1;
                    line(&mut out, depth);
                }
                '}' | ']' => {
                    depth = depth.saturating_sub(1);
                    if matches!(before, '{' | '[') {
                        // An empty one stays on its line.
                        out.truncate(out.trim_end().len());
                    } else {
                        line(&mut out, depth);
                    }
                    out.push(c);
                }
                ',' => {
                    out.push(c);
                    line(&mut out, depth);
                }
                ':' => out.push_str(": "),
                _ => {
                    quoted = c == '"';
                    out.push(c);
                }
            }
        }
        before = c;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_and_in_again() {
        let text = r#"{"a":[1,{"b":"x: {\" [,"},[],{}],"c":1.50,"c":"\\"}"#;
        let laid_out = pretty(text).unwrap();
        assert_eq!(
            laid_out,
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x: {\\\" [,\"\n    },\n    [],\n    {}\n  ],\n  \"c\": 1.50,\n  \"c\": \"\\\\\"\n}"
        );
        assert_eq!(compact(&laid_out), text);
        for other in ["{ }", "1", "\"x\"", "{\"a\": 1}", "{a:1}", "{}", "[1"] {
            assert_eq!(pretty(other), None, "{other}");
        }
    }
}
