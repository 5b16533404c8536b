//! The last changes: what caused each, when it was seen and published. What became of it with the proxies is the engine's to
//! say; this puts the two together.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use zonebreak_xds::{ChangeId, ChangeStatus, Server};

use crate::model::{ChangeRow, RefusalRow};

/// As many as the engine remembers.
const KEPT: usize = 256;

/// The causes of the last changes.
#[derive(Debug, Default)]
pub struct History {
    causes: Mutex<VecDeque<Caused>>,
}

/// One change and its cause.
#[derive(Debug, Clone)]
pub struct Caused {
    /// Its number.
    pub change: u64,
    /// The revision of the topology.
    pub revision: i64,
    /// What changed, by key.
    pub cause: String,
    /// Which views are others than before.
    pub views: Vec<String>,
    /// When the server heard of it.
    pub seen_at: Timestamp,
}

// === impl History ===

impl History {
    /// Notes one more.
    pub fn note(&self, caused: Caused) {
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        causes.push_back(caused);
        if causes.len() > KEPT {
            causes.pop_front();
        }
    }

    /// The changes that reached a view, the newest first.
    pub fn rows(&self, server: &Server) -> Vec<ChangeRow> {
        let engine: HashMap<ChangeId, ChangeStatus> =
            server.changes().into_iter().map(|status| (status.change, status)).collect();
        let causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |caused: &Caused| Some(row(caused, engine.get(&ChangeId(caused.change))?));
        causes.iter().rev().filter_map(row).collect()
    }
}

fn row(caused: &Caused, status: &ChangeStatus) -> ChangeRow {
    let millis = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1000.0);
    let refusal = |refusal: &zonebreak_xds::Refusal| RefusalRow {
        node: refusal.node.clone(),
        kind: refusal.type_url.short().to_uppercase(),
        message: refusal.message.to_string(),
        resources: refusal.resources.iter().map(ToString::to_string).collect(),
    };
    ChangeRow {
        id: caused.change,
        cause: caused.cause.clone(),
        revision: caused.revision,
        seen_at: caused.seen_at,
        // A clock far outside of every calendar counts as the moment it was seen.
        published_at: Timestamp::try_from(status.published_at).unwrap_or(caused.seen_at),
        views: caused.views.clone(),
        proxies: status.streams,
        sent: status.sent,
        acked: status.acked,
        nacked: status.refused,
        gone: status.gone,
        p50_ms: millis(status.p50),
        p99_ms: millis(status.p99),
        last_ms: millis(status.last),
        nacks: status.refusals.iter().map(refusal).collect(),
    }
}
