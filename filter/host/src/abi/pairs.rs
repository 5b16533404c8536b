//! Header maps as bytes: a count, the sizes of all names and values, then each name and value with a zero behind it
//! (proxy-wasm ABI 0.2.1, "Serialization"). Converts; keeps nothing.

use crate::vm::Headers;

/// The bytes of a header map; none for an empty one.
pub(super) fn marshal(headers: &Headers) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    let size = |text: &str| (text.len() as u32).to_le_bytes();
    let mut bytes = (headers.len() as u32).to_le_bytes().to_vec();
    for (name, value) in headers.iter() {
        bytes.extend(size(name));
        bytes.extend(size(value));
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The header map in `bytes`; `None` when they are cut short.
pub(super) fn unmarshal(bytes: &[u8]) -> Option<Headers> {
    let number = |i: usize| {
        let four = bytes.get(i * 4..i * 4 + 4)?;
        Some(u32::from_le_bytes(four.try_into().ok()?) as usize)
    };
    let mut headers = Headers::default();
    if bytes.is_empty() {
        return Some(headers);
    }
    let count = number(0)?;
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    let mut text = |size: usize| {
        let text = bytes.get(at..at.checked_add(size)?)?;
        at += size + 1;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    for i in 0..count {
        let (name, value) = (text(number(1 + 2 * i)?)?, text(number(2 + 2 * i)?)?);
        headers.add(&name, &value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marshalled_comes_back() {
        for headers in [
            Headers::default(),
            Headers::from([(":status", "200"), ("x-empty", ""), ("x-twice", "1"), ("x-twice", "2")]),
        ] {
            assert_eq!(unmarshal(&marshal(&headers)), Some(headers));
        }
    }

    #[test]
    fn bytes_that_end_early_are_no_map() {
        let bytes = marshal(&Headers::from([("a", "b"), ("c", "d")]));
        for end in 1..bytes.len() - 1 {
            assert_eq!(unmarshal(&bytes[..end]), None, "{end} of {}", bytes.len());
        }
    }
}
