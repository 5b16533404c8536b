//! What can be wrong with a zone. Data, and one throw of the dice.

use std::time::Duration;

/// Something wrong with a share of a zone's attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What happens.
    pub effect: Effect,
    /// To how many of the attempts, 0 to 1.
    pub share: f64,
}

/// What happens to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is answered with this HTTP status.
    Status(u16),
    /// It is answered with 200 and this gRPC status in the trailers.
    Grpc(u16),
    /// It is answered later.
    Slow(Duration),
    /// The connection is refused.
    Refuse,
    /// The connection is closed before the answer.
    Reset,
    /// The connection is closed in the middle of the answer's body.
    Cut,
    /// It is never answered.
    Hang,
}

/// How one attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// How long until something happens.
    pub after: Duration,
    pub answer: Answer,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Status(u16),
    Grpc(u16),
    Refused,
    Reset,
    Cut,
    Never,
}

/// How a healthy zone answers: a median and a spread, log-normal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    pub median: Duration,
    pub spread: f64,
}

/// How long it takes to learn that a connection is refused.
const REFUSAL: Duration = Duration::from_millis(1);

// === impl Fault ===

impl Fault {
    /// To every attempt.
    pub const fn always(effect: Effect) -> Self {
        Self { effect, share: 1.0 }
    }

    /// To a share of the attempts, 0 to 1.
    pub const fn of(share: f64, effect: Effect) -> Self {
        Self { effect, share }
    }
}

// === impl Pace ===

impl Pace {
    fn draw(self, rng: &mut fastrand::Rng) -> Duration {
        // Box and Muller, "A note on the generation of random normal deviates", 1958.
        let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * rng.f64()).cos();
        self.median.mul_f64((self.spread * normal).exp())
    }
}

// === impl Plan ===

impl Plan {
    /// Throws the dice for one attempt: all faults that hit add their delays, the last that answers wins.
    pub fn draw(pace: Pace, faults: &[Fault], rng: &mut fastrand::Rng) -> Self {
        let mut plan = Self { after: pace.draw(rng), answer: Answer::Status(200) };
        for fault in faults {
            if rng.f64() >= fault.share {
                continue;
            }
            plan.answer = match fault.effect {
                Effect::Slow(extra) => {
                    plan.after += extra;
                    continue;
                }
                Effect::Refuse => {
                    plan.after = REFUSAL;
                    Answer::Refused
                }
                Effect::Status(status) => Answer::Status(status),
                Effect::Grpc(status) => Answer::Grpc(status),
                Effect::Reset => Answer::Reset,
                Effect::Cut => Answer::Cut,
                Effect::Hang => Answer::Never,
            };
        }
        plan
    }
}
