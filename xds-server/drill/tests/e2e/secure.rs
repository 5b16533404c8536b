//! The port where proxies connect, with TLS: a real Envoy with a certificate gets its configuration, one without gets nothing, and
//! a certificate that is renewed is shown to the next that connects.

use serde_json::Value;
use zonebreak_drill::{
    lab::{Authority, Certificate, Envoy, Lab, Plane, PlaneOptions, until},
    world::{Protocol, SOON, proxy_options},
};

use crate::support::turn;

const CONFIG: &str = "xds: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}\n";

const TOPOLOGY: &str = "zones: {az-a: {region: r}}\nservices: {s: {}}\nendpoints: {s: {one: {zone: az-a, \
                        address: 127.0.0.1, port: 9}}}\n";

fn write(lab: &Lab, name: &str, of: &Certificate) {
    lab.write(&format!("{name}.pem"), &of.certificate).unwrap();
    lab.write(&format!("{name}.key"), &of.key).unwrap();
}

/// A proxy with the block of the shipped bootstrap that is a comment in it.
async fn envoy(lab: &Lab, plane: &Plane, name: &str, shows: &str) -> Envoy {
    let mut options = proxy_options(lab, plane, name, "az-a", Protocol::Delta).unwrap();
    // Its lines begin with # and no space, or with two; remarks for people have one.
    let line = |line: &str| match line.strip_prefix("    #") {
        Some(block) if block.starts_with("  ") || !block.starts_with(' ') => format!("    {block}\n"),
        _ => format!("{line}\n"),
    };
    let with_tls: String = options.bootstrap.lines().map(line).collect();
    assert!(with_tls.contains("\n    transport_socket:\n      name:"), "{with_tls}");
    let here = |name: &str| lab.path().join(name).display().to_string();
    options.bootstrap = with_tls
        .replace("/etc/zonebreak/cert.pem", &here(&format!("{shows}.pem")))
        .replace("/etc/zonebreak/key.pem", &here(&format!("{shows}.key")))
        .replace("/etc/zonebreak/ca.pem", &here("ca.pem"));
    Envoy::start(lab, options).await.unwrap()
}

/// Waits until so many proxies have what they should have.
async fn synced(plane: &Plane, wanted: usize) {
    until(&format!("{wanted} proxies in sync"), SOON, async || {
        let proxies: Value = plane.admin().json("/proxies").await.map_err(|e| e.to_string())?;
        let all = proxies.as_array().into_iter().flatten();
        let synced = all.filter(|proxy| proxy["state"] == "synced").count();
        if synced == wanted { Ok(()) } else { Err(proxies.to_string()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_with_a_certificate_are_served_and_others_are_not() {
    let _turn = turn().await;
    let lab = Lab::new().unwrap();
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    lab.write("ca.pem", authority.pem()).unwrap();
    write(&lab, "server", &authority.issue("zonebreak").unwrap());
    write(&lab, "proxy", &authority.issue("sidecar").unwrap());
    write(&lab, "stranger", &stranger.issue("sidecar").unwrap());
    let options = PlaneOptions {
        config: Some(CONFIG.to_owned()),
        topology: Some(TOPOLOGY.to_owned()),
        ..Default::default()
    };
    let mut plane = Plane::start(&lab, options).await.unwrap();

    let _first = envoy(&lab, &plane, "first", "proxy").await;
    synced(&plane, 1).await;

    let refused = envoy(&lab, &plane, "refused", "stranger").await;
    until("the stranger to be turned away, and more than once", SOON, async || {
        let stat = refused.stat("cluster.zonebreak.upstream_cx_connect_fail").await;
        let closed = refused.stat("cluster.zonebreak.upstream_cx_destroy_remote").await;
        let tries = [stat, closed].map(|stat| stat.ok().flatten().unwrap_or(0)).iter().sum::<u64>();
        if tries > 1 { Ok(()) } else { Err(tries.to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(refused.stat("cluster_manager.cds.update_success").await.unwrap(), Some(0));
    until("the log to say so", SOON, async || {
        let log = plane.process().log();
        if log.contains("a client was turned away") { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();

    // Nonsense changes nothing; a certificate under a name that proxies do not expect shows that it is the new one that is shown.
    lab.write("server.pem", "half-writ").unwrap();
    let _second = envoy(&lab, &plane, "second", "proxy").await;
    synced(&plane, 2).await;
    write(&lab, "server", &authority.issue("another").unwrap());
    let third = envoy(&lab, &plane, "third", "proxy").await;
    until("the certificate of another to be refused", SOON, async || {
        let refused = third.stat("cluster.zonebreak.ssl.fail_verify_san").await.ok().flatten();
        if refused.is_some_and(|refused| refused > 0) { Ok(()) } else { Err(format!("{refused:?}")) }
    })
    .await
    .unwrap();
    write(&lab, "server", &authority.issue("zonebreak").unwrap());
    synced(&plane, 3).await;
    let log = plane.process().log();
    assert!(log.contains("the files before stay in force") && log.contains("server.pem"), "{log}");
}
