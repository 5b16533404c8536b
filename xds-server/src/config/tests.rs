//! The layers of the configuration, and what it says when one cannot be used.

use std::path::Path;

use super::*;

fn layers(text: &str, environment: &[(&str, &str)], flags: Vec<Override>) -> (tempfile::TempDir, Layers) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zonebreak.yaml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    (dir, Layers { file: Some(file), environment, flags })
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    let (dir, layers) = layers(text, environment, Vec::new());
    let error = layers.load(Requirement::Nothing).unwrap_err().to_string();
    error.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn later_layers_win_and_origins_are_kept() {
    let flag = Override { flag: "--prefix", path: "etcd.prefix", value: "/flag/".to_owned() };
    let file = "etcd:\n  endpoints: ['http://file:2379']\n  prefix: /file/\nlog:\n  level: debug\n";
    let environment =
        [("ZONEBREAK_ETCD__PREFIX", "/env/"), ("ZONEBREAK_ETCD__ENDPOINTS", "a:1,b:2"), ("HOME", "/")];
    let (_dir, layers) = layers(file, &environment, vec![flag]);
    let effective = layers.load(Requirement::Source).unwrap();
    let endpoints: Vec<&str> = effective.config.etcd.endpoints.iter().map(EtcdEndpoint::as_str).collect();
    assert_eq!(endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!(effective.config.etcd.prefix.as_str(), "/flag/");
    assert_eq!(effective.origin("etcd.prefix"), &Origin::Flag("--prefix"));
    assert_eq!(
        effective.origin("etcd.endpoints"),
        &Origin::Environment("ZONEBREAK_ETCD__ENDPOINTS".to_owned())
    );
    assert!(matches!(effective.origin("log.level"), Origin::File(_)));
    assert_eq!(effective.origin("xds.listen"), &Origin::Default);
}

#[test]
fn errors_in_the_file_name_line_and_column() {
    let error = refused("etcd:\n  endpoints: [\"http://a:2379\"]\n  prefx: /x/\n", &[]);
    assert!(error.starts_with("zonebreak.yaml:3:3: "), "{error}");
    assert!(error.contains("\n3 |   prefx: /x/\n"), "the line is shown: {error}");
    assert_eq!(
        error.matches("<input>").count() + error.matches(" at line ").count(),
        0,
        "said once: {error}"
    );
    let error = refused("xds:\n  listen: everywhere\n", &[]);
    assert!(error.starts_with("zonebreak.yaml:2:11: "), "{error}");
    let error = refused("log:\n  level: info\n  format: text\nlog:\n  level: warn\n", &[]);
    assert!(error.starts_with("zonebreak.yaml:4:1: "), "{error}");
    let error = refused("log: [\n", &[]);
    assert!(error.starts_with("zonebreak.yaml:"), "{error}");
    let error = refused("etcd:\n  endpoints: [ftp://a:2379]\n", &[]);
    assert!(error.contains("https://host:port") && error.starts_with("zonebreak.yaml:2:"), "{error}");
}

#[test]
fn certificates_lie_beside_the_file_and_must_be_there() {
    let text = "etcd: {endpoints: ['https://a:1'], ca_file: ca.pem, cert_file: c.pem, key_file: k.pem}\n";
    let (dir, layers) = layers(text, &[], Vec::new());
    let here = |name: &str| dir.path().join(name);
    let etcd = layers.load(Requirement::Source).unwrap().config.etcd;
    let error = etcd.options().unwrap_err().to_string();
    assert!(error.contains(&here("ca.pem").display().to_string()), "{error}");
    for name in ["ca.pem", "c.pem", "k.pem"] {
        std::fs::write(here(name), "").unwrap();
    }
    let options = etcd.options().unwrap();
    assert_eq!(options.endpoints, ["https://a:1"]);
    assert_eq!(options.tls.ca_file, Some(here("ca.pem")));
    assert_eq!(options.tls.identity, Some((here("c.pem"), here("k.pem"))));
}

#[test]
fn errors_in_the_environment_name_the_variable() {
    let error = refused("", &[("ZONEBREAK_XDS__LISTEN", "here")]);
    assert!(error.starts_with("$ZONEBREAK_XDS__LISTEN: "), "{error}");
    let error = refused("", &[("ZONEBREAK_ETCD__ENDPOINT", "http://a:1")]);
    assert!(error.contains("did you mean \"ZONEBREAK_ETCD__ENDPOINTS\"?"), "{error}");
    let (_dir, fine) = layers("", &[("ZONEBREAK_SERVER", "http://a:1")], Vec::new());
    fine.load(Requirement::Nothing).unwrap();
}

#[test]
fn a_server_needs_exactly_one_source() {
    let none = Layers::default();
    assert!(matches!(none.load(Requirement::Source), Err(ConfigError::NoSource)));
    assert!(matches!(none.load(Requirement::Etcd), Err(ConfigError::NoEtcd)));
    let both = "etcd: {endpoints: ['http://a:1']}\ntopology: {file: t.yaml}\n";
    let (_dir, same_rank) = layers(both, &[], Vec::new());
    assert!(matches!(same_rank.load(Requirement::Source), Err(ConfigError::TwoSources { .. })));
    let flag = Override { flag: "--topology", path: "topology.file", value: "t.yaml".to_owned() };
    let (_dir, flag_wins) = layers("", &[("ZONEBREAK_ETCD__ENDPOINTS", "a:1")], vec![flag]);
    let effective = flag_wins.load(Requirement::Source).unwrap();
    assert!(effective.config.etcd.endpoints.is_empty());
    assert_eq!(effective.config.topology.file.as_deref(), Some(Path::new("t.yaml")));
}

#[test]
fn keys_that_belong_together_are_asked_for_together() {
    assert!(refused("etcd: {user: root}\n", &[]).contains("etcd.password_file is not"));
    assert!(refused("etcd: {cert_file: a.pem}\n", &[]).contains("etcd.key_file is not"));
    let sha = "filter: {sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}\n";
    assert!(refused(sha, &[]).contains("filter.file is not"));
}

#[test]
fn relative_paths_start_at_the_file() {
    let (dir, layers) =
        layers("topology: {file: sub/t.yaml}\nfilter: {file: /abs/f.wasm}\n", &[], Vec::new());
    let config = layers.load(Requirement::Source).unwrap().config;
    assert_eq!(config.topology.file, Some(dir.path().join("sub/t.yaml")));
    assert_eq!(config.filter.file.as_deref(), Some(Path::new("/abs/f.wasm")));
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let (_dir, printed) = layers(&defaults(), &[], Vec::new());
    assert_eq!(printed.load(Requirement::Nothing).unwrap().config, Config::default());
    let (_dir, some) =
        layers("log: {level: 'warn,zonebreak=debug'}\nfilter: {deliver: path}\n", &[], Vec::new());
    let some = some.load(Requirement::Nothing).unwrap();
    let text = effective(&some);
    let (_dir, again) = layers(&text, &[], Vec::new());
    assert_eq!(again.load(Requirement::Nothing).unwrap().config, some.config);
    assert!(text.contains("# default"), "{text}");
}
