//! A real Envoy with the filter serves requests, and holds no more for it. `scripts/soak` does the same with a million and more.

use zonebreak_drill::overhead::growth;

/// What the allocators of Envoy and V8 may move about, in bytes: a leak of one pointer a request would be three times that.
const ALLOWED: u64 = 500_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_requests() {
    let grown = growth(2, 20_000, 200_000, |text| eprintln!("{text}")).await.unwrap();
    assert!(grown.grown() <= ALLOWED, "{grown}: {:?}", grown.held);
}
