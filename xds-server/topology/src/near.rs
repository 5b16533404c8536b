//! What somebody may have meant: the known names that are most like what was written. Compares texts; looks nothing up.

/// Names that are offered before it is better to say none.
const AT_MOST: usize = 3;

/// The known names that are most like this word, as the end of a message: `; did you mean "az-a"?`. Empty where none is like it,
/// or too many are.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    offer(&nearest(word, known))
}

/// These names as the end of a message; empty when there are none, or too many.
pub(crate) fn offer(names: &[impl AsRef<str>]) -> String {
    if names.is_empty() || names.len() > AT_MOST {
        return String::new();
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("{:?}", name.as_ref())).collect();
    format!("; did you mean {}?", either(&quoted))
}

/// The known names that differ least from this word, and in less than half of it; in their order.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    // `Max-Open-Zones` is `max_open_zones` to whoever writes it.
    let bare = |word: &str| word.to_lowercase().replace('-', "_");
    let differs = |name: &str| strsim::damerau_levenshtein(&bare(word), &bare(name));
    let all: Vec<(usize, &str)> = known.into_iter().map(|name| (differs(name), name)).collect();
    let least = all.iter().map(|(differs, _)| *differs).min().unwrap_or(usize::MAX);
    let like = least.saturating_mul(2) < word.chars().count().max(2);
    let nearest = all.into_iter().filter(|(differs, _)| like && *differs == least);
    nearest.map(|(_, name)| name).collect()
}

/// `a`, `a or b`, `a, b or c`.
fn either(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_most_like_the_word_is_offered() {
        for (word, known, says) in [
            ("az-x", &["az-a"][..], "; did you mean \"az-a\"?"),
            ("az-x", &["az-a", "az-b"], "; did you mean \"az-a\" or \"az-b\"?"),
            ("az-x", &["az-a", "az-b", "az-c"], "; did you mean \"az-a\", \"az-b\" or \"az-c\"?"),
            ("az-x", &["az-a", "az-b", "az-c", "az-d"], ""),
            ("eu-west-1d", &["eu-west-1a", "us-east-1d"], "; did you mean \"eu-west-1a\"?"),
            ("strog", &["strong", "eventual"], "; did you mean \"strong\"?"),
            ("Strong", &["strong", "eventual"], "; did you mean \"strong\"?"),
            ("regoin", &["region", "aliases"], "; did you mean \"region\"?"),
            ("fast", &["strong", "eventual"], ""),
            ("", &["a"], ""),
            ("a", &[], ""),
        ] {
            assert_eq!(did_you_mean(word, known.iter().copied()), says, "{word} of {known:?}");
        }
    }
}
