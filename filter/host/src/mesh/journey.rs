//! A request's way through Envoy: the filter chain, the router, its attempts; the way back is in [`super::ending`]. Calls the
//! filter's two roles where Envoy does, and counts what really happened.
//!
//! ```text
//!  arrival -> downstream headers -+-> refused by the filter
//!                                 +-> attempt -> upstream headers ... answer -+-> retry -> attempt
//!                                                                             +-> downstream headers, body, done
//! ```

use std::{rc::Rc, time::Duration};

use super::{
    End, Mesh, Target, choose,
    ending::Heard,
    fault::{Answer, Plan},
    flight::{Attempt, Flight},
    queue::Event,
};
use crate::{
    proxy::{FilterStream, Opened, Place},
    vm::{Headers, LocalResponse, StreamInfo, Verdict},
};

/// The header that carries the subset key from the filter to `header_to_metadata`.
const KEY_HEADER: &str = "x-zonebreak-serve";

// === impl Mesh ===

impl Mesh {
    pub(super) fn arrive(&mut self) {
        let now = self.now();
        if self.setup.rate <= 0.0 {
            self.idle = true;
            return;
        }
        let gap = -(1.0 - self.rng.f64()).ln() / self.setup.rate;
        self.queue.put(now + Duration::from_secs_f64(gap), Event::Arrival);

        let request = self.next_request;
        self.next_request += 1;
        let flight = Flight {
            worker: self.pick_worker(),
            deadline: now + self.setup.timeout,
            headers: self.request_headers(),
            key: None,
            downstream: None,
            attempt: None,
            attempts: 0,
            tried: Vec::new(),
            retrying: false,
        };
        if let Some((share, after)) = self.clients.leave
            && self.rng.f64() < share
        {
            self.queue.put(now + after, Event::Leave { request });
        }
        self.decide(request, flight);
    }

    fn pick_worker(&mut self) -> usize {
        let weights = &self.clients.workers;
        let whole: u32 = weights.iter().sum();
        if whole == 0 {
            return self.rng.usize(..self.proxy.workers());
        }
        let mut left = self.rng.u32(..whole);
        let place = weights.iter().position(|weight| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        place.unwrap_or_default()
    }

    fn request_headers(&mut self) -> Headers {
        let method = if self.rng.f64() < self.clients.posts { "POST" } else { "GET" };
        let mut headers = Headers::from([(":method", method), (":path", "/"), (":authority", &self.cluster)]);
        if let Some(key) = &self.clients.forged_key {
            headers.add(KEY_HEADER, key);
        }
        headers
    }

    /// The downstream filter chain.
    fn decide(&mut self, request: u64, mut flight: Flight) {
        let info = StreamInfo { cluster: Some(Rc::clone(&self.cluster)), ..StreamInfo::default() };
        match self.proxy.open(flight.worker, Place::Downstream, info) {
            Opened::Absent => {}
            Opened::Failed => return self.count_end(End::Crashed),
            Opened::Stream(stream) => {
                match stream.request_headers(&mut flight.headers, true) {
                    Err(_) => return self.count_end(End::Crashed),
                    Ok(Verdict::Respond(response)) => return self.refuse(stream, response),
                    Ok(Verdict::Pause) => {
                        self.record.stuck += 1;
                        return;
                    }
                    Ok(Verdict::Continue) => {}
                }
                flight.downstream = Some(stream);
                flight.key = flight.headers.remove(KEY_HEADER);
            }
        }
        self.flights.insert(request, flight);
        self.attempt(request);
    }

    /// A local reply passes the filter's own encoding callbacks, and no attempt is made.
    fn refuse(&mut self, stream: FilterStream, response: LocalResponse) {
        let mut headers = response.headers;
        headers.set(":status", &response.status.to_string());
        let size = response.body.len() as u32;
        let passed = stream
            .response_headers(&mut headers, size == 0)
            .and_then(|_| stream.response_body(size, true))
            .and_then(|_| stream.close());
        self.count_end(if passed.is_ok() { End::Refused } else { End::Crashed });
    }

    /// The router chooses a host, and the upstream filter chain sees the attempt.
    pub(super) fn attempt(&mut self, request: u64) {
        let (now, coin) = (self.now(), self.rng.f64());
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let target = choose(&self.localities, flight.key.as_deref(), &flight.tried, coin);
        let Some(Target { zone, priority }) = target else {
            return self.finish(request, Heard::Nothing(503));
        };
        let deadline = flight.deadline;
        flight.attempts += 1;
        flight.tried.push(priority);
        let attempt = flight.attempts;
        self.record.attempt(now, zone).begun += 1;
        if flight.headers.get(KEY_HEADER).is_some() {
            self.record.leaked += 1;
        }
        let info = StreamInfo {
            cluster: Some(Rc::clone(&self.cluster)),
            host: self.hosts.get(zone).map(Rc::clone),
            attempt: u64::from(attempt),
            ..StreamInfo::default()
        };
        let stream = match self.proxy.open(flight.worker, Place::Upstream, info) {
            Opened::Absent => None,
            Opened::Failed => return self.crash(request),
            Opened::Stream(stream) => match stream.request_headers(&mut flight.headers, true) {
                Err(_) => return self.crash(request),
                Ok(_) => Some(stream),
            },
        };
        let pace = self.pace();
        let mut plan = Plan::draw(pace, &self.faults[zone], &mut self.rng);
        if plan.answer == Answer::Status(200) && self.rng.f64() < self.setup.base_errors {
            plan.answer = Answer::Status(500);
        }
        if let Some(flight) = self.flights.get_mut(&request) {
            flight.attempt = Some(Attempt { stream, zone, began: now, answer: plan.answer });
        }
        match now + plan.after {
            answered if answered < deadline && plan.answer != Answer::Never => {
                self.queue.put(answered, Event::Answer { request, attempt });
            }
            _ => self.queue.put(deadline, Event::Timeout { request }),
        }
    }
}
