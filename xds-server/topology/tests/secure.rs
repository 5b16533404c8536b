//! An etcd that talks to nobody without a certificate: listing, watching and writing, and what is said when the files are wrong.

mod support;

use std::fs;

use support::{Certificates, Etcd, endpoint, status, topology, until};
use tokio_util::sync::CancellationToken;
use zonebreak_topology::{EtcdError, EtcdOptions, EtcdTls, watch_etcd};

#[tokio::test]
async fn with_a_certificate_all_goes_as_without() {
    let etcd = Etcd::start_secure().await;
    etcd.put("endpoints/s/a", &endpoint("az-a")).await;
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    topology(&mut source, "the listing", |t| t.endpoints.len() == 1).await;
    etcd.put("endpoints/t/a", &endpoint("az-a")).await;
    topology(&mut source, "the watch", |t| t.endpoints.len() == 2).await;
}

#[tokio::test]
async fn who_does_not_know_the_other_is_told_why() {
    let etcd = Etcd::start_secure().await;
    let stranger = Certificates::make();
    let told = async |tls: EtcdTls| {
        let error = EtcdOptions { tls, ..etcd.options() }.topology().await.unwrap_err();
        assert!(matches!(error, EtcdError::Unreachable { .. }), "{error:?}");
        error.to_string()
    };
    let other_authority = EtcdTls { ca_file: Some(stranger.ca.clone()), ..etcd.options().tls };
    let error = told(other_authority).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    // What the system trusts is another matter, if it trusts anybody.
    let error = told(EtcdTls { ca_file: None, ..etcd.options().tls }).await;
    assert!(error.contains("certificate") || error.contains("certs"), "{error}");
    let nobody = EtcdTls { identity: None, ..etcd.options().tls };
    // The end of the connection may come before the alert that says why: whoever asks again hears it.
    until("the alert", async || {
        let error = told(nobody.clone()).await;
        (error.contains("BadCertificate") && error.contains("etcd.cert_file")).then_some(())
    })
    .await;
}

/// A sidecar renews the certificate: what is read at the next connection is the new one, without a restart.
#[tokio::test]
async fn files_that_come_later_or_change_are_taken_up() {
    let etcd = Etcd::start_secure().await;
    etcd.put("endpoints/s/a", &endpoint("az-a")).await;
    let good = etcd.certificates();
    let directory = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| directory.path().join(name));
    let tls = EtcdTls { identity: Some((certificate.clone(), key.clone())), ..good.options() };
    let options = EtcdOptions { tls, ..etcd.options() };
    let error = options.topology().await.unwrap_err().to_string();
    assert!(error.contains(&certificate.display().to_string()) && error.contains("No such file"), "{error}");
    fs::copy(&good.key, &certificate).unwrap();
    let error = options.topology().await.unwrap_err().to_string();
    assert!(error.contains("no PEM with a CERTIFICATE in it"), "{error}");

    let mut source = watch_etcd(options, None, CancellationToken::new());
    status(&mut source, "the trouble to be told", |s| s.last_error.is_some()).await;
    fs::copy(&good.certificate, &certificate).unwrap();
    fs::copy(&good.key, &key).unwrap();
    topology(&mut source, "the listing", |t| t.endpoints.len() == 1).await;
}
