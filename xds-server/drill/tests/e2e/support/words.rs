//! The command line and etcd as an operator's hands. Runs and writes; judges nothing.

use std::time::{Duration, Instant};

use zonebreak_drill::{lab::Plane, world::World};

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Words {
    /// Exit code; -1 when it was killed.
    pub code: i32,
    /// Data.
    pub out: String,
    /// Words.
    pub err: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs `zonebreak ARGS`.
pub async fn words(plane: &Plane, args: &[&str]) -> Words {
    let began = Instant::now();
    let output = plane.cli(args).await.unwrap();
    Words {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: began.elapsed(),
    }
}

/// Runs `zonebreak ARGS`, which must end well.
pub async fn cli(plane: &Plane, args: &[&str]) -> Words {
    let words = words(plane, args).await;
    assert_eq!(words.code, 0, "zonebreak {}: {words:#?}", args.join(" "));
    words
}

/// A client of the world's etcd, as any other program would be.
pub async fn etcd(world: &World) -> etcd_client::Client {
    etcd_client::Client::connect([world.etcd.url()], None).await.unwrap()
}

/// Writes a value past all of Zonebreak's own checks; `key` is without the prefix.
pub async fn put(world: &World, key: &str, value: &str) {
    etcd(world).await.put(format!("/zonebreak/v1/{key}"), value, None).await.unwrap();
}
