//! A destination that takes nothing: said once when it begins and once when it ends, however many writes fail meanwhile and whoever
//! makes them; each is counted. Formats and counts; decides nothing and tries nothing again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{client::EtcdError, destination::Answer, metrics::Metrics};

/// Whether the destination is in trouble; shared by all that write to it.
#[derive(Clone)]
pub(crate) struct Trouble {
    metrics: Metrics,
    now: Arc<AtomicBool>,
}

// === impl Trouble ===

impl Trouble {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, now: Arc::default() }
    }

    /// A write was answered. A fence that does not hold is an answer, and so is a lease that has to be granted again.
    pub(crate) fn note(&self, answer: &Answer) {
        match answer {
            Answer::Refused(_) | Answer::Failed(EtcdError::NoLease(_)) => {}
            Answer::Committed(_) => {
                if self.now.swap(false, Ordering::Relaxed) {
                    self.metrics.connected("destination", true);
                    tracing::info!("the destination is back");
                }
            }
            Answer::Failed(error) => self.begins("put_off", error),
            Answer::Unknown(error) => self.begins("unknown", error),
        }
    }

    fn begins(&self, kind: &str, error: &EtcdError) {
        self.metrics.retries.with_label_values(&[kind]).inc();
        if !self.now.swap(true, Ordering::Relaxed) {
            self.metrics.connected("destination", false);
            tracing::error!("failed to {error}; what is to be written waits, trying again");
        }
    }
}
