//! The downstream role: asks the engine where a request may go, carries that out, and counts what the client got.

use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext},
    types::Action,
};
use zonebreak_core::engine::{Decision, Reason, Refusal, ServiceId};

use crate::{host, meters::Final, worker};

/// One request.
#[derive(Debug, Default)]
pub struct Downstream {
    service: Option<ServiceId>,
    /// For the debug header, when that is asked for.
    decided: Option<String>,
    refused: bool,
    status: u16,
}

/// A decision in the filter's own words, copied out of the engine so that host calls run without it.
enum Act {
    Pass,
    Serve(String),
    Refuse(Refusal),
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
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        if self.service.is_some() && !self.refused {
            self.status = host::status();
        }
        if let Some(decided) = &self.decided {
            host::set_response_header("x-zonebreak-decision", decided);
        }
        Action::Continue
    }
}

impl Context for Downstream {
    fn on_done(&mut self) -> bool {
        let Some(service) = self.service else { return true };
        let outcome = match (self.refused, self.status) {
            (true, _) => Final::Refused,
            // No answer was ever sent: the client went away, which is nobody's failure.
            (false, 0) => return true,
            (false, status) if status < 500 => Final::Answered,
            (false, _) => Final::Failed,
        };
        worker::with(|w| w.meters(service).map(|meters| meters.request(outcome)));
        true
    }
}

impl Downstream {
    fn decide(&mut self) -> Act {
        let Some(cluster) = host::text_property(&["xds", "cluster_name"], &["cluster_name"]) else {
            return Act::Pass;
        };
        let now = worker::now(host::now_ns());
        let act = worker::with(|w| {
            let service = w.engine.service(&cluster)?;
            self.service = Some(service);
            let coin = w.coin();
            let debug = w.debug_header;
            let (act, moved) = match w.engine.decide(service, now, coin, is_idempotent) {
                Decision::Pass => (Act::Pass, false),
                Decision::Serve { key, reason } => (Act::Serve(key.to_owned()), reason == Reason::Moved),
                Decision::Trial { key, .. } => (Act::Serve(key.to_owned()), false),
                Decision::Refuse(refusal) => (Act::Refuse(refusal), false),
            };
            if moved && let Some(meters) = w.meters(service) {
                meters.moved();
            }
            if debug {
                self.decided = Some(match &act {
                    Act::Pass => "any".to_owned(),
                    Act::Serve(key) => key.clone(),
                    Act::Refuse(refusal) => refusal.reason.to_owned(),
                });
            }
            Some(act)
        });
        act.flatten().unwrap_or(Act::Pass)
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

/// Whether a request may safely be the one that finds a zone still broken.
fn is_idempotent() -> bool {
    let method = host::header(proxy_wasm::types::MapType::HttpRequestHeaders, ":method");
    matches!(method.as_deref(), Some("GET" | "HEAD" | "OPTIONS" | "TRACE"))
}
