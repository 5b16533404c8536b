//! Which resources a client's refusal blames, read from its message.
//!
//! Envoy writes `Error adding/updating cluster(s) a: <why>, b: <why>`; others quote names. Anything less plain blames nobody:
//! a wrong guess would withhold a good resource.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Those of these names that the message blames, in their own order. Takes the time of the message, whatever the names.
pub(crate) fn blamed(message: &str, names: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
    let blamed: BTreeSet<&Arc<str>> = candidates(message).filter_map(|word| names.get(word)).collect();
    blamed.into_iter().cloned().collect()
}

/// The words of the message that stand where a name would: in quotes, or before a colon and a space.
fn candidates(message: &str) -> impl Iterator<Item = &str> {
    let quoted = ['"', '\''].into_iter().flat_map(|quote| message.split(quote).skip(1));
    let explained = message.match_indices(": ").filter_map(|(at, _)| {
        let before = message.get(..at)?;
        Some(before.rsplit_once(' ').map_or(before, |(_, word)| word))
    });
    quoted.chain(explained)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blame(message: &str, names: &[&str]) -> Vec<String> {
        let content = names.iter().map(|name| Arc::from(*name)).collect();
        blamed(message, &content).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_found_where_clients_put_them() {
        let envoy = "Error adding/updating cluster(s) order: unknown field, pay:8080: bad port";
        assert_eq!(blame(envoy, &["order", "pay:8080", "pay", "cluster"]), ["order", "pay:8080"]);
        assert_eq!(blame("resource \"a\" is invalid, 'b' too", &["a", "b", "resource"]), ["a", "b"]);
        assert_eq!(blame("order: bad", &["order", "bad"]), ["order"]);
    }

    #[test]
    fn a_name_that_only_occurs_in_the_text_is_not_blamed() {
        assert!(blame("unable to parse order", &["order", "parse"]).is_empty());
        assert!(blame("malformed address: 10.0.0.1:80:x", &["10.0.0.1", "malformed"]).is_empty());
        assert!(blame("", &["a"]).is_empty());
    }
}
