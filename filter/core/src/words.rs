//! Choices that operators write as one word of a few. Reads and prints the word; what it means is its type's matter.
//!
//! What serde derives for such a type is 1 KB of code for each, most of it the same; here it is a table and one look-up.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, VariantAccess, Visitor},
};

/// Gives a type without fields its words in JSON and YAML, as `words! { Mode { Strong = "strong", Eventual = "eventual" } }`.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match $crate::words::read(deserializer, &[$($word),+])? {
                    $($word => Ok(Self::$variant),)+
                    other => Err(::serde::de::Error::custom(other)),
                }
            }
        }
    };
}

pub(crate) use words;

/// The one of these words that stands there. Other words are refused where they stand: as an enum, since that is what formats give
/// a line and a column for.
pub(crate) fn read<'de, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<&'static str, D::Error> {
    deserializer.deserialize_enum("word", words, Words(words))
}

/// Reads one of these words.
#[derive(Clone, Copy)]
struct Words(&'static [&'static str]);

// === impl Words ===

impl<'de> Visitor<'de> for Words {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let known = self.0.iter().find(|word| **word == text);
        known.copied().ok_or_else(|| E::unknown_variant(text, self.0))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Self::Value, A::Error> {
        let (word, rest) = data.variant_seed(self)?;
        rest.unit_variant().map(|()| word)
    }
}

impl<'de> DeserializeSeed<'de> for Words {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[derive(Debug, PartialEq)]
    enum Size {
        Small,
        VeryLarge,
    }

    words! { Size { Small = "small", VeryLarge = "very_large" } }

    #[test]
    fn a_word_reads_as_printed_and_others_are_refused() {
        for (size, text) in [(Size::Small, r#""small""#), (Size::VeryLarge, r#""very_large""#)] {
            assert_eq!(serde_json::to_string(&size).unwrap(), text);
            assert_eq!(serde_json::from_str::<Size>(text).unwrap(), size);
        }
        let error = |json: &str| serde_json::from_str::<Size>(json).unwrap_err().to_string();
        assert!(error(r#""Small""#).contains("unknown variant `Small`, expected `small` or `very_large`"));
        assert!(error("1").contains("expected value"), "{}", error("1"));
    }
}
