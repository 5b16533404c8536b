//! etcd as a child: data and address survive a kill, and two of them run side by side.

use zonebreak_drill::lab::{Etcd, Lab};

async fn client(etcd: &Etcd) -> etcd_client::Client {
    etcd_client::Client::connect([etcd.url()], None).await.unwrap()
}

#[tokio::test]
async fn data_and_address_survive_a_kill() {
    let lab = Lab::new().unwrap();
    let mut etcd = Etcd::start(&lab).await.unwrap();
    let url = etcd.url();
    client(&etcd).await.put("key", "value", None).await.unwrap();
    etcd.kill();
    assert!(etcd.process().exited().is_some());
    etcd.restart().await.unwrap();
    assert_eq!(etcd.url(), url);
    let found = client(&etcd).await.get("key", None).await.unwrap();
    assert_eq!(found.kvs()[0].value(), b"value");
}

#[tokio::test]
async fn two_run_side_by_side_and_share_nothing() {
    let lab = Lab::new().unwrap();
    let (one, two) = tokio::join!(Etcd::start_named(&lab, "one"), Etcd::start_named(&lab, "two"));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.url(), two.url());
    client(&one).await.put("key", "one", None).await.unwrap();
    assert!(client(&two).await.get("key", None).await.unwrap().kvs().is_empty());
}

#[tokio::test]
async fn the_lab_leaves_nothing_behind() {
    let lab = Lab::new().unwrap();
    let folder = lab.path().to_owned();
    let etcd = Etcd::start(&lab).await.unwrap();
    drop(lab);
    assert!(folder.join("etcd.log").is_file(), "the child still needs its folder");
    drop(etcd);
    assert!(!folder.exists());
}
