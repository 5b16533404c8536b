//! The explanation as people read it: what happened and why, then every zone in one line. Pure text; decides nothing.

use std::fmt::Write as _;

use serde::Serialize;
use zonebreak_core::breaker::Transition;

use crate::{
    cli::output::columns,
    explain::{
        model::{
            Agreement, Explanation, Moment, MomentZone, PolicySource, TransitionRow, WindowRow, ZoneRow,
        },
        replay::offset,
        words,
    },
};

/// Everything; with room, every window at the moments asked for.
pub fn explanation(told: &Explanation, wide: bool) -> String {
    let mut text = head(told);
    for note in &told.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for transition in &told.transitions {
        text.push('\n');
        text.push_str(&self::transition(told, transition));
    }
    for moment in &told.moments {
        let _ = write!(text, "\nat {} ({})\n{}", offset(moment.offset_ms), moment.at, windows(moment, wide));
    }
    text.push('\n');
    text.push_str(&zones(&told.zones));
    if let Some(agreement) = told.filter {
        let _ = writeln!(text, "\n{}", agreed(agreement));
    }
    text
}

fn head(told: &Explanation) -> String {
    let seconds = (told.to.as_millisecond() - told.from.as_millisecond()) as f64 / 1_000.0;
    let place =
        told.own_zone.as_ref().map_or(String::new(), |zone| format!(", as seen by a proxy in {zone}"));
    let policy = match told.policy.source {
        PolicySource::Recorded => "the policy that the filter had",
        PolicySource::Given => "the policy given",
        PolicySource::Default => "the default policy",
    };
    format!(
        "{}{place}: {} samples in {seconds:.1} s from {}\nby {policy}: detector {}, sensitivity {}, {}\n",
        told.service,
        told.samples,
        told.from,
        word(&told.policy.detector),
        word(&told.policy.sensitivity),
        word(&told.policy.enforcement),
    )
}

/// A policy's word as operators write it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn transition(told: &Explanation, row: &TransitionRow) -> String {
    let filter = match (row.filter_at, told.filter) {
        (Some(at), _) => {
            let ms = at.as_millisecond() - told.from.as_millisecond();
            format!("   the filter: {}", offset(ms.unsigned_abs()))
        }
        (None, Some(_)) => "   the filter: not then".to_owned(),
        (None, None) => String::new(),
    };
    let TransitionRow { offset_ms, zone, from, to, cause, .. } = row;
    let mut text = format!("{}  {zone} {from} -> {to} ({cause}){filter}\n", offset(*offset_ms));
    for words in &row.words {
        let _ = writeln!(text, "    {words}");
    }
    text
}

fn windows(moment: &Moment, wide: bool) -> String {
    let rows = moment.zones.iter().flat_map(|zone| {
        let shown: Vec<&WindowRow> =
            zone.windows.iter().filter(|window| wide || window.evidence.k > 0).collect();
        if shown.is_empty() {
            let why = match (&zone.guard, zone.windows.is_empty()) {
                (Some(guard), _) => guard.clone(),
                (None, true) => "not judged in this state".to_owned(),
                (None, false) => "no request to it was bad".to_owned(),
            };
            return vec![line(zone, None, why)];
        }
        let why = |window: &WindowRow| match (&window.missing, &zone.guard) {
            (Some(missing), _) => missing.words.clone(),
            (None, Some(guard)) => guard.clone(),
            (None, None) => "nothing: it is left".to_owned(),
        };
        shown.into_iter().map(|window| line(zone, Some(window), why(window))).collect()
    });
    columns(["ZONE", "STATE", "WINDOW", "SIGNAL", "BAD", "OTHERS", "BOUND", "SCORE", "MISSING"], rows)
}

fn line(zone: &MomentZone, window: Option<&WindowRow>, why: String) -> [String; 9] {
    let dash = || "-".to_owned();
    let cell = |text: &dyn Fn(&WindowRow) -> String| window.map_or_else(dash, text);
    [
        zone.zone.to_string(),
        zone.state.clone(),
        cell(&|one| words::span(one.evidence.window_ms.into())),
        cell(&|one| one.signal.clone()),
        cell(&|one| format!("{}/{}", one.evidence.k, one.evidence.n)),
        cell(&|one| format!("{}/{}", one.evidence.peer_k, one.evidence.peer_n)),
        cell(&|one| format!("{:.1} %", one.evidence.bound * 100.0)),
        cell(&|one| format!("{:.1}/{:.0}", one.evidence.score, one.evidence.needed)),
        why,
    ]
}

fn zones(zones: &[ZoneRow]) -> String {
    let row = |zone: &ZoneRow| {
        [
            zone.zone.to_string(),
            zone.attempts.to_string(),
            zone.failed.to_string(),
            zone.slow.to_string(),
            zone.words.clone(),
        ]
    };
    columns(["ZONE", "ATTEMPTS", "FAILED", "SLOW", "BREAKER"], zones.iter().map(row))
}

fn agreed(Agreement { transitions, explained }: Agreement) -> String {
    match transitions {
        0 => "The filter left no zone in this time.".to_owned(),
        n if n == explained => format!("The filter made {n} transitions, and all of them are explained."),
        n => format!(
            "The filter made {n} transitions, of which {explained} are explained; the others are told without a reason."
        ),
    }
}

/// A transition read from the log.
pub fn logged(transition: &Transition) -> String {
    let Transition { service, zone, from, to, cause, .. } = transition;
    let mut text = format!("{service} {zone} {from} -> {to} ({cause}), epoch {}\n", transition.epoch);
    for words in words::transition(transition, true) {
        let _ = writeln!(text, "    {words}");
    }
    text
}
