//! What the product promises (DESIGN, "Promises"), held against what was measured. Judges figures; measures and prints
//! nothing.

use std::time::Duration;

use serde::Serialize;

use super::figures::{Requests, Window};

/// Load this late comes in bursts of ten requests and more, which no figure here is promised for: a missed promise is nobody's
/// fault then. On a machine with time for everybody it is a few milliseconds late at most.
pub const TOO_LATE: Duration = Duration::from_millis(50);

/// A zone that fails every request is left within, in seconds.
const LEFT: f64 = 0.5;

/// Requests lost until then with one retry: 0.05 % of 30 s at 200 requests a second.
const LOST: f64 = 3.0;

/// The service is clean again within, in seconds: its RTO.
const CLEAN: f64 = 30.0;

/// A zone that is well again carries its full share within, in seconds. The policy of the demo needs about 15.
const BACK: f64 = 30.0;

/// A promise and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// What is counted or timed.
    pub what: String,
    /// In what.
    pub unit: Unit,
    /// At most this.
    pub at_most: f64,
    /// This was found; `None` where it never happened.
    pub measured: Option<f64>,
    /// What that means.
    pub verdict: Verdict,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Whole things.
    Count,
}

/// What a figure means for a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was kept.
    Kept,
    /// It was not, and the machine had time for everybody.
    Missed,
    /// It was not, but the load generator itself did not get its turn.
    Unsure,
}

/// A zone that was broken on purpose.
#[derive(Debug, Clone)]
pub struct Outage {
    /// The zone.
    pub zone: String,
    /// While it was broken.
    pub window: Window,
    /// When it got no more requests; `None` if it always did.
    pub left: Option<Duration>,
}

/// A zone on its way back.
#[derive(Debug, Clone)]
pub struct Return {
    /// The zone.
    pub zone: String,
    /// From its recovery on.
    pub window: Window,
    /// When it carried its full share again; `None` if it never did.
    pub closed: Option<Duration>,
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Story {
    /// Nothing was wrong.
    pub steady: Window,
    /// A zone broke.
    pub outage: Outage,
    /// And came back.
    pub back: Return,
    /// A zone was drained and restored.
    pub drain: Window,
    /// When the drained zone got no more requests, from the moment that every proxy had acknowledged the drain; `None` if that
    /// moment never came, or it always got some.
    pub emptied: Option<Duration>,
    /// Only the control plane was gone.
    pub headless: Window,
    /// A zone broke while it was.
    pub alone: Outage,
    /// Both came back.
    pub comeback: Return,
    /// Times that the filter left a zone in which nothing was wrong.
    pub mistaken: u64,
    /// Proxies that had not acknowledged everything in the end; `None` if none was connected.
    pub behind: Option<usize>,
}

/// Makes promises of figures taken in one window.
struct Judge<'a> {
    requests: &'a Requests,
    window: Window,
}

/// Every promise that the demo can check.
pub fn judge(story: &Story, requests: &Requests) -> Vec<Promise> {
    let all = story.steady.through(story.comeback.window);
    let within = |window| Judge { requests, window };
    let mut promises = vec![within(story.steady).none_failed("requests failed while all was well")];
    promises.extend(within(story.outage.window).outage(&story.outage, ""));
    promises.extend(within(story.back.window).back(&story.back, ""));
    promises.push(within(story.drain).seconds(
        "az-b empty once its drain was acknowledged",
        LEFT,
        story.emptied,
    ));
    promises.push(within(story.drain).none_failed("requests failed in the drain and the restore"));
    promises.push(within(story.headless).none_failed("requests failed for want of a control plane"));
    promises.extend(within(story.alone.window).outage(&story.alone, ", no control plane"));
    promises.extend(within(story.comeback.window).back(&story.comeback, " and control plane"));
    let behind = story.behind.map(|proxies| proxies as f64);
    promises.push(within(all).promise(
        "proxies that are not up to date in the end".to_owned(),
        Unit::Count,
        0.0,
        behind,
    ));
    promises.push(within(all).count("healthy zones left by mistake", 0.0, story.mistaken));
    promises
}

// === impl Judge ===

impl Judge<'_> {
    fn outage(&self, outage: &Outage, how: &str) -> [Promise; 3] {
        let zone = &outage.zone;
        [
            self.seconds(&format!("{zone} left after it broke{how}"), LEFT, outage.left),
            self.count(
                "requests lost meanwhile (0.05 % of 30 s at 200/s)",
                LOST,
                self.requests.failed(self.window),
            ),
            self.seconds(
                "from the fault to the first clean second (RTO)",
                CLEAN,
                self.requests.clean_after(self.window),
            ),
        ]
    }

    fn back(&self, back: &Return, with: &str) -> [Promise; 2] {
        let zone = &back.zone;
        [
            self.seconds(&format!("{zone} in full use again after its recovery"), BACK, back.closed),
            self.none_failed(&format!("requests failed as {zone}{with} came back")),
        ]
    }

    fn none_failed(&self, what: &str) -> Promise {
        self.count(what, 0.0, self.requests.failed(self.window))
    }

    fn count(&self, what: &str, at_most: f64, found: u64) -> Promise {
        self.promise(what.to_owned(), Unit::Count, at_most, Some(found as f64))
    }

    fn seconds(&self, what: &str, at_most: f64, found: Option<Duration>) -> Promise {
        self.promise(what.to_owned(), Unit::Seconds, at_most, found.map(|time| time.as_secs_f64()))
    }

    fn promise(&self, what: String, unit: Unit, at_most: f64, measured: Option<f64>) -> Promise {
        let kept = measured.is_some_and(|found| found <= at_most);
        let verdict = match (kept, self.requests.late(self.window) > TOO_LATE) {
            (true, _) => Verdict::Kept,
            (false, false) => Verdict::Missed,
            (false, true) => Verdict::Unsure,
        };
        Promise { what, unit, at_most, measured, verdict }
    }
}

// === impl Promise ===

impl Promise {
    /// The bound as text.
    pub fn promised(&self) -> String {
        self.unit.text(self.at_most)
    }

    /// The figure as text.
    pub fn found(&self) -> String {
        match (self.measured, self.unit) {
            (Some(figure), unit) => unit.text(figure),
            (None, Unit::Seconds) => "never".to_owned(),
            (None, Unit::Count) => "unknown".to_owned(),
        }
    }
}

// === impl Unit ===

impl Unit {
    fn text(self, figure: f64) -> String {
        match self {
            Self::Seconds => format!("{figure:.3} s"),
            Self::Count => format!("{figure:.0}"),
        }
    }
}

#[cfg(test)]
mod tests;
