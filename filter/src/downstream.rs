//! The downstream role: asks the engine where a request may go, carries that out, and counts what the client got. A request that a
//! drill delays is held here, and let go by the [`worker`]'s tick. It charges a zone only with what no upstream filter sees: a
//! request for which the zone had no host, or the pool no room.

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext},
    types::{Action, MapType},
};
use zonebreak_core::{
    classify::{self, IDEMPOTENT_METHODS, RESOURCE_EXHAUSTED, UNAVAILABLE, flag},
    engine::{Coin, Decision, Outcome, Reason, Refusal, ServiceId, ZoneId},
    policy::Sticky,
    sticky,
};

use crate::{host, meters::Final, worker};

/// One request.
#[derive(Debug, Default)]
pub struct Downstream {
    /// What the host calls it.
    context: u32,
    service: Option<ServiceId>,
    /// For the debug header, when that is asked for.
    decided: Option<String>,
    /// The zone that the request is meant for, if it is one.
    chosen: Option<ZoneId>,
    refused: bool,
    /// It was moved out of a zone that is left: whether it is answered says how the others bear it.
    moved: bool,
    held: bool,
    status: u16,
    grpc_status: Option<u32>,
}

/// A decision in the filter's own words, copied out of the engine so that host calls run without it.
enum Act {
    Pass,
    Serve(String),
    Refuse(Refusal),
    /// After so many ms.
    Delay(Option<String>, u32),
}

// === impl Downstream ===

impl HttpContext for Downstream {
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        #[cfg(feature = "test-panic")]
        crate::test_panic::if_asked("downstream");
        match self.decide() {
            // Taking off a header that is not there costs little, and a client's own must not get through.
            Act::Pass => host::set_request_header(host::SERVE_HEADER, None),
            Act::Serve(key) => host::set_request_header(host::SERVE_HEADER, Some(&key)),
            Act::Refuse(refusal) => return self.refuse(&refusal),
            Act::Delay(key, ms) => {
                host::set_request_header(host::SERVE_HEADER, key.as_deref());
                self.held = worker::with(|w| w.hold(self.context, ms)).unwrap_or_default();
                return if self.held { Action::Pause } else { Action::Continue };
            }
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        if self.service.is_some() && !self.refused {
            self.status = host::status();
            if end_of_stream {
                // What Envoy itself answers a gRPC request with has the status 200 and says the rest here.
                self.grpc_status = grpc_status(MapType::HttpResponseHeaders);
            }
            if self.status == 503 || self.grpc_status == Some(UNAVAILABLE) {
                self.charge();
            }
        }
        if let Some(decided) = &self.decided {
            host::set_response_header("x-zonebreak-decision", decided);
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        if self.service.is_some() && !self.refused {
            self.grpc_status = grpc_status(MapType::HttpResponseTrailers);
        }
        Action::Continue
    }
}

impl Context for Downstream {
    fn on_done(&mut self) -> bool {
        if self.held {
            worker::with(|w| w.release(self.context));
        }
        let Some(service) = self.service else { return true };
        let outcome = match (self.refused, self.status) {
            (true, _) => Final::Refused,
            // No answer was ever sent: the client went away, which is nobody's failure.
            (false, 0) => return true,
            (false, _) if self.failed() => Final::Failed,
            (false, _) => Final::Answered,
        };
        let settles = self.moved && !self.refused && !(self.failed() && self.own_doing());
        worker::with(|w| {
            if let Some(meters) = w.meters(service) {
                meters.request(outcome);
            }
            if settles {
                // 429 is how a zone says that it has enough, and RESOURCE_EXHAUSTED is gRPC's word for it.
                let enough = self.status == 429 || self.grpc_status == Some(RESOURCE_EXHAUSTED);
                w.engine.settle(service, worker::now(host::now_ns()), !self.failed() && !enough);
            }
        });
        true
    }
}

impl Downstream {
    /// A request in the context that the host calls by this number.
    pub fn new(context: u32) -> Self {
        Self { context, ..Self::default() }
    }

    fn decide(&mut self) -> Act {
        let Some(cluster) = host::text_property(&["xds", "cluster_name"], &["cluster_name"]) else {
            return Act::Pass;
        };
        let now = worker::now(host::now_ns());
        let act = worker::with(|w| {
            let service = w.engine.service(&cluster)?;
            self.service = Some(service);
            let user = w.engine.sticky(service).and_then(user);
            let coin = match user {
                Some(user) => Coin::User(sticky::coin(&cluster, user.as_bytes())),
                None => Coin::Chance(w.chance()),
            };
            let debug = w.debug_header;
            let (act, moved) = match w.engine.decide(service, now, coin, is_idempotent) {
                Decision::Pass => (Act::Pass, false),
                Decision::Serve { key, reason } => (Act::Serve(key.to_owned()), reason == Reason::Moved),
                Decision::Trial { key, .. } => (Act::Serve(key.to_owned()), false),
                Decision::Delay { key, reason, ms } => {
                    (Act::Delay(key.map(str::to_owned), ms), reason == Some(Reason::Moved))
                }
                Decision::Refuse(refusal) => (Act::Refuse(refusal), false),
            };
            self.moved = moved;
            self.chosen = match &act {
                Act::Pass => w.engine.chosen(service, None),
                Act::Serve(key) => w.engine.chosen(service, Some(key)),
                Act::Delay(key, _) => w.engine.chosen(service, key.as_deref()),
                Act::Refuse(_) => None,
            };
            if moved && let Some(meters) = w.meters(service) {
                meters.moved();
            }
            if debug {
                self.decided = Some(match &act {
                    Act::Pass => "any".to_owned(),
                    Act::Serve(key) => key.clone(),
                    Act::Refuse(refusal) => refusal.reason.to_owned(),
                    Act::Delay(key, ms) => format!("{} after {ms}ms", key.as_deref().unwrap_or("any")),
                });
            }
            Some(act)
        });
        act.flatten().unwrap_or(Act::Pass)
    }

    /// Whether what the client got is a failure, by HTTP or by gRPC.
    fn failed(&self) -> bool {
        self.status >= 500
            || self.grpc_status.is_some_and(|code| classify::grpc_status(code) == Outcome::Failed)
    }

    /// Whether this proxy made the answer for reasons of its own: a fault, a limit, no route.
    fn own_doing(&self) -> bool {
        let flags = host::int_property(&["response", "flags"]).unwrap_or_default().cast_unsigned();
        flags & flag::NOT_THE_ZONE != 0
    }

    /// Counts a failure of the zone that was chosen, if nobody upstream saw an attempt. An address shows that one was seen: a retry
    /// that the budget denies is an overflow as well, in the name of the attempt that it would have followed. Only on the way of
    /// a failure: it asks the host up to three times.
    fn charge(&self) {
        let Some((service, zone)) = self.service.zip(self.chosen) else { return };
        let flags = host::int_property(&["response", "flags"]).unwrap_or_default().cast_unsigned();
        let attempts = host::int_property(&["upstream", "request_attempt_count"]).unwrap_or_default();
        let seen = || attempts > 1 || host::property(&["upstream", "address"]).is_some();
        if flags & flag::NO_ATTEMPT == 0 || seen() {
            return;
        }
        let now = host::now_ns();
        worker::with(|w| {
            let attempt = w.engine.attempt(service, zone, now);
            w.finish(&attempt, Outcome::Failed, now);
        });
    }

    /// Answers in the service's stead. For a gRPC request Envoy turns the status into its gRPC one (503 into 14,
    /// UNAVAILABLE) and the whole into a trailers-only answer.
    fn refuse(&mut self, refusal: &Refusal) -> Action {
        self.refused = true;
        let retry_after = refusal.retry_after_s.to_string();
        let headers = vec![("retry-after", retry_after.as_str()), ("x-zonebreak-reason", refusal.reason)];
        let body = format!("zonebreak: {}\n", refusal.reason);
        match hostcalls::send_http_response(u32::from(refusal.status), headers, Some(body.as_bytes())) {
            Ok(()) => Action::Pause,
            Err(_) => Action::Continue,
        }
    }
}

fn grpc_status(of: MapType) -> Option<u32> {
    host::header(of, "grpc-status")?.parse().ok()
}

/// What tells the user of the request at hand apart.
fn user(by: &Sticky) -> Option<String> {
    let header = |name: &str| host::header(MapType::HttpRequestHeaders, name);
    match by {
        Sticky::Header(name) => header(name).filter(|value| !value.is_empty()),
        Sticky::Cookie(name) => sticky::cookie(&header("cookie")?, name).map(str::to_owned),
    }
}

/// Whether a request may safely be the one that finds a zone still broken.
fn is_idempotent() -> bool {
    let method = host::header(MapType::HttpRequestHeaders, ":method");
    method.is_some_and(|method| IDEMPOTENT_METHODS.contains(&method.as_str()))
}
