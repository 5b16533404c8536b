//! What the YAML parser says, in words for somebody who wrote a file and knows no parser: what must stand there, what does, and what
//! broke it. Never reads a value itself.

/// Where in a text, by line and column from 1.
pub type Position = (u32, u32);

/// The parser's words without its position, which is said in a place of its own, and without its advice to programmers.
pub fn words(error: &serde_saphyr::Error, text: &str) -> String {
    let whole = error.without_snippet().to_string();
    let line = whole.lines().next().unwrap_or_default();
    let at = position(error);
    let tail = at.map(|(line, column)| format!(" at line {line}, column {column}"));
    let line = tail.and_then(|tail| line.strip_suffix(&tail)).unwrap_or(line);
    let found = || found(text, at);
    match line {
        "invalid u16" => format!("must be a whole number from 0 to 65535{}", found()),
        "invalid u32" | "invalid u64" | "invalid usize" => {
            format!("must be a whole number, 0 or more{}", found())
        }
        "invalid floating point" => format!("must be a number{}", found()),
        "invalid boolean" => format!("must be true or false{}", found()),
        "expected mapping start" => format!("must be a mapping{}", found()),
        "expected sequence start" => format!("must be a list{}", found()),
        "mapping values are not allowed in this context" => {
            "a second ': ' in one line; a text that holds one is written in quotes".to_owned()
        }
        _ if line.starts_with("multiple YAML documents detected") => {
            "a second document begins, and a file is one: take out the line ---".to_owned()
        }
        _ if line.starts_with("tabs disallowed") => "a tab, and YAML is indented with spaces".to_owned(),
        _ if line.ends_with("did not find expected key") => {
            format!("{line}; is this line indented as those beside it?")
        }
        _ => {
            // An option of the parser is no advice to someone who writes a file.
            let line = line.strip_suffix(", set DuplicateKeyPolicy in Options if acceptable").unwrap_or(line);
            let unclosed = at.and_then(|at| unclosed(text, at)).filter(|_| error_of_brackets(line));
            let unclosed = unclosed.map(|(bracket, (line, column))| {
                format!("; the {bracket} of line {line} column {column} is not closed")
            });
            format!("{line}{}", unclosed.unwrap_or_default())
        }
    }
}

/// Where the parser was, if it says so.
pub fn position(error: &serde_saphyr::Error) -> Option<Position> {
    let at = error.location()?;
    u32::try_from(at.line()).ok().zip(u32::try_from(at.column()).ok()).filter(|(line, _)| *line > 0)
}

/// Whether a bracket that is never closed may be behind it.
fn error_of_brackets(line: &str) -> bool {
    line.contains("parsing a flow ") || line.contains("illegal placement")
}

/// What stands there, up to the end of the value or the line; as the end of a message.
fn found(text: &str, at: Option<Position>) -> String {
    let from = at.and_then(|at| from(text, at)).unwrap_or_default();
    let value = from.lines().next().unwrap_or_default();
    let value = value.split([',', '}', ']']).next().unwrap_or_default();
    let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    match value.split_once(':') {
        _ if value.is_empty() || value.starts_with(['-', '[', '{', '|', '>']) && !is_number(value) => {
            String::new()
        }
        // `mode:strong` is one text to YAML.
        Some((name, rest)) if !rest.is_empty() && !rest.starts_with([' ', '/']) => {
            format!(", not {value:?}; a space is missing after \"{name}:\"")
        }
        _ => format!(", not {value:?}"),
    }
}

fn is_number(value: &str) -> bool {
    value.parse::<f64>().is_ok()
}

/// The text from there on.
fn from(text: &str, (line, column): Position) -> Option<&str> {
    let line = text.split_inclusive('\n').nth(line.checked_sub(1)? as usize)?;
    let skipped: usize = line.chars().take(column.checked_sub(1)? as usize).map(char::len_utf8).sum();
    line.get(skipped..)
}

/// The bracket that was opened last before this place and is still open there. Brackets in quotes and comments are none.
fn unclosed(text: &str, until: Position) -> Option<(char, Position)> {
    let mut open = Vec::new();
    let (mut at, mut quote, mut comment, mut before) = ((1, 1), None, false, ' ');
    for c in text.chars() {
        if at >= until {
            break;
        }
        match (quote, c) {
            (_, '\n') => comment = false,
            _ if comment => {}
            (Some(sign), c) if c == sign => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if !before.is_alphanumeric() => quote = Some(c),
            (None, '#') if before.is_whitespace() => comment = true,
            (None, '[' | '{') => open.push((c, at)),
            (None, ']' | '}') => _ = open.pop(),
            _ => {}
        }
        before = c;
        at = if c == '\n' { (at.0 + 1, 1) } else { (at.0, at.1 + 1) };
    }
    open.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bracket_that_is_still_open_is_found() {
        for (text, until, says) in [
            ("a: [b, c\nd: e\n", (2, 2), Some(('[', (1, 4)))),
            ("a: {b: [c]\nd: e\n", (2, 1), Some(('{', (1, 4)))),
            ("a: \"[\" # {\nb: it's [1]\n", (3, 1), None),
            ("a: [1]\nb: {", (1, 3), None),
        ] {
            assert_eq!(unclosed(text, until), says, "{text}");
        }
    }

    #[test]
    fn what_stands_there_is_shown() {
        for (text, says) in [
            ("a: 5%  # of it", ", not \"5%\""),
            ("a: \"x\", b: 1}", ", not \"x\""),
            ("a: -1", ", not \"-1\""),
            ("a: [x]", ""),
            ("a: http://x:1", ", not \"http://x:1\""),
            ("a: b:c", ", not \"b:c\"; a space is missing after \"b:\""),
        ] {
            assert_eq!(found(text, Some((1, 4))), says, "{text}");
        }
        assert_eq!(found("a", Some((7, 1))), "");
    }
}
