//! Finds where in a YAML or JSON text a value stands, for messages about values that read well and still cannot be used.
//! Only runs when there is something to complain about.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// Line and column of the value at `path`, or of the nearest value above it that exists; `None` when not even the whole can
/// be read.
pub(crate) fn value(text: &str, path: &[&str]) -> Option<(u32, u32)> {
    // What stands twice elsewhere is somebody else's complaint.
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough };
    (0..=path.len()).rev().find_map(|depth| {
        let path = path.get(..depth)?;
        let reading = |reader: serde_saphyr::Deserializer<'_, '_>| Down(path).deserialize(reader);
        serde_saphyr::with_deserializer_from_str_with_options(text, options.clone(), reading).ok().flatten()
    })
}

/// Goes down the path and answers with the place of what stands there.
struct Down<'a>(&'a [&'a str]);

// === impl Down ===

impl<'de> DeserializeSeed<'de> for Down<'_> {
    type Value = Option<(u32, u32)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            let here = Spanned::<IgnoredAny>::deserialize(deserializer)?.referenced;
            let (line, column) = (u32::try_from(here.line()), u32::try_from(here.column()));
            return Ok(line.ok().zip(column.ok()).filter(|(line, _)| *line > 0));
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Down<'_> {
    type Value = Option<(u32, u32)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            match self.0.split_first() {
                Some((head, rest)) if *head == name => found = map.next_value_seed(Down(rest))?,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_yaml_and_in_json() {
        let yaml = "zones:\n  az-a: {region: eu}\nservices:\n  s:\n    retry:\n      attempts: 9\n";
        assert_eq!(value(yaml, &["services", "s", "retry", "attempts"]), Some((6, 17)));
        assert_eq!(value(yaml, &["zones", "az-a"]), Some((2, 9)));
        assert_eq!(value(yaml, &["zones", "az-a", "nothing"]), Some((2, 9)), "the nearest above");
        let json = "{\n\t\"a\": {\n\t\t\"b\": 1\n\t}\n}";
        assert_eq!(value(json, &["a", "b"]), Some((3, 8)));
        assert_eq!(value("{", &["a"]), None);
    }
}
