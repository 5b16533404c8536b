//! Choices that operators write as one word of a few. Reads and prints the word; what it means is its type's matter.
//!
//! What serde derives for such a type is 1 KB of code for each, most of it the same; here it is a table and one look-up.

use serde::{Deserialize, Deserializer, de::Error};

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

/// The one of these words that stands there.
pub(crate) fn read<'de, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<&'static str, D::Error> {
    let text = String::deserialize(deserializer)?;
    words.iter().find(|word| **word == text).copied().ok_or_else(|| D::Error::unknown_variant(&text, words))
}

#[cfg(test)]
mod tests {
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
        assert!(error("1").contains("expected a string"));
    }
}
