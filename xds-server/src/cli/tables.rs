//! The models as text for people. Every column is of fixed meaning, `-` where there is nothing to say.

use jiff::{SignedDuration, Timestamp};
use zonebreak_core::units::Percent;

use super::output::columns;
use crate::model::{
    ChangeRow, Fleet, HeldRow, LoadRow, ProblemRow, Proxy, QuarantineRow, ServiceRow, ShiftRow, Standing,
    Status, TrialRow, TypeState, Why, WhyEndpoint, WhyZone, ZoneRow, ZoneState,
};

/// Changes on a screen without much room.
const LAST_CHANGES: usize = 5;

/// Proxies that are named before the rest is counted.
const WAITED_FOR: usize = 3;

/// Types in the order of the columns: as Envoy needs them.
const TYPES: [&str; 5] = ["CDS", "EDS", "LDS", "RDS", "ECDS"];

/// `zone ls`.
pub fn zones(zones: &[ZoneRow], shifts: &[ShiftRow], now: Timestamp, wide: bool) -> String {
    let row = |zone: &ZoneRow| {
        [
            zone.zone.to_string(),
            text(&zone.region),
            zone.capacity.map_or_else(dash, |capacity| capacity.to_string()),
            format!("{}/{}", zone.serving, zone.endpoints),
            state(zone.state).to_owned(),
            zone.keep_percent.map_or_else(dash, percent),
            until(zone.until, now),
            text(zone.reason.as_deref().unwrap_or_default()),
            text(zone.actor.as_deref().unwrap_or_default()),
            text(&zone.aliases.iter().map(|alias| alias.as_str()).collect::<Vec<_>>().join(",")),
        ]
    };
    let mut rows: Vec<[String; 10]> = zones.iter().map(row).collect();
    for shift in shifts {
        let Some(service) = &shift.service else { continue };
        rows.push([
            format!("{}/{service}", shift.zone),
            dash(),
            dash(),
            dash(),
            state(if shift.keep_percent == Percent::ZERO { ZoneState::Drained } else { ZoneState::Reduced })
                .to_owned(),
            percent(shift.keep_percent),
            until(Some(shift.expires_at), now),
            text(&shift.reason),
            text(&shift.actor),
            dash(),
        ]);
    }
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    if rows.is_empty() {
        return "no zone is known".to_owned();
    }
    let header =
        ["ZONE", "REGION", "CAPACITY", "ENDPOINTS", "STATE", "KEEP", "UNTIL", "REASON", "ACTOR", "ALIASES"];
    narrow::<10, 8>(header, rows, wide)
}

/// `proxies`.
pub fn proxies(proxies: &[Proxy], now: Timestamp, wide: bool) -> String {
    if proxies.is_empty() {
        return "no proxy is connected".to_owned();
    }
    let row = |proxy: &Proxy| {
        let cell =
            |short: &str| proxy.types.get(short).map_or_else(dash, |state| standing(state.state).to_owned());
        let [cds, eds, lds, rds, ecds] = TYPES.map(cell);
        let age = age(now.duration_since(proxy.connected_since));
        let (id, zone) = (text(&proxy.id), text(&proxy.zone));
        let (protocol, version) = (proxy.protocol.clone(), text(&proxy.version));
        [
            id,
            zone,
            protocol,
            version,
            cds,
            eds,
            lds,
            rds,
            ecds,
            age,
            text(&proxy.cluster),
            proxy.peer.clone(),
            text(&proxy.view),
        ]
    };
    let [cds, eds, lds, rds, ecds] = TYPES;
    let header =
        ["NODE", "ZONE", "PROTOCOL", "VERSION", cds, eds, lds, rds, ecds, "AGE", "CLUSTER", "PEER", "VIEW"];
    narrow::<13, 10>(header, proxies.iter().map(row).collect(), wide) + &passed_over(proxies)
}

/// Those whose word does not count in waves; nothing when there are none.
fn passed_over(proxies: &[Proxy]) -> String {
    let row = |proxy: &Proxy| Some([text(&proxy.id), text(proxy.passed_over.as_ref()?)]);
    let rows: Vec<_> = proxies.iter().filter_map(row).collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("\n{}", columns(["PASSED OVER", "BECAUSE"], rows.into_iter()))
    }
}

/// `proxies ID`: every type with its versions, and every refusal in full.
pub fn proxy(proxy: &Proxy, now: Timestamp) -> String {
    let subscribed =
        |state: &TypeState| state.subscribed.map_or_else(|| "all".to_owned(), |names| names.to_string());
    let row = |(name, state): (&String, &TypeState)| {
        let version = |version: &Option<String>| version.clone().unwrap_or_else(dash);
        [
            name.clone(),
            standing(state.state).to_owned(),
            subscribed(state),
            version(&state.sent),
            version(&state.acked),
        ]
    };
    let mut out = format!(
        "node       {}\ncluster    {}\nzone       {}\nview       {}\npeer       {}\nprotocol   {}\nversion    {}\nconnected  {} ({})\n\n",
        text(&proxy.id),
        text(&proxy.cluster),
        text(&proxy.zone),
        text(&proxy.view),
        proxy.peer,
        proxy.protocol,
        text(&proxy.version),
        proxy.connected_since,
        age(now.duration_since(proxy.connected_since)),
    );
    out += &columns(["TYPE", "STATE", "NAMES", "SENT", "ACKED"], proxy.types.iter().map(row));
    for (name, nack) in proxy.types.iter().filter_map(|(name, state)| Some((name, state.nack.as_ref()?))) {
        out +=
            &format!("\n{name} version {} was refused at {}:\n  {}\n", nack.version, nack.at, nack.message);
    }
    out
}

/// `status`.
pub fn status(status: &Status, now: Timestamp, wide: bool) -> String {
    let source = &status.source;
    let link = if source.connected { "connected" } else { "NOT CONNECTED, serving the last good state" };
    let since = age(now.duration_since(source.since));
    let applied =
        source.applied_revision.map_or_else(|| "nothing loaded yet".to_owned(), |r| format!("revision {r}"));
    let mut out = format!("source    {} {} ({link} for {since}, {applied})\n", source.kind, source.location);
    if let Some(error) = source.error.as_ref().filter(|_| !source.connected) {
        out += &format!("          failed to {error}\n");
    }
    if let Some(saved_at) = source.saved_at {
        let old = age(now.duration_since(saved_at));
        out += &format!("          served from disk: the state of {old} ago ({saved_at:.0})\n");
    }
    if let Some(held) = &source.held {
        out += &format!("          HELD: {held}\n");
    }
    if let Some(disk) = &status.disk {
        let saved = disk.saved_at.map_or_else(
            || "nothing saved yet".to_owned(),
            |at| format!("saved {} ago", age(now.duration_since(at))),
        );
        out += &format!("disk      {} ({saved})\n", disk.file);
        if let Some(error) = &disk.error {
            out += &format!("          {error}\n");
        }
    }
    match &status.filter {
        Some(filter) => {
            out +=
                &format!("filter    {} (sha256 {:.12}, by {})\n", filter.file, filter.sha256, filter.delivery)
        }
        None => out += "filter    none\n",
    }
    out += &format!("proxies   {}\n", fleet(&status.proxies));
    if status.gates_expired > 0 {
        out += &format!(
            "gates     {} OPENED BY TIME: a proxy did not answer, and got the rest of a change without it; the log says which\n",
            status.gates_expired
        );
    }
    if let Some(trial) = &status.trial {
        out += &on_trial(trial, now);
    }
    out += &format!("\n{}", zones(&status.zones, &status.shifts, now, wide));
    out += &format!("\n{}", services(&status.services, &status.zones));
    if wide && !status.load.is_empty() {
        out += &format!("\n{}", load(&status.load));
    }
    if !status.changes.is_empty() {
        out += &format!("\n{}", changes(&status.changes, now, wide));
    }
    out += &quarantine(&status.quarantine, now);
    if !status.held.is_empty() {
        out += &format!("\n{}", held(&status.held, now));
    }
    if !status.problems.is_empty() {
        out += &format!("\n{}", problems(&status.problems));
    }
    out
}

/// A change that a few try before all others, in one line.
fn on_trial(trial: &TrialRow, now: Timestamp) -> String {
    let some = |what: &str, all: &[String]| match all.split_at_checked(WAITED_FOR) {
        _ if all.is_empty() => String::new(),
        Some((some, more)) if !more.is_empty() => {
            format!(", {what} {} and {} more", some.join(", "), more.len())
        }
        _ => format!(", {what} {}", all.join(", ")),
    };
    let waiting = some("waiting for", &trial.waiting_for) + &some("GONE AWAY:", &trial.gone);
    let (have, age) = (trial.streams, age(now.duration_since(trial.since)));
    let has = if have == 1 { "1 proxy has it".to_owned() } else { format!("{have} proxies have it") };
    format!(
        "on trial  change {} ({}): wave {}, {has} for {age}{waiting}\n",
        trial.change, trial.cause, trial.wave
    )
}

/// Endpoints by zone.
fn services(services: &[ServiceRow], zones: &[ZoneRow]) -> String {
    if services.is_empty() {
        return "no service is known\n".to_owned();
    }
    let row = |service: &ServiceRow| {
        let by_zone = zones.iter().filter_map(|zone| Some((zone, service.endpoints.get(&zone.zone)?)));
        let by_zone: Vec<String> = by_zone.map(|(zone, number)| format!("{} {number}", zone.zone)).collect();
        let out = if service.out_of_service == 0 { dash() } else { service.out_of_service.to_string() };
        let mode = format!("{:?}", service.mode).to_lowercase();
        [service.service.to_string(), mode, text(&by_zone.join(", ")), out]
    };
    columns(["SERVICE", "MODE", "ENDPOINTS", "OUT"], services.iter().map(row))
}

/// `topology why`.
pub fn why(why: &Why) -> String {
    let zone = why.zone.as_ref().map_or_else(|| "no known zone".to_owned(), |zone| format!("zone {zone}"));
    let mut out = format!("service   {}\nclient    in {zone}\n", why.service);
    if let Some(proxy) = &why.proxy {
        let has =
            if proxy.in_sync { "has acknowledged what follows" } else { "has NOT acknowledged what follows" };
        let version = |version: &Option<String>| version.clone().unwrap_or_else(dash);
        let (sent, acked) = (version(&proxy.sent), version(&proxy.acked));
        out += &format!("proxy     {} {has} (EDS sent {sent}, acked {acked}", proxy.id);
        if proxy.filter_sent.is_some() {
            let (sent, acked) = (version(&proxy.filter_sent), version(&proxy.filter_acked));
            out += &format!("; ECDS sent {sent}, acked {acked}");
        }
        out += ")\n";
        for (kind, nack) in &proxy.refused {
            out += &format!("          REFUSED {kind} version {}: {}\n", nack.version, nack.message);
        }
    }
    let mode = format!("{:?}", why.mode).to_lowercase();
    let weights: Vec<String> = why.weights.iter().map(|(zone, weight)| format!("{zone} {weight}")).collect();
    let weights = if weights.is_empty() { "by endpoints".to_owned() } else { weights.join(", ") };
    out += &format!("policy    mode {mode}, weights {weights}\n\n");
    let row = |zone: &WhyZone| {
        [
            zone.zone.to_string(),
            zone.priority.to_string(),
            zone.weight.to_string(),
            format!("{}%", zone.share_percent),
            format!("{}/{}", zone.serving, zone.endpoints),
            format!("{}; weight: {}", zone.priority_because, zone.weight_because),
        ]
    };
    out +=
        &columns(["ZONE", "PRIORITY", "WEIGHT", "SHARE", "ENDPOINTS", "BECAUSE"], why.zones.iter().map(row));
    if !why.out.is_empty() {
        let row = |endpoint: &WhyEndpoint| {
            let state = format!("{:?}", endpoint.state).to_lowercase();
            [endpoint.instance.to_string(), endpoint.zone.to_string(), state, endpoint.because.clone()]
        };
        out += &format!("\n{}", columns(["OUT", "ZONE", "STATE", "BECAUSE"], why.out.iter().map(row)));
    }
    for note in &why.notes {
        out += &format!("\n{note}");
    }
    out
}

/// Requests and errors from zone to zone.
fn load(load: &[LoadRow]) -> String {
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    let row = |row: &LoadRow| {
        [
            row.service.to_string(),
            row.client_zone.as_ref().map_or_else(dash, ToString::to_string),
            row.target_zone.to_string(),
            row.requests.to_string(),
            row.errors.to_string(),
            percent(row.error_rate),
            format!("{} to {}", percent(row.error_lower), percent(row.error_upper)),
        ]
    };
    columns(["SERVICE", "FROM", "TO", "REQUESTS", "ERRORS", "RATE", "PLAUSIBLE"], load.iter().map(row))
}

/// The last changes, a few of them unless there is room; and who refused one.
fn changes(changes: &[ChangeRow], now: Timestamp, wide: bool) -> String {
    let shown = || changes.iter().take(if wide { usize::MAX } else { LAST_CHANGES });
    let row = |row: &ChangeRow| {
        let millis = |millis: Option<f64>| millis.map_or_else(dash, |millis| format!("{millis:.1} ms"));
        let some = |number: usize| if number == 0 { dash() } else { number.to_string() };
        [
            row.id.to_string(),
            age(now.duration_since(row.published_at)),
            format!("{}/{}", row.acked, row.proxies),
            some(row.nacked),
            millis(row.p50_ms),
            millis(row.p99_ms),
            row.cause.clone(),
            row.revision.to_string(),
            row.sent.to_string(),
            some(row.gone),
            row.views.join(","),
        ]
    };
    let header =
        ["CHANGE", "AGE", "ACKED", "NACKED", "P50", "P99", "CAUSE", "REVISION", "SENT", "GONE", "VIEWS"];
    let mut out = narrow::<11, 7>(header, shown().map(row).collect(), wide);
    for (change, nack) in shown().flat_map(|change| change.nacks.iter().map(move |nack| (change, nack))) {
        let blamed =
            if nack.resources.is_empty() { String::new() } else { format!(" {}", nack.resources.join(", ")) };
        out += &format!("  {}: {} refused {}{blamed}: {}\n", change.id, nack.node, nack.kind, nack.message);
    }
    out
}

/// What nobody gets until it changes; nothing when there is none.
pub fn quarantine(quarantine: &[QuarantineRow], now: Timestamp) -> String {
    if quarantine.is_empty() {
        return String::new();
    }
    let row = |row: &QuarantineRow| {
        let (since, change) = (age(now.duration_since(row.since)), row.change.to_string());
        [row.name.clone(), row.kind.clone(), since, change, row.node.clone(), row.message.clone()]
    };
    let header = ["QUARANTINE", "TYPE", "FOR", "CHANGE", "REFUSED BY", "BECAUSE"];
    format!("\n{}", columns(header, quarantine.iter().map(row)))
}

/// What is held back, and how to let it through.
fn held(held: &[HeldRow], now: Timestamp) -> String {
    let row = |row: &HeldRow| {
        let number = |number: usize| if row.since.is_some() { number.to_string() } else { dash() };
        [
            row.id.clone(),
            number(row.before),
            number(row.after),
            number(row.served),
            row.since.map_or_else(dash, |since| age(now.duration_since(since))),
            row.reason.clone(),
        ]
    };
    let table = columns(["HELD", "BEFORE", "AFTER", "SERVED", "FOR", "WHY"], held.iter().map(row));
    format!("{table}  `zonebreak topology confirm ID --reason TEXT` lets one through\n")
}

/// Refused values, one a line.
fn problems(problems: &[ProblemRow]) -> String {
    let line = |problem: &ProblemRow| {
        let at = problem
            .line
            .zip(problem.column)
            .map(|(line, column)| format!(":{line}:{column}"))
            .unwrap_or_default();
        let kept = if problem.kept { " (the last good value stays)" } else { "" };
        format!("  {}{at}: {}{kept}\n", problem.key, problem.message)
    };
    format!("{} refused:\n{}", problems.len(), problems.iter().map(line).collect::<String>())
}

/// How many proxies have what they should have.
fn fleet(fleet: &Fleet) -> String {
    if fleet.connected == 0 {
        return "none connected".to_owned();
    }
    let mut out = format!("{} of {} in sync", fleet.synced, fleet.connected);
    for (number, what) in [(fleet.stale, "on the way"), (fleet.nacked, "REFUSED something")] {
        if number > 0 {
            out += &format!(", {number} {what}");
        }
    }
    out
}

/// The first `M` columns unless there is room for all.
fn narrow<const N: usize, const M: usize>(header: [&str; N], rows: Vec<[String; N]>, wide: bool) -> String {
    if wide {
        return columns(header, rows);
    }
    let header: [&str; M] = std::array::from_fn(|column| header[column]);
    columns(header, rows.into_iter().map(|row| std::array::from_fn(|column| row[column].clone())))
}

fn state(state: ZoneState) -> &'static str {
    match state {
        ZoneState::Serving => "serving",
        ZoneState::Reduced => "reduced",
        ZoneState::Drained => "drained",
        ZoneState::Empty => "empty",
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Synced => "SYNCED",
        Standing::Stale => "STALE",
        Standing::Nacked => "NACKED",
    }
}

fn percent(percent: Percent) -> String {
    percent.to_string().replace(' ', "")
}

/// `12:30:00Z (29m)`: when, and how long that is from now; with the day where that is not plain.
fn until(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(dash, |at| {
        let left = at.duration_since(now);
        let form = if left.as_hours() < 12 { "%H:%M:%SZ" } else { "%Y-%m-%dT%H:%MZ" };
        format!("{} ({})", at.strftime(form), age(left))
    })
}

/// A span in its largest unit, as Kubernetes prints ages.
fn age(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn text(text: &str) -> String {
    if text.is_empty() { dash() } else { text.to_owned() }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests;
