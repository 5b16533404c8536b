//! Numbers as sentences: what a transition's evidence says, and what a window lacks. Pure; decides nothing, and computes
//! nothing that the detector has not computed but the chance that a score stands for.

use zonebreak_core::{
    breaker::{Cause, Guard, State, Transition},
    detector::{Evidence, Missing, Signal},
    names::Zone,
    stats,
};

use super::model::MissingRow;

/// Two bounds that are printed alike are the same.
const SAME: f64 = 0.0006;

/// What happened to bad requests.
fn bad(signal: Signal) -> &'static str {
    match signal {
        Signal::Failures => "failed",
        Signal::Slow => "were slow",
        Signal::Connect => "found no connection",
    }
}

/// A length of time in the unit that reads best.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        ms if ms.is_multiple_of(1_000) => format!("{} s", ms / 1_000),
        ms => format!("{:.1} s", ms as f64 / 1_000.0),
    }
}

/// The chance that a score stands for: "one in 8,100".
pub fn odds(score: f64) -> String {
    let times = score.exp();
    let grouped = |number: f64| {
        // Two digits that count, as no more of them mean anything.
        let scale = 10_f64.powf((number.log10().floor() - 1.0).max(0.0));
        let digits = format!("{:.0}", (number / scale).round() * scale);
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().filter_map(|g| str::from_utf8(g).ok()).collect();
        groups.join(",")
    };
    match times {
        t if t < 1e6 => format!("one in {}", grouped(t)),
        t if t < 1e9 => format!("one in {} million", grouped(t / 1e6)),
        _ => "less than one in a billion".to_owned(),
    }
}

/// Why a transition was made, and what follows from it. How long a zone stays open is told exactly where it is `known`, and else
/// without the jitter.
pub fn transition(transition: &Transition, known: bool) -> Vec<String> {
    let Transition { zone, to, cause, evidence, open_ms, shadow, .. } = transition;
    let mut words = match (cause, evidence) {
        (Cause::Failures, Some(e)) => weighed(zone, Signal::Failures, e),
        (Cause::Slow, Some(e)) => weighed(zone, Signal::Slow, e),
        (Cause::Connect, Some(e)) => weighed(zone, Signal::Connect, e),
        (Cause::Consecutive, Some(e)) => vec![format!(
            "{} requests to {zone} in a row failed within {}; {}.",
            e.k,
            span(e.window_ms.into()),
            match e.peer_n {
                0 => "no other zone was in use to compare with".to_owned(),
                n => format!("meanwhile {} of {n} requests to the other zones failed", e.peer_k),
            }
        )],
        (Cause::TrialsFailed, Some(e)) => vec![
            format!(
                "{} of {} trial requests to {zone} were bad in the {} that it was half-open.",
                e.k,
                e.n,
                span(e.window_ms.into())
            ),
            format!("{}: the trials show more than that explains.", others_failed(e)),
        ],
        (Cause::TrialsPassed, Some(e)) => vec![
            format!(
                "{} of {} trial requests to {zone} were good in the {} that it was half-open.",
                e.n.saturating_sub(e.k),
                e.n,
                span(e.window_ms.into())
            ),
            format!("{}: the zone is no worse.", others_failed(e)),
        ],
        (Cause::NoGain, Some(e)) => vec![
            format!(
                "Leaving {zone} did not help: in the {} since, {} of {} requests to the other zones were bad, no better than {zone} was before.",
                span(e.window_ms.into()),
                e.peer_k,
                e.peer_n
            ),
            "So the move is undone, and the zone is held closed for 60 s: the fault is not the zone's."
                .to_owned(),
        ],
        (Cause::Elapsed, _) => vec!["Its time in the open state was up.".to_owned()],
        (Cause::Ramped, _) => vec!["The ramp ended and nothing spoke against the zone.".to_owned()],
        (Cause::LastZone, _) => {
            vec!["No other zone can take its load any more, and the last one is never left.".to_owned()]
        }
        (Cause::Operator, _) => {
            vec!["An operator drains the zone or holds it in use; the breaker stands back.".to_owned()]
        }
        (Cause::TurnedOff, _) => vec!["The policy turned the breaker off.".to_owned()],
        (_, None) => vec!["The line gives no evidence.".to_owned()],
    };
    let then = match to {
        State::Open => {
            let seconds = *open_ms as f64 / 1_000.0;
            let time = if known { format!("{seconds:.1} s") } else { format!("about {seconds:.0} s") };
            format!("For {time} no request goes to {zone}; then trial requests do.")
        }
        State::HalfOpen => format!("About one request in a hundred tries {zone}, idempotent ones first."),
        State::Ramp => format!("The share of {zone} grows from 5 % to all of it, under the same detector."),
        State::Closed if *cause == Cause::Ramped => format!("{zone} has its full share again."),
        _ => return words,
    };
    words.push(if *shadow {
        format!("(Shadow: told and not carried out. Enforced, this would follow: {then})")
    } else {
        then
    });
    words
}

fn others_failed(e: &Evidence) -> String {
    match e.peer_n {
        0 => "No other zone was in use".to_owned(),
        n => format!("The other zones failed {} of {n} in the last 10 s", e.peer_k),
    }
}

/// The test of the peers' detector, number by number.
fn weighed(zone: &Zone, signal: Signal, e: &Evidence) -> Vec<String> {
    let (bad, window) = (bad(signal), span(e.window_ms.into()));
    let (bound, score, needed) = (f64::from(e.bound), f64::from(e.score), f64::from(e.needed));
    let percent = bound * 100.0;
    let first = format!("{} of {} requests to {zone} {bad} in {window}", e.k, e.n);
    let (first, second) = if e.peer_n == 0 {
        (
            format!("{first}, and no other zone was in use to compare it with."),
            format!("Without others, more than {percent:.0} % is too much."),
        )
    } else {
        let plausible = |z: f64| {
            (stats::wilson_upper(stats::rate(e.peer_k, e.peer_n), f64::from(e.peer_n), z).max(0.005) - bound)
                .abs()
                < SAME
        };
        let second = match [3.0, 2.0].into_iter().find(|z| plausible(*z)) {
            _ if bound <= 0.005 + SAME => {
                "No service is taken to be better than 0.5 %, whatever the others show.".to_owned()
            }
            Some(z) => format!(
                "{} of {} make a rate of at most {percent:.1} % plausible (Wilson, z = {z:.0}).",
                e.peer_k, e.peer_n
            ),
            None => format!(
                "Spread over the window as the requests to {zone} were, the others make a rate of at most {percent:.1} % plausible."
            ),
        };
        (format!("{first}; in the other zones {} of {}.", e.peer_k, e.peer_n), second)
    };
    let chance = odds(score);
    let least = if chance.starts_with("less") { "" } else { "at most " };
    let third = if score >= needed {
        format!(
            "At such a rate the chance of this is {least}{chance}: score {score:.1}, where {needed:.0} is asked for ({}).",
            odds(needed)
        )
    } else {
        format!("Score {score:.1}, where {needed:.0} is asked for ({}).", odds(needed))
    };
    vec![first, second, third]
}

/// One window in a few words: `12 of 200 failed in 10 s, others 9 of 400, score 3.1 of 9`.
pub fn window(signal: Signal, e: &Evidence) -> String {
    let others = match e.peer_n {
        0 => "no others".to_owned(),
        n => format!("others {} of {n}", e.peer_k),
    };
    format!(
        "{} of {} {} in {}, {others}, score {:.1} of {:.0}",
        e.k,
        e.n,
        bad(signal),
        span(e.window_ms.into()),
        e.score,
        e.needed
    )
}

/// What a window lacks.
pub fn missing(missing: Missing) -> MissingRow {
    let (condition, words) = match missing {
        Missing::Bad { needed } => ("bad", format!("fewer than {needed} bad requests")),
        Missing::Peers { needed } => {
            ("peers", format!("fewer than {needed} requests to the other zones in that time"))
        }
        Missing::Gap => ("gap", "too small a difference: 5 points and a fifth are asked for".to_owned()),
        Missing::Score => ("score", "not enough evidence".to_owned()),
        Missing::Timing => ("timing", "its requests came when the others fared badly too".to_owned()),
        Missing::Now { window_ms } => {
            ("now", format!("over, or everybody's: it is no worse in the last {}", span(window_ms.into())))
        }
        Missing::Past => ("past", "the window is longer than the zone has been back".to_owned()),
        Missing::Alone => ("alone", "not judged without other zones".to_owned()),
        Missing::Remembered => (
            "remembered",
            "the few attempts of the others do not rule out that they are no better".to_owned(),
        ),
        Missing::Over => ("over", "it is well again, or has had no attempts for 10 s".to_owned()),
    };
    MissingRow { condition: condition.to_owned(), words }
}

/// A guard rail; `zones` in the order of its indices.
pub fn guard(guard: Guard, zones: &[Zone]) -> String {
    match guard {
        Guard::TurnedOff => "the policy turned the breaker off".to_owned(),
        Guard::Operator => "an operator drains it or holds it in use".to_owned(),
        Guard::Held { .. } => "leaving it did not help a moment ago: it is held closed".to_owned(),
        Guard::LastZone => "no other zone could take its load".to_owned(),
        Guard::OtherAway { zone } => {
            let other = zones.get(zone).map_or("another zone", Zone::as_str);
            format!("{other} is away, and no more zones may be (max_open_zones)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_read_well() {
        assert_eq!(odds(9.0), "one in 8,100");
        assert_eq!(odds(12.0), "one in 160,000");
        assert_eq!(odds(19.0), "one in 180 million");
        assert_eq!(odds(40.0), "less than one in a billion");
    }

    #[test]
    fn a_line_is_put_into_words() {
        let words = |line: &str| transition(&line.parse().unwrap(), true).join("\n");
        insta::assert_snapshot!(
            "failures",
            words(
                "order-svc az-a closed -> open (failures): 14 of 14 bad in 200ms, peers 0 of 26, bound 25.7 %, score 19.0 of 9; open for 5.2s, epoch 3"
            )
        );
        insta::assert_snapshot!(
            "alone_in_shadow",
            words(
                "order-svc az-a closed -> open (failures): 40 of 100 bad in 2s, no peers, bound 10.0 %, score 31.1 of 9; open for 4.9s, epoch 1, shadow: not carried out"
            )
        );
        insta::assert_snapshot!(
            "no_gain",
            words("order-svc az-a open -> closed (no_gain): 40 of 100 bad in 2s, peers 100 of 300; epoch 2")
        );
        insta::assert_snapshot!(
            "trials_failed",
            words(
                "order-svc az-a half_open -> open (trials_failed): 1 of 1 bad in 310ms, peers 0 of 1800; open for 10.3s, epoch 4"
            )
        );
        insta::assert_snapshot!(
            "consecutive",
            words(
                "order-svc az-a closed -> open (consecutive): 5 of 5 bad in 24ms, peers 0 of 9; open for 31.0s, epoch 1"
            )
        );
    }
}
