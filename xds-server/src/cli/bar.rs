//! A bar on standard error, for whoever watches a long work there. Draws nothing where that is no terminal, and decides nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{task::AbortHandle, time::Instant};
use zonebreak_replication::snapshot::Progress;

/// Between two looks at how far the work is.
const LOOK: Duration = Duration::from_millis(100);

/// A bar while it lives, if standard error is a terminal.
pub(super) struct Bar {
    bar: ProgressBar,
    drawing: AbortHandle,
}

// === impl Bar ===

impl Bar {
    /// Of a work that goes through keys.
    pub(super) fn new(what: &'static str, progress: &Arc<Progress>) -> Self {
        let progress = Arc::clone(progress);
        Self::draw(what, "{msg} {bar:30} {pos}/{len} keys, {eta} left", move |bar| {
            bar.set_length(progress.total.load(Ordering::Relaxed));
            bar.set_position(progress.done.load(Ordering::Relaxed));
        })
    }

    /// Of a wait that takes so long. Where nobody can see it, it is said.
    pub(super) fn wait(what: &'static str, long: Duration) -> Self {
        let begun = Instant::now();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let wait = Self::draw(what, "{msg} {bar:30} {eta} left", move |bar| {
            bar.set_length(ms(long));
            bar.set_position(ms(begun.elapsed()).min(ms(long)));
        });
        if wait.bar.is_hidden() {
            eprintln!("{what}: {:.1} s", long.as_secs_f64());
        }
        wait
    }

    fn draw(what: &'static str, template: &str, look: impl Fn(&ProgressBar) + Send + 'static) -> Self {
        // Hidden by itself where nobody watches.
        let bar = ProgressBar::new(0).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let drawn = bar.clone();
        let drawing = tokio::spawn(async move {
            loop {
                look(&drawn);
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { bar, drawing: drawing.abort_handle() }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.drawing.abort();
        self.bar.finish_and_clear();
    }
}
