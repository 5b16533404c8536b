//! The process-wide metrics: every VM that defines one of the same name and kind adds to the same number, and sees at once
//! what the others added. No history, no scopes, no sinks.

use std::collections::BTreeMap;

/// What a metric is (`proxy_metric_type_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the ABI's own")]
pub enum MetricKind {
    Counter,
    Gauge,
    /// Kept as the number of values recorded.
    Histogram,
}

/// All metrics of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    index: BTreeMap<(MetricKind, String), usize>,
    values: Vec<u64>,
}

// === impl MetricKind ===

impl MetricKind {
    pub(crate) const fn from_abi(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::Counter),
            1 => Some(Self::Gauge),
            2 => Some(Self::Histogram),
            _ => None,
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// The place of the metric of that kind and name; a new one starts at 0.
    pub fn define(&mut self, kind: MetricKind, name: &str) -> usize {
        let next = self.values.len();
        let place = *self.index.entry((kind, name.to_owned())).or_insert(next);
        if place == next {
            self.values.push(0);
        }
        place
    }

    /// Adds, or takes off; a gauge that would fall below 0 wraps, as Envoy's do.
    pub fn add(&mut self, place: usize, offset: i64) {
        if let Some(value) = self.values.get_mut(place) {
            *value = value.wrapping_add_signed(offset);
        }
    }

    /// Puts a value in place of the one there.
    pub fn set(&mut self, place: usize, value: u64) {
        if let Some(slot) = self.values.get_mut(place) {
            *slot = value;
        }
    }

    /// The value at a place; 0 where there is none.
    pub fn value(&self, place: usize) -> u64 {
        self.values.get(place).copied().unwrap_or_default()
    }

    /// The value of the metric of that name, whatever its kind.
    pub fn named(&self, name: &str) -> Option<u64> {
        self.all().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All names with their values, sorted by kind and name.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.index.iter().map(|((_, name), place)| (name.as_str(), self.value(*place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_number() {
        let mut metrics = Metrics::default();
        let one = metrics.define(MetricKind::Counter, "requests");
        let other = metrics.define(MetricKind::Counter, "requests");
        let gauge = metrics.define(MetricKind::Gauge, "requests");
        assert_eq!(one, other);
        assert_ne!(one, gauge);
        metrics.add(one, 3);
        metrics.add(other, 4);
        metrics.set(gauge, 9);
        metrics.add(gauge, -2);
        assert_eq!((metrics.value(one), metrics.value(gauge)), (7, 7));
        assert_eq!(metrics.named("requests"), Some(7));
        assert_eq!(metrics.named("nothing"), None);
    }
}
