//! Registration against a real etcd: it stays registered through whatever etcd does, and is gone at once when told to stop.

mod support;

use std::{collections::BTreeMap, time::Duration};

use support::{Etcd, PATIENCE, endpoint, until};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use zonebreak_core::{
    names::{ServiceName, Zone},
    units::Millis,
};
use zonebreak_topology::{
    EtcdOptions,
    register::{self, RegisterError, RegisterEvent, RegisterOptions},
};

const KEY: &str = "endpoints/order-svc/10.0.0.1:8080";

fn options(ttl: u64) -> RegisterOptions {
    RegisterOptions {
        service: ServiceName::new("order-svc").unwrap(),
        instance: None,
        zone: Zone::new("az-a").unwrap(),
        region: "eu".into(),
        address: "10.0.0.1:8080".into(),
        weight: 3,
        labels: BTreeMap::from([("version".into(), "7".into())]),
        ttl: Millis::secs(ttl),
    }
}

#[tokio::test]
async fn a_registration_in_a_zone_that_nobody_declares_is_told() {
    let etcd = Etcd::start().await;
    let strangers = async || register::strangers(&options(10), &etcd.options()).await.unwrap();
    assert_eq!(strangers().await, [], "nobody declares any");
    etcd.put("zones/az-b", "{}").await;
    let said =
        "zone \"az-a\" named by endpoint order-svc/10.0.0.1:8080 is not declared; did you mean \"az-b\"?";
    assert_eq!(strangers().await.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    etcd.put("zones/az-b", r#"{"aliases": ["az-a"]}"#).await;
    assert_eq!(strangers().await, []);
}

struct Running {
    events: UnboundedReceiver<RegisterEvent>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), RegisterError>>,
}

// === impl Running ===

impl Running {
    fn start(etcd: EtcdOptions, options: RegisterOptions) -> Self {
        let (send, events) = unbounded_channel();
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task =
            tokio::spawn(
                async move { register::run(&options, &etcd, token, |event| _ = send.send(event)).await },
            );
        Self { events, cancel, task }
    }

    /// The next event that is of interest.
    async fn event<T>(&mut self, what: &str, of: impl Fn(&RegisterEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = timeout(left, self.events.recv())
                .await
                .unwrap_or_else(|_| panic!("waited in vain for {what}"));
            if let Some(found) = of(&event.unwrap()) {
                return found;
            }
        }
    }

    /// The lease of the next registration.
    async fn registered(&mut self) -> i64 {
        self.event("a registration", |event| match event {
            RegisterEvent::Registered { lease, .. } => Some(*lease),
            _ => None,
        })
        .await
    }

    async fn stop(mut self) -> RegisterEvent {
        self.cancel.cancel();
        timeout(Duration::from_secs(20), &mut self.task).await.unwrap().unwrap().unwrap();
        let mut last = None;
        while let Ok(event) = self.events.try_recv() {
            last = Some(event);
        }
        last.unwrap()
    }
}

#[tokio::test]
async fn it_registers_and_stays_registered() {
    let etcd = Etcd::start().await;
    // A machine may be busy for two thirds of it without a renewal that comes too late.
    let mut running = Running::start(etcd.options(), options(6));
    let lease = running.registered().await;
    let (value, by) = etcd.get(KEY).await.unwrap();
    assert_eq!(by, lease);
    let written: serde_json::Value = serde_json::from_str(&value).unwrap();
    let expected = serde_json::json!({
        "address": "10.0.0.1", "port": 8080, "region": "eu", "zone": "az-a", "weight": 3, "labels": {"version": "7"}
    });
    assert_eq!(written, expected);

    // More than twice as long as the lease lives without renewals.
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(etcd.get(KEY).await.unwrap().1, lease, "renewed, not made anew");
}

#[tokio::test]
async fn it_is_gone_at_once_when_stopped() {
    let etcd = Etcd::start().await;
    // A lease that would outlive the test.
    let mut running = Running::start(etcd.options(), options(600));
    running.registered().await;
    assert!(etcd.get(KEY).await.is_some());
    assert_eq!(running.stop().await, RegisterEvent::Deregistered);
    assert_eq!(etcd.get(KEY).await, None);
    assert_eq!(etcd.client().await.leases().await.unwrap().leases().len(), 0);
}

#[tokio::test]
async fn a_lost_lease_is_replaced() {
    let etcd = Etcd::start().await;
    let mut running = Running::start(etcd.options(), options(10));
    let lease = running.registered().await;
    etcd.client().await.lease_revoke(lease).await.unwrap();
    let again = running.registered().await;
    assert_ne!(lease, again);
    assert_eq!(etcd.get(KEY).await.unwrap().1, again);
    assert_eq!(running.stop().await, RegisterEvent::Deregistered);
}

#[tokio::test]
async fn a_deleted_key_is_put_again_under_the_same_lease() {
    let etcd = Etcd::start().await;
    let mut running = Running::start(etcd.options(), options(10));
    let lease = running.registered().await;
    etcd.delete(KEY).await;
    running.event("the deletion", |event| matches!(event, RegisterEvent::Deleted).then_some(())).await;
    assert_eq!(running.registered().await, lease);
    assert_eq!(etcd.get(KEY).await.unwrap().1, lease);
}

#[tokio::test]
async fn it_comes_back_when_etcd_does_even_without_its_data() {
    let mut etcd = Etcd::start().await;
    let mut running = Running::start(etcd.options(), options(10));
    running.registered().await;
    etcd.kill();
    running.event("the loss", |event| matches!(event, RegisterEvent::Lost { .. }).then_some(())).await;
    etcd.forget();
    etcd.restart().await;
    let lease = running.registered().await;
    assert_eq!(etcd.get(KEY).await.unwrap().1, lease);
    assert_eq!(running.stop().await, RegisterEvent::Deregistered);
    assert_eq!(etcd.get(KEY).await, None);
}

#[tokio::test]
async fn the_process_that_is_going_leaves_the_key_to_the_one_that_came() {
    let etcd = Etcd::start().await;
    let mut old = Running::start(etcd.options(), options(10));
    let first = old.registered().await;
    let mut new = Running::start(etcd.options(), RegisterOptions { weight: 5, ..options(10) });
    let second = new.registered().await;
    let by = old.event("the takeover", |event| match event {
        RegisterEvent::Superseded { by } => Some(*by),
        _ => None,
    });
    assert_eq!(by.await, second);
    assert_ne!(first, second);
    assert_eq!(old.stop().await, RegisterEvent::Deregistered);
    assert_eq!(etcd.get(KEY).await.unwrap().1, second, "it is not the old one's to delete");
    assert_eq!(new.stop().await, RegisterEvent::Deregistered);
    assert_eq!(etcd.get(KEY).await, None);
}

#[tokio::test]
async fn the_one_that_stands_back_steps_in_when_the_key_is_gone() {
    let etcd = Etcd::start().await;
    let mut running = Running::start(etcd.options(), options(10));
    let lease = running.registered().await;
    etcd.put(KEY, &endpoint("az-z")).await;
    running
        .event("the takeover", |event| matches!(event, RegisterEvent::Superseded { by: 0 }).then_some(()))
        .await;
    etcd.delete(KEY).await;
    assert_eq!(running.registered().await, lease);
}

#[tokio::test]
async fn it_waits_for_an_etcd_that_is_not_there_yet() {
    let mut etcd = Etcd::start().await;
    etcd.kill();
    let mut running = Running::start(etcd.options(), options(10));
    running
        .event("the first failure", |event| matches!(event, RegisterEvent::Lost { .. }).then_some(()))
        .await;
    etcd.restart().await;
    running.registered().await;
}

#[tokio::test]
async fn a_stop_with_etcd_away_ends_in_time_and_says_so() {
    let mut etcd = Etcd::start().await;
    let mut running = Running::start(etcd.options(), options(3));
    running.registered().await;
    etcd.kill();
    let said = running.stop().await;
    assert!(matches!(said, RegisterEvent::Abandoned { .. }), "{said:?}");
    // The lease cleans up: etcd comes back with the key, and without a registrant it goes.
    etcd.restart().await;
    until("the end of the lease", async || etcd.get(KEY).await.is_none().then_some(())).await;
}
