//! Other Envoys, other control planes, other clocks.

use zonebreak_host::{
    mesh::{Effect, Fault, Setup},
    process::{Attributes, Node},
    proxy::Settings,
};

use crate::support::*;

/// The zone is left and taken back, so both roles see what they need.
fn works(setup: Setup) {
    let mut mesh = mesh(setup, &even());
    mesh.run(secs(30.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    mesh.run(secs(3.0));
    assert_eq!(state(&mesh, "az-a"), OPEN, "{:?}", transitions(&mesh));
    assert_eq!(mesh.attempts(A, mesh.last(secs(1.0))).begun, 0);
    mesh.heal_zone(A);
    mesh.run(secs(60.0));
    assert_eq!(state(&mesh, "az-a"), CLOSED, "{:?}", transitions(&mesh));
    assert_eq!(complaints(&mesh), [""; 0]);
}

fn node(zone: Option<&str>, attributes: Attributes) -> Settings {
    Settings { node: Node { zone: zone.map(str::to_owned), attributes }, ..Settings::default() }
}

#[test]
fn attributes_by_their_old_names_will_do() {
    works(Setup { proxy: node(Some("az-a"), Attributes::Plain), ..setup(2, 1) });
}

#[test]
fn endpoints_without_our_metadata_will_do() {
    works(Setup { host_ids: false, ..setup(2, 2) });
}

#[test]
fn a_proxy_whose_zone_is_unknown_or_has_no_endpoints_will_do() {
    works(Setup { proxy: node(None, Attributes::Xds), ..setup(2, 3) });
    works(Setup { proxy: node(Some("az-z"), Attributes::Xds), ..setup(2, 4) });
}

#[test]
fn an_unknown_zone_is_complained_of_once_a_thread() {
    let mesh = mesh(Setup { proxy: node(None, Attributes::Xds), ..setup(2, 3) }, &even());
    let lines = mesh.process().logged();
    let complaints = lines.iter().filter(|line| line.text.contains("zone is unknown")).count();
    assert_eq!(complaints, 1 + 1 + 2, "the scratch VM, the main thread and two workers");
}

/// A request for a cluster that the filter knows nothing of is none of its business.
#[test]
fn other_clusters_pass_untouched() {
    let mut mesh = mesh(setup(1, 5), &even());
    mesh.set_rate(0.0);
    let info = zonebreak_host::vm::StreamInfo { cluster: Some("other".into()), ..Default::default() };
    let place = zonebreak_host::proxy::Place::Downstream;
    let zonebreak_host::proxy::Opened::Stream(stream) = mesh.proxy().open(0, place, info) else { panic!() };
    let mut headers = zonebreak_host::vm::Headers::from([(":method", "GET")]);
    let before = headers.clone();
    assert_eq!(stream.request_headers(&mut headers, true), Ok(zonebreak_host::vm::Verdict::Continue));
    assert_eq!(headers, before);
    stream.close().unwrap();
    assert_eq!(metric(&mesh, "requests_total", ";outcome=answered"), 0);
}

/// The wall clock is set, while a zone is open and while none is: nothing trips by it, and no zone is left for ever.
#[test]
fn a_clock_that_jumps_trips_nothing_and_holds_nothing_up() {
    for jump in [-3600.0, -5.0, -0.5, 0.5, 5.0, 3600.0] {
        let mut mesh = mesh(setup(2, 6), &even());
        mesh.run(secs(30.0));
        mesh.process().set_clock_offset(jump);
        mesh.run(secs(30.0));
        assert_eq!(transitions(&mesh), [""; 0], "{jump} s");
        mesh.break_zone(A, Fault::always(Effect::Status(503)));
        mesh.run(secs(2.0));
        assert_eq!(state(&mesh, "az-a"), OPEN, "{jump} s");
        mesh.process().set_clock_offset(2.0 * jump);
        mesh.heal_zone(A);
        mesh.run(secs(60.0));
        assert_eq!(state(&mesh, "az-a"), CLOSED, "{jump} s: {:#?}", transitions(&mesh));
    }
}
