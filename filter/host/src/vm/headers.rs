//! A header map: names in lower case, in the order they came, a name perhaps more than once.

/// Names and values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

// === impl Headers ===

impl Headers {
    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// One value in place of all of that name.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.add(name, value);
    }

    /// One value more.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
    }

    /// No value of that name; gives back the first there was.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let first = self.0.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))?;
        let (_, value) = self.0.remove(first);
        self.0.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        Some(value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a, const N: usize> From<[(&'a str, &'a str); N]> for Headers {
    fn from(pairs: [(&'a str, &'a str); N]) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.add(name, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_setting_replaces_all() {
        let mut headers = Headers::from([("X-Zone", "a"), ("x-zone", "b"), (":path", "/")]);
        assert_eq!(headers.get("x-ZONE"), Some("a"));
        headers.set("x-zone", "c");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [(":path", "/"), ("x-zone", "c")]);
        assert_eq!(headers.remove("X-zone").as_deref(), Some("c"));
        assert_eq!(headers.remove("x-zone"), None);
        assert_eq!(headers.len(), 1);
    }
}
