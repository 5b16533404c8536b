//! Every key of the configuration in one table: its path, what it means, how a value is read from text (an environment
//! variable or a flag) and whether a running server takes a change. Help, `config defaults` and the overrides come from it.

use std::{
    any::Any,
    fmt::Display,
    num::{IntErrorKind, ParseIntError},
    str::FromStr,
};

use zonebreak_core::units::Percent;

use super::{
    schema::Config,
    values::{ip, listen},
};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// One line for people.
    pub doc: &'static str,
    /// Whether a running server takes a change.
    pub reload: Reload,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

/// Whether a running server takes a changed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// At once.
    Live,
    /// At the next start.
    Restart,
}

use Reload::{Live, Restart};

/// The table.
pub const KEYS: &[Key] = &[
    Key {
        path: "etcd.endpoints",
        doc: "client URLs of the etcd members; leave empty to read topology.file instead",
        reload: Restart,
        set: |c, text| {
            c.etcd.endpoints = text
                .split(',')
                .filter(|part| !part.trim().is_empty())
                .map(parse)
                .collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Key {
        path: "etcd.prefix",
        doc: "prefix of every key",
        reload: Restart,
        set: |c, text| put(&mut c.etcd.prefix, text),
    },
    Key {
        path: "etcd.ca_file",
        doc: "PEM of the authorities to trust with https endpoints; none: the system's",
        reload: Restart,
        set: |c, text| put_some(&mut c.etcd.ca_file, text),
    },
    Key {
        path: "etcd.cert_file",
        doc: "PEM of the client certificate; read again at each connection, as all three",
        reload: Restart,
        set: |c, text| put_some(&mut c.etcd.cert_file, text),
    },
    Key {
        path: "etcd.key_file",
        doc: "PEM of its key",
        reload: Restart,
        set: |c, text| put_some(&mut c.etcd.key_file, text),
    },
    Key {
        path: "etcd.user",
        doc: "user name, where etcd asks for one",
        reload: Restart,
        set: |c, text| put_some(&mut c.etcd.user, text),
    },
    Key {
        path: "etcd.password_file",
        doc: "file that holds the password and nothing else",
        reload: Restart,
        set: |c, text| put_some(&mut c.etcd.password_file, text),
    },
    Key {
        path: "topology.file",
        doc: "topology in a YAML file instead of etcd; read again when it changes",
        reload: Restart,
        set: |c, text| put_some(&mut c.topology.file, text),
    },
    Key {
        path: "guard.max_removal_percent",
        doc: "largest share of a service's endpoints that may go at once before it is held; 100: never hold",
        reload: Live,
        set: |c, text| percent(text).map(|percent| c.guard.max_removal_percent = percent),
    },
    Key {
        path: "guard.window",
        doc: "what counts as at once",
        reload: Live,
        set: |c, text| put(&mut c.guard.window, text),
    },
    Key {
        path: "waves.first",
        doc: "proxies that get a change of policies, zones or this file first; 0: all at once",
        reload: Live,
        set: |c, text| put(&mut c.waves.first, text),
    },
    Key {
        path: "waves.second_percent",
        doc: "share of the proxies that get it next, once the first have acknowledged it",
        reload: Live,
        set: |c, text| percent(text).map(|percent| c.waves.second_percent = percent),
    },
    Key {
        path: "waves.timeout",
        doc: "how long a wave may take to acknowledge it before the next one gets it",
        reload: Live,
        set: |c, text| put(&mut c.waves.timeout, text),
    },
    Key {
        path: "state.dir",
        doc: "directory for the last good state, which a start without etcd serves; none: not kept",
        reload: Restart,
        set: |c, text| put_some(&mut c.state.dir, text),
    },
    Key {
        path: "xds.listen",
        doc: "where proxies connect (gRPC: xDS, health, reflection)",
        reload: Restart,
        set: |c, text| listen(text).map(|address| c.xds.listen = address),
    },
    Key {
        path: "xds.cert_file",
        doc: "PEM of the certificate to show to proxies: TLS; files that change are taken up",
        reload: Restart,
        set: |c, text| put_some(&mut c.xds.cert_file, text),
    },
    Key {
        path: "xds.key_file",
        doc: "PEM of its key",
        reload: Restart,
        set: |c, text| put_some(&mut c.xds.key_file, text),
    },
    Key {
        path: "xds.client_ca_file",
        doc: "PEM of the authorities of proxies: one without a certificate of theirs is turned away",
        reload: Restart,
        set: |c, text| put_some(&mut c.xds.client_ca_file, text),
    },
    Key {
        path: "load_reports.interval",
        doc: "how often proxies report requests and errors by zone (LRS); 0s: not at all",
        reload: Restart,
        set: |c, text| put(&mut c.load_reports.interval, text),
    },
    Key {
        path: "admin.listen",
        doc: "where operators look (JSON, no password: keep it on loopback)",
        reload: Restart,
        set: |c, text| listen(text).map(|address| c.admin.listen = address),
    },
    Key {
        path: "health.listen",
        doc: "/livez, /readyz, /healthz, /health and /metrics",
        reload: Restart,
        set: |c, text| listen(text).map(|address| c.health.listen = address),
    },
    Key {
        path: "filter.file",
        doc: "the wasm module that proxies run; no filter when absent",
        reload: Live,
        set: |c, text| put_some(&mut c.filter.file, text),
    },
    Key {
        path: "filter.sha256",
        doc: "what the module's SHA-256 must be; not checked when absent",
        reload: Live,
        set: |c, text| put_some(&mut c.filter.sha256, text),
    },
    Key {
        path: "filter.deliver",
        doc: "bytes (inside the xDS response) or path (a file that the proxy has)",
        reload: Live,
        set: |c, text| put(&mut c.filter.deliver, text),
    },
    Key {
        path: "filter.path",
        doc: "with deliver: path, where the proxy finds the module; filter.file when absent",
        reload: Live,
        set: |c, text| put_some(&mut c.filter.path, text),
    },
    Key {
        path: "filter.debug_header",
        doc: "have proxies name each decision in an x-zonebreak-decision response header",
        reload: Live,
        set: |c, text| put(&mut c.filter.debug_header, text),
    },
    Key {
        path: "listeners.address",
        doc: "address that the proxies' listeners bind; the port is the service's",
        reload: Live,
        set: |c, text| ip(text).map(|address| c.listeners.address = address),
    },
    Key {
        path: "log.level",
        doc: "off, error, warn, info, debug, trace, or by module: info,zonebreak_xds=debug",
        reload: Live,
        set: |c, text| put(&mut c.log.level, text),
    },
    Key {
        path: "log.format",
        doc: "text or json",
        reload: Restart,
        set: |c, text| put(&mut c.log.format, text),
    },
    Key {
        path: "replicate.enabled",
        doc: "whether `zonebreak serve` replicates beside the rest; `zonebreak replicate run` does so without it",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.enabled, text),
    },
    Key {
        path: "replicate.stream",
        doc: "name of this stream; its checkpoint at the destination is /zonebreak/v1/replication/<stream>",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.stream, text),
    },
    Key {
        path: "replicate.source_region",
        doc: "what the source's region is called in ownership records; by the ID of its etcd when absent",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.source_region, text),
    },
    Key {
        path: "replicate.destination_region",
        doc: "what the destination's region is called",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_region, text),
    },
    Key {
        path: "replicate.source",
        doc: "client URLs of the etcd that changes come from; it is only read",
        reload: Restart,
        set: |c, text| put_list(&mut c.replicate.source, text),
    },
    Key {
        path: "replicate.source_user",
        doc: "user name, where the source asks for one",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.source_user, text),
    },
    Key {
        path: "replicate.source_password_file",
        doc: "file that holds the password and nothing else",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.source_password_file, text),
    },
    Key {
        path: "replicate.source_ca_file",
        doc: "PEM of the authorities to trust with https://; the machine's own when absent",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.source_ca_file, text),
    },
    Key {
        path: "replicate.source_cert_file",
        doc: "PEM of a client certificate, where the source asks for one",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.source_cert_file, text),
    },
    Key {
        path: "replicate.source_key_file",
        doc: "PEM of its key",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.source_key_file, text),
    },
    Key {
        path: "replicate.destination",
        doc: "client URLs of the etcd that changes go to; run the replicator next to it",
        reload: Restart,
        set: |c, text| put_list(&mut c.replicate.destination, text),
    },
    Key {
        path: "replicate.destination_user",
        doc: "user name, where the destination asks for one",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_user, text),
    },
    Key {
        path: "replicate.destination_password_file",
        doc: "file that holds the password and nothing else",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_password_file, text),
    },
    Key {
        path: "replicate.destination_ca_file",
        doc: "PEM of the authorities to trust with https://; the machine's own when absent",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_ca_file, text),
    },
    Key {
        path: "replicate.destination_cert_file",
        doc: "PEM of a client certificate, where the destination asks for one",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_cert_file, text),
    },
    Key {
        path: "replicate.destination_key_file",
        doc: "PEM of its key",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_key_file, text),
    },
    Key {
        path: "replicate.prefix",
        doc: "keys to replicate",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.prefix, text),
    },
    Key {
        path: "replicate.destination_prefix",
        doc: "what the prefix becomes at the destination; the same when absent",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.destination_prefix, text),
    },
    Key {
        path: "replicate.include",
        doc: "globs over whole keys, of which one must match (* within a path segment, ** across); all when empty",
        reload: Restart,
        set: |c, text| put_list(&mut c.replicate.include, text),
    },
    Key {
        path: "replicate.exclude",
        doc: "globs over whole keys that are left out",
        reload: Restart,
        set: |c, text| put_list(&mut c.replicate.exclude, text),
    },
    Key {
        path: "replicate.realtime",
        doc: "prefixes of keys whose changes go out at once; all when empty",
        reload: Restart,
        set: |c, text| put_list(&mut c.replicate.realtime, text),
    },
    Key {
        path: "replicate.puts",
        doc: "replicate puts; without them only what the source deletes goes from the destination",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.puts, text),
    },
    Key {
        path: "replicate.deletes",
        doc: "replicate deletes; without them the destination keeps what the source forgot",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.deletes, text),
    },
    Key {
        path: "replicate.from_revision",
        doc: "leave alone what was written before this revision and never since",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.from_revision, text),
    },
    Key {
        path: "replicate.spool_dir",
        doc: "where the change log lies; one directory for each stream",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.spool_dir, text),
    },
    Key {
        path: "replicate.spool_mib",
        doc: "the most that the change log may take on disk",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.spool_mib, text),
    },
    Key {
        path: "replicate.spool_keep_for",
        doc: "how long delivered changes stay in the change log at most; 0s: while there is room",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.spool_keep_for, text),
    },
    Key {
        path: "replicate.debounce",
        doc: "how long changes of keys that are not realtime are collected",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.debounce, text),
    },
    Key {
        path: "replicate.heartbeat",
        doc: "between two signs of life at the destination",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.heartbeat, text),
    },
    Key {
        path: "replicate.scrub",
        doc: "between two full comparisons of both sides; 0s for never",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.scrub, text),
    },
    Key {
        path: "replicate.backlog",
        doc: "revisions behind from which on both sides are compared instead of history read",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.backlog, text),
    },
    Key {
        path: "replicate.leases",
        doc: "keep (a lease of its own, renewed while the source's lives) or report (no lease, counted)",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.leases, text),
    },
    Key {
        path: "replicate.strangers",
        doc: "repair or report what somebody else writes under the prefix at the destination",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.strangers, text),
    },
    Key {
        path: "replicate.lease_grace",
        doc: "how long leased keys live at least after a promotion, for their registrars to move; 0s: as long as their leases have left",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.lease_grace, text),
    },
    Key {
        path: "replicate.overlap",
        doc: "set where both regions write the prefix: lww-hlc, source-wins, dest-wins or reject-and-alert decides conflicts",
        reload: Restart,
        set: |c, text| put_some(&mut c.replicate.overlap, text),
    },
    Key {
        path: "replicate.overlap_remember",
        doc: "how long deletes are remembered then: longer than the regions will ever be cut off from each other",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.overlap_remember, text),
    },
    Key {
        path: "replicate.max_operations",
        doc: "operations in a transaction beside the checkpoint; one less than the destination's --max-txn-ops",
        reload: Restart,
        set: |c, text| put(&mut c.replicate.max_operations, text),
    },
    Key {
        path: "snapshots.directory",
        doc: "where snapshots of the source lie",
        reload: Restart,
        set: |c, text| put(&mut c.snapshots.directory, text),
    },
    Key {
        path: "snapshots.every",
        doc: "how often `replicate run` takes one; 0s: never by itself",
        reload: Restart,
        set: |c, text| put(&mut c.snapshots.every, text),
    },
    Key {
        path: "snapshots.keep",
        doc: "the most that are kept; the oldest go first",
        reload: Restart,
        set: |c, text| put(&mut c.snapshots.keep, text),
    },
    Key {
        path: "snapshots.keep_for",
        doc: "how far back a restore must reach, as far as replicate.spool_mib allows",
        reload: Restart,
        set: |c, text| put(&mut c.snapshots.keep_for, text),
    },
];

// === impl Key ===

impl Key {
    /// The key with this path.
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The variable that overrides it: `ZONEBREAK_SECTION__KEY`.
    pub fn variable(&self) -> String {
        format!("ZONEBREAK_{}", self.path.replacen('.', "__", 1).to_uppercase())
    }

    /// Sets it from text.
    ///
    /// # Errors
    /// Says what the value must be.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        (self.set)(config, text)
    }

    /// Its value as JSON.
    pub fn get(&self, config: &Config) -> serde_json::Value {
        let pointer = format!("/{}", self.path.replacen('.', "/", 1));
        serde_json::to_value(config)
            .ok()
            .and_then(|mut all| all.pointer_mut(&pointer).map(serde_json::Value::take))
            .unwrap_or_default()
    }
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.trim().parse::<f64>();
    let number = number.map_err(|_| format!("a percentage is a number from 0 to 100, not {text:?}"))?;
    Percent::new(number).map_err(|error| error.to_string())
}

fn parse<T: FromStr<Err: Display + 'static>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|error: T::Err| {
        // Their own words name neither what was found nor what is wanted.
        let number = (&error as &dyn Any).downcast_ref::<ParseIntError>();
        match number.map(ParseIntError::kind) {
            None => error.to_string(),
            Some(IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => {
                format!("must be a whole number within bounds, not {text:?}")
            }
            Some(_) => format!("must be a whole number, not {text:?}"),
        }
    })
}

fn put<T: FromStr<Err: Display + 'static>>(at: &mut T, text: &str) -> Result<(), String> {
    *at = parse(text)?;
    Ok(())
}

/// An empty text takes the value away.
fn put_some<T: FromStr<Err: Display + 'static>>(at: &mut Option<T>, text: &str) -> Result<(), String> {
    *at = if text.is_empty() { None } else { Some(parse(text)?) };
    Ok(())
}

/// Items by commas; an empty text takes them away.
fn put_list(at: &mut Vec<String>, text: &str) -> Result<(), String> {
    *at = text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_exactly_the_keys_of_the_schema() {
        let all = serde_json::to_value(Config::default()).unwrap();
        let mut schema: Vec<String> = all
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(section, keys)| {
                keys.as_object().unwrap().keys().map(move |key| format!("{section}.{key}"))
            })
            .collect();
        let mut table: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
        schema.sort();
        table.sort_unstable();
        assert_eq!(table, schema);
    }

    #[test]
    fn each_key_sets_what_its_path_says() {
        for (path, text) in [
            ("etcd.endpoints", "http://a:1,b:2"),
            ("etcd.prefix", "/other/"),
            ("etcd.ca_file", "/run/ca.pem"),
            ("etcd.cert_file", "/run/cert.pem"),
            ("etcd.key_file", "/run/key.pem"),
            ("etcd.user", "root"),
            ("etcd.password_file", "/run/password"),
            ("topology.file", "topology.yaml"),
            ("guard.max_removal_percent", "30"),
            ("guard.window", "1m"),
            ("waves.first", "3"),
            ("waves.second_percent", "10"),
            ("waves.timeout", "3s"),
            ("state.dir", "/var/lib/zonebreak"),
            ("xds.listen", "127.0.0.1:1"),
            ("xds.cert_file", "/run/cert.pem"),
            ("xds.key_file", "/run/key.pem"),
            ("xds.client_ca_file", "/run/ca.pem"),
            ("load_reports.interval", "1s"),
            ("admin.listen", "127.0.0.1:2"),
            ("health.listen", "127.0.0.1:3"),
            ("filter.file", "filter.wasm"),
            ("filter.sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("filter.deliver", "path"),
            ("filter.path", "/var/lib/filter.wasm"),
            ("filter.debug_header", "true"),
            ("listeners.address", "0.0.0.0"),
            ("log.level", "debug"),
            ("log.format", "json"),
            ("replicate.enabled", "true"),
            ("replicate.stream", "west"),
            ("replicate.source_region", "west"),
            ("replicate.destination_region", "east"),
            ("replicate.source", "http://a:1,http://b:1"),
            ("replicate.source_user", "some"),
            ("replicate.source_password_file", "some"),
            ("replicate.source_ca_file", "some"),
            ("replicate.source_cert_file", "some"),
            ("replicate.source_key_file", "some"),
            ("replicate.destination", "some"),
            ("replicate.destination_user", "some"),
            ("replicate.destination_password_file", "some"),
            ("replicate.destination_ca_file", "some"),
            ("replicate.destination_cert_file", "some"),
            ("replicate.destination_key_file", "some"),
            ("replicate.prefix", "/other/"),
            ("replicate.destination_prefix", "some"),
            ("replicate.include", "/a/*,/b/**"),
            ("replicate.exclude", "some"),
            ("replicate.realtime", "some"),
            ("replicate.puts", "false"),
            ("replicate.deletes", "false"),
            ("replicate.from_revision", "7"),
            ("replicate.spool_dir", "some"),
            ("replicate.spool_mib", "256"),
            ("replicate.spool_keep_for", "24h"),
            ("replicate.debounce", "50ms"),
            ("replicate.heartbeat", "1s"),
            ("replicate.scrub", "0s"),
            ("replicate.backlog", "5"),
            ("replicate.leases", "report"),
            ("replicate.strangers", "report"),
            ("replicate.lease_grace", "2m"),
            ("replicate.max_operations", "9"),
            ("snapshots.directory", "some"),
            ("snapshots.every", "1h"),
            ("snapshots.keep", "3"),
            ("snapshots.keep_for", "2h"),
        ] {
            let (mut config, key) = (Config::default(), Key::find(path).unwrap());
            let before = key.get(&config);
            key.set(&mut config, text).unwrap();
            assert_ne!(key.get(&config), before, "{path}");
            let others = KEYS.iter().filter(|other| other.path != path);
            for other in others {
                assert_eq!(
                    other.get(&config),
                    other.get(&Config::default()),
                    "{path} also set {}",
                    other.path
                );
            }
        }
    }

    #[test]
    fn variables_follow_the_path() {
        assert_eq!(Key::find("etcd.password_file").unwrap().variable(), "ZONEBREAK_ETCD__PASSWORD_FILE");
    }
}
