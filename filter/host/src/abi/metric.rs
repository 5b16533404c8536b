//! Host calls on metrics: a VM has handles of its own to metrics that the whole process shares.

use wasmtime::Caller;

use super::{
    Call, Status,
    guest::{Stop, serve},
};
use crate::{process::MetricKind, vm::VmState};

type Result = wasmtime::Result<u32>;

pub(super) fn define(caller: Caller<'_, VmState>, kind: u32, name: u32, name_size: u32, out: u32) -> Result {
    serve(caller, Call::DefineMetric, |guest| {
        let name = guest.text(name, name_size)?;
        let kind = MetricKind::from_abi(kind).ok_or(Status::BadArgument)?;
        let id = guest.state().define_metric(kind, &name);
        guest.put_u32(out, id)
    })
}

/// A counter only grows: an increment of 0 is refused, which is easy to run into.
pub(super) fn increment(caller: Caller<'_, VmState>, id: u32, offset: i64) -> Result {
    serve(caller, Call::IncrementMetric, |guest| {
        let state = guest.state();
        let (kind, metric) = state.metric(id).ok_or(Status::NotFound)?;
        let mut metrics = state.process.metrics();
        match kind {
            MetricKind::Counter if offset > 0 => metrics.add(metric, offset),
            MetricKind::Gauge => metrics.add(metric, offset),
            MetricKind::Counter | MetricKind::Histogram => return Err(Status::BadArgument.into()),
        }
        Ok(())
    })
}

pub(super) fn record(caller: Caller<'_, VmState>, id: u32, value: u64) -> Result {
    serve(caller, Call::RecordMetric, |guest| {
        let state = guest.state();
        let (kind, metric) = state.metric(id).ok_or(Status::NotFound)?;
        let mut metrics = state.process.metrics();
        match kind {
            MetricKind::Counter => metrics.add(metric, value as i64),
            MetricKind::Gauge => metrics.set(metric, value),
            // What matters of a histogram here is that something was recorded.
            MetricKind::Histogram => metrics.add(metric, 1),
        }
        Ok(())
    })
}

pub(super) fn get(caller: Caller<'_, VmState>, id: u32, out: u32) -> Result {
    serve(caller, Call::GetMetric, |guest| {
        let state = guest.state();
        let value = match state.metric(id) {
            Some((MetricKind::Histogram, _)) => Err(Stop::from(Status::BadArgument)),
            Some((_, metric)) => Ok(state.process.metrics().value(metric)),
            None => Err(Status::NotFound.into()),
        };
        guest.put_u64(out, value?)
    })
}
