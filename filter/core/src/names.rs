//! Names that must not be mixed, and the characters each may hold. Validates; never normalises or looks anything up.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The empty string.
    #[error("a {0} name must not be empty")]
    Empty(&'static str),
    /// Longer than its kind allows.
    #[error("a {kind} name has at most {max} characters, this one has {len}")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// Characters allowed.
        max: usize,
        /// Characters given.
        len: usize,
    },
    /// A character outside letters, digits, `-`, `_` and `.`.
    #[error("a {kind} name holds letters, digits, '-', '_' and '.', not {found:?}")]
    Character {
        /// What was being named.
        kind: &'static str,
        /// The first character that is not allowed.
        found: char,
    },
}

fn check(kind: &'static str, max: usize, name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty(kind));
    }
    let len = name.chars().count();
    if len > max {
        return Err(InvalidName::TooLong { kind, max, len });
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        Some(found) => Err(InvalidName::Character { kind, found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            #[doc = concat!("A ", $kind, " name of 1 to ", stringify!($max), " letters, digits, `-`, `_` and `.`.")]
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                check($kind, $max, name).map(|()| Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }

        impl std::str::FromStr for $type {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }

        impl Deref for $type {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// An availability zone, as in `topology.kubernetes.io/zone`. The filter joins zones with `+` in subset keys, which is
    /// why `+` is no letter of it.
    Zone, "zone", 63
}

name! {
    /// A service: the name of its Envoy cluster, and a path segment of its etcd keys.
    ServiceName, "service", 128
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn names_are_checked_and_say_why_not() {
        assert_eq!(Zone::new("az-a").unwrap().as_str(), "az-a");
        assert_eq!(Zone::new(""), Err(InvalidName::Empty("zone")));
        assert_eq!(
            Zone::new("a/b").unwrap_err().to_string(),
            "a zone name holds letters, digits, '-', '_' and '.', not '/'"
        );
        assert!(matches!(Zone::new(&"z".repeat(64)), Err(InvalidName::TooLong { len: 64, .. })));
        assert!(serde_json::from_str::<ServiceName>("\"a+b\"").is_err());
    }
}
