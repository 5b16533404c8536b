//! The runbook of docs/regions.md, command by command: two real etcds, the real program, and what the page promises in between.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use zonebreak_drill::lab::{Etcd, Http, Lab, Link, Port};
use zonebreak_replication::region::{Ownership, own};

const PAGE: &str = include_str!("../../docs/regions.md");

const TOPOLOGY: &str = "zones:\n  az-a:\n    region: west\n";

/// Two regions and the runbook's directory.
struct Regions {
    lab: Lab,
    west: Etcd,
    east: Etcd,
    running: Vec<Child>,
    /// A revision of west, as an operator would read it in `snapshot ls`.
    good: i64,
}

/// What a command came to.
struct Run {
    code: i32,
    out: String,
    err: String,
}

// === impl Regions ===

impl Regions {
    async fn start() -> Self {
        let lab = Lab::new().unwrap();
        let (west, east) = tokio::join!(Etcd::start_named(&lab, "west"), Etcd::start_named(&lab, "east"));
        std::fs::write(lab.path().join("topology.yaml"), TOPOLOGY).unwrap();
        Self { west: west.unwrap(), east: east.unwrap(), lab, running: Vec::new(), good: 0 }
    }

    fn shell(&self, script: &str) -> Command {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_zonebreak"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-ec", script])
            .current_dir(self.lab.path())
            .env("PATH", format!("{}:{path}", program.parent().unwrap().display()))
            .env("WEST", self.west.url())
            .env("EAST", self.east.url())
            .env("GOOD", self.good.to_string())
            .env("ZONEBREAK_HEALTH__LISTEN", "127.0.0.1:0")
            .env("ZONEBREAK_REPLICATE__HEARTBEAT", "500ms")
            .stdin(Stdio::null());
        command
    }

    /// Runs a script to its end.
    fn run(&self, script: &str) -> Run {
        let output = self.shell(script).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a section of the runbook, in which every command must do. What ends in `&` goes on; what ran before the section is
    /// stopped then.
    fn section(&mut self, heading: &str) -> String {
        let (mut script, mut out, mut before) = (String::new(), String::new(), true);
        for line in commands(heading).lines() {
            match line.strip_suffix(" &") {
                None => script += &format!("{line}\n"),
                Some(forever) => {
                    out += &self.done(&std::mem::take(&mut script));
                    if std::mem::take(&mut before) {
                        self.stop();
                    }
                    let log = std::fs::File::options()
                        .create(true)
                        .append(true)
                        .open(self.lab.path().join("replicators.log"))
                        .unwrap();
                    let child = self.shell(&format!("exec {forever}")).stderr(log).spawn().unwrap();
                    self.running.push(child);
                }
            }
        }
        out + &self.done(&script)
    }

    fn done(&self, script: &str) -> String {
        let run = self.run(script);
        assert_eq!(run.code, 0, "{script}\n{}\n{}\n{}", run.out, run.err, self.log());
        run.out + &run.err
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.lab.path().join("replicators.log")).unwrap_or_default()
    }

    /// Kills what runs (SIGKILL).
    fn stop(&mut self) {
        for mut child in self.running.drain(..) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The commands of a section of the page.
fn commands(heading: &str) -> String {
    let (_, section) = PAGE.split_once(&format!("### {heading}\n")).expect("the section");
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let (_, block) = section.split_once("```sh\n").expect("its commands");
    block.split_once("```").expect("their end").0.to_owned()
}

fn apply(etcd: &str) -> String {
    format!("zonebreak topology apply topology.yaml --etcd \"${etcd}\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_does_what_it_says() {
    let mut regions = Regions::start().await;
    let never = regions.run("zonebreak replicate verify --source \"$WEST\" --destination \"$EAST\"");
    assert_eq!(never.code, 3, "{}", never.err);
    assert!(never.err.contains("stream default: nothing was ever replicated here"), "{}", never.err);
    assert!(!never.err.contains("waiting"), "it can only wait for ever: {}", never.err);
    regions.section("Set up");
    for file in ["west-to-east.yaml", "east-to-west.yaml"] {
        regions.done(&format!("zonebreak config validate --config {file}"));
    }
    let proof = regions.section("Watch");
    assert!(proof.contains("verdict      equal"), "{proof}");
    let west = Client::connect([regions.west.url()], None).await.unwrap().get("/", None).await.unwrap();
    regions.good = west.header().unwrap().revision();
    let ls = "zonebreak snapshot ls --config west-to-east.yaml";
    until("a snapshot of west", async || regions.run(ls).out.contains("r00000")).await;

    // East is a replica: our own writers are told where to write.
    std::fs::write(regions.lab.path().join("topology.yaml"), TOPOLOGY.replace("az-a", "az-b")).unwrap();
    let refused = regions.run(&apply("EAST"));
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert!(refused.err.contains("region west owns \"/zonebreak/v1/\" (epoch 1)"), "{}", refused.err);
    let drain = "zonebreak zone drain az-a --for 5m --reason test --no-wait --etcd \"$EAST\"";
    assert_eq!(regions.run(drain).code, 5);
    let register =
        "zonebreak register --service s --zone az-a --region west --address 127.0.0.1:1 --etcd \"$EAST\"";
    assert_eq!(regions.run(register).code, 5);

    let kept = regions.section("A promotion does not come to its end");
    assert!(kept.contains("no record (by the source)"), "{kept}");
    assert!(kept.contains("region west, epoch 1, by replicator"), "{kept}");
    assert!(kept.contains("owner        region west of \"/zonebreak/v1/\", epoch 0, as before"), "{kept}");

    let moved = regions.section("Move the owner on purpose");
    assert!(moved.contains("owner     region east") && moved.contains("loss      none"), "{moved}");
    let refused = regions.run(&apply("WEST"));
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert!(refused.err.contains("region east owns"), "{}", refused.err);
    regions.done(&apply("EAST"));
    regions.done("zonebreak replicate status --config east-to-west.yaml --wait --timeout 60s");
    // Which was a mistake: what west had before the owner moved comes back, and reaches west as a replica.
    let mut zones = Vec::new();
    for etcd in [&regions.west, &regions.east] {
        zones.push(Client::connect([etcd.url()], None).await.unwrap());
    }
    assert_eq!(has_zones(&mut zones[1]).await, ["az-a", "az-b"]);
    let restored = regions.section("Bring back what was before the promotion");
    assert!(restored.contains("zones/az-b"), "{restored}");
    assert_eq!(has_zones(&mut zones[1]).await, ["az-a"]);
    regions.done("zonebreak replicate status --config east-to-west.yaml --wait --timeout 60s");
    assert_eq!(has_zones(&mut zones[0]).await, ["az-a"]);
    let into_a_replica = commands("Bring back what was before the promotion").replace("$EAST", "$WEST");
    assert_eq!(regions.run(&into_a_replica).code, 5);

    // East takes in what nobody replicates, and is gone.
    regions.stop();
    std::fs::write(regions.lab.path().join("topology.yaml"), TOPOLOGY.replace("az-a", "only-east")).unwrap();
    regions.done(&apply("EAST"));
    let behind = regions.run("zonebreak replicate status --config east-to-west.yaml --wait --timeout 1s");
    assert_eq!(behind.code, 4, "{}", behind.err);
    regions.east.kill();
    let silent = regions.run("zonebreak replicate status --config east-to-west.yaml");
    assert!(silent.out.contains("NO ANSWER: failed to reach the source etcd"), "{}", silent.out);
    let asked = regions.run("zonebreak replicate promote --config east-to-west.yaml");
    assert_eq!(asked.code, 5, "{}", asked.err);
    assert!(asked.err.contains("safe revision") && asked.err.contains("--yes"), "{}", asked.err);
    let given_up = regions.section("The owner's region is gone");
    assert!(given_up.contains("region west") && given_up.contains("NOT FENCED"), "{given_up}");

    regions.east.restart().await.unwrap();
    let returned = regions.section("It returns");
    assert!(returned.contains("zones/only-east"), "{returned}");
    assert_eq!(regions.run(&apply("EAST")).code, 5);

    let back = regions.section("Fail back");
    assert!(back.contains("region east") && back.contains("epoch 4"), "{back}");
    let demoted = regions.run("zonebreak replicate demote --config west-to-east.yaml");
    assert_eq!(demoted.code, 0, "{}", demoted.err);
    assert!(!demoted.out.contains("loss"), "{}", demoted.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_regions_write_as_the_page_says() {
    let mut regions = Regions::start().await;
    let mut clients = Vec::new();
    for (etcd, value) in [(&regions.west, "west's"), (&regions.east, "east's")] {
        let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        client.put("/shared/limit", value, None).await.unwrap();
        clients.push(client);
    }
    clients[0].put("/shared/only-west", "1", None).await.unwrap();
    let values = async |clients: &mut [etcd_client::Client], key: &str| {
        let mut values = Vec::new();
        for client in clients {
            let found = client.get(key, None).await.unwrap();
            values.push(found.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()));
        }
        values
    };
    regions.section("Set up both directions");
    until("the conflict to be found in both regions", async || {
        let listed =
            |config: &str| regions.run(&format!("zonebreak replicate conflicts list --config {config}"));
        [listed("shared-to-east.yaml"), listed("shared-to-west.yaml")].iter().all(|run| run.code == 3)
    })
    .await;
    let watching = regions.run(&commands("Watch both directions"));
    assert_eq!(watching.code, 3, "{}", watching.err);
    assert!(watching.out.contains("equal, but for OPEN CONFLICTS (1:"), "{}", watching.out);
    assert!(watching.out.contains("conflicts are decided by reject-and-alert"), "{}", watching.out);
    assert_eq!(values(&mut clients, "/shared/only-west").await, [Some("1".to_owned()), Some("1".to_owned())]);

    let decided = regions.section("Decide about a conflict");
    let first = decided.lines().find(|line| line.contains("/shared/limit")).unwrap();
    assert!(
        first.contains("NOBODY") && first.contains("east: east's") && first.contains("west: west's"),
        "{first}"
    );
    assert!(decided.contains("no conflicts") && decided.contains("\"decided_by\""), "{decided}");
    assert!(decided.contains("conflicts that were over are deleted: 1"), "{decided}");
    let west = Some("west's".to_owned());
    assert_eq!(values(&mut clients, "/shared/limit").await, [west.clone(), west]);
    assert_eq!(regions.section("Watch both directions").matches("verdict      equal\n").count(), 1);
    let promoted = regions.run("zonebreak replicate promote --config shared-to-east.yaml");
    assert_eq!(promoted.code, 5, "{}", promoted.err);
    assert!(promoted.err.contains("both regions write it"), "{}", promoted.err);
    let another =
        regions.run("zonebreak replicate conflicts list --config shared-to-east.yaml --stream other");
    assert_eq!(another.code, 2, "{}", another.err);
    // The one to west is still at work, and has the say.
    let mut first = regions.running.remove(0);
    first.kill().unwrap();
    first.wait().unwrap();
    let contrary = regions
        .run("ZONEBREAK_REPLICATE__OVERLAP=lww-hlc zonebreak replicate run --config shared-to-east.yaml");
    assert_eq!(contrary.code, 5, "{}", contrary.err);
    assert!(contrary.err.contains("Set replicate.overlap to reject-and-alert here"), "{}", contrary.err);
}

/// The line of a health check.
async fn check(health: &Http, name: &str) -> String {
    let Ok((_, body)) = health.get("/readyz?verbose").await else { return String::new() };
    body.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned()
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..1_200 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_replicates_beside_the_rest_and_says_how_that_goes() {
    let mut regions = Regions::start().await;
    regions.done(&apply("WEST"));
    let (port, spool) = (Port::reserve().unwrap(), regions.lab.path().join("spool"));
    let snapshots = regions.lab.path().join("snapshots");
    let serve = "exec zonebreak serve --etcd \"$EAST\" --listen 127.0.0.1:0 --admin 127.0.0.1:0";
    let server = regions
        .shell(serve)
        .env("ZONEBREAK_HEALTH__LISTEN", port.address().to_string())
        .env("ZONEBREAK_REPLICATE__ENABLED", "true")
        .env("ZONEBREAK_REPLICATE__SOURCE", regions.west.url())
        .env("ZONEBREAK_REPLICATE__DESTINATION", regions.east.url())
        .env("ZONEBREAK_REPLICATE__SPOOL_DIR", &spool)
        .env("ZONEBREAK_SNAPSHOTS__DIRECTORY", &snapshots)
        .env("ZONEBREAK_SNAPSHOTS__EVERY", "1h")
        .spawn()
        .unwrap();
    regions.running.push(server);
    let health = Http::new(port.url()).unwrap();
    until("the replicator to follow", async || check(&health, "replication").await == "[+]replication ok")
        .await;
    let (_, metrics) = health.get("/metrics").await.unwrap();
    assert!(metrics.contains("zonebreak_replication_keys 1\n"), "{metrics}");
    until("a snapshot to be taken", async || {
        let (_, metrics) = health.get("/metrics").await.unwrap();
        metrics.contains("zonebreak_snapshot_count 1\n")
    })
    .await;
    let verified =
        format!("ZONEBREAK_SNAPSHOTS__DIRECTORY={} zonebreak snapshot verify --all", snapshots.display());
    regions.done(&verified);
    let sides = "--source \"$WEST\" --destination \"$EAST\"";
    regions.done(&format!("zonebreak replicate promote {sides}"));
    until("the end to be told", async || {
        check(&health, "replication")
            .await
            .contains("degraded: ended: failed to go on: the destination was promoted")
    })
    .await;
    let (status, _) = health.get("/readyz").await.unwrap();
    assert_eq!(status, 200, "proxies are served all the same");
}

/// The zones of the topology in an etcd.
async fn has_zones(client: &mut Client) -> Vec<String> {
    let of = "/zonebreak/v1/zones/";
    let found = client.get(of, Some(GetOptions::new().with_prefix())).await.unwrap();
    found.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).replacen(of, "", 1)).collect()
}

/// The record of the prefix in an etcd.
async fn owner(client: &mut Client) -> Option<(Ownership, i64)> {
    let found = client.get(own::key("/zonebreak/v1/"), None).await.unwrap();
    found.kvs().first().map(|kv| (Ownership::decode(kv.value()).unwrap(), kv.mod_revision()))
}

/// Writes as our own writers do, one after the other, for as long as the record is what they read. How many were acknowledged.
async fn write_while_owner(mut client: Client) -> usize {
    let read = owner(&mut client).await.map_or(0, |(_, at)| at);
    let mut acknowledged = 0;
    loop {
        let same = Compare::mod_revision(own::key("/zonebreak/v1/"), CompareOp::Equal, read);
        let write = TxnOp::put(format!("/zonebreak/v1/written/{acknowledged:05}"), "1", None);
        if !client.txn(Txn::new().when([same]).and_then([write])).await.unwrap().succeeded() {
            return acknowledged;
        }
        acknowledged += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The real program, killed in the instant between taking the destination and telling the source, which is 300 ms away.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_was_killed_before_it_told_the_source_is_seen_and_the_next_one_tells_it() {
    let mut regions = Regions::start().await;
    regions.done(&apply("WEST"));
    let log = std::fs::File::create(regions.lab.path().join("replicators.log")).unwrap();
    let run = "exec zonebreak replicate run --source \"$WEST\" --destination \"$EAST\" --spool spool";
    regions.running.push(regions.shell(run).stderr(log).spawn().unwrap());
    let status = "zonebreak replicate status --source \"$WEST\" --destination \"$EAST\"";
    regions.done(&format!("{status} --wait --timeout 60s"));
    let (mut west, mut east) = (
        Client::connect([regions.west.url()], None).await.unwrap(),
        Client::connect([regions.east.url()], None).await.unwrap(),
    );
    let far = Link::open(regions.west.address(), Duration::from_millis(150)).await.unwrap();
    let promote = format!(
        "exec zonebreak replicate promote --source {} --destination \"$EAST\" --actor eve",
        far.url()
    );
    let mut child = regions.shell(&promote).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_east = |held: Option<(Ownership, i64)>| held.is_some_and(|(held, _)| held.epoch == 2);
    while !is_east(owner(&mut east).await) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the destination was taken");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let fence = owner(&mut west).await.unwrap().0;
    assert!(fence.pending && fence.epoch == 2, "{fence:?}");
    let seen = regions.run(status);
    assert_eq!(seen.code, 3, "{}", seen.out);
    assert!(seen.out.contains("NOT CONFIRMED: region") && seen.out.contains("PENDING"), "{}", seen.out);
    // It came to its end, and is not taken back.
    let abort = regions.run(&format!("{promote} --abort"));
    assert_eq!(abort.code, 5, "{}", abort.err);
    let told = regions.done(&promote);
    assert!(
        told.contains("goes on   with the promotion of eve") && told.contains("it was told now"),
        "{told}"
    );
    assert!(!owner(&mut west).await.unwrap().0.pending);
    let seen = regions.done(status);
    assert!(!seen.contains("promotion ") && !seen.contains("PENDING"), "{seen}");
    assert!(!regions.done(&promote).contains("told now"));
    regions.stop();
}

/// Runs a command whose three streams are one terminal, and answers what it asks with `no`.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
while True:
    try:
        more = os.read(terminal, 65536)
    except OSError:
        break
    if not more:
        break
    if b"Type yes" in more:
        os.write(terminal, b"no\n")
    seen += more
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

/// What takes a while is drawn for people who watch, and is a line for those who read it later.
#[tokio::test(flavor = "multi_thread")]
async fn a_bar_is_drawn_on_a_terminal_and_never_into_a_pipe() {
    let mut regions = Regions::start().await;
    regions.done(&apply("WEST"));
    std::fs::write(regions.lab.path().join("terminal.py"), ON_A_TERMINAL).unwrap();
    let log = std::fs::File::create(regions.lab.path().join("replicators.log")).unwrap();
    let run = "exec zonebreak replicate run --source \"$WEST\" --destination \"$EAST\" --spool spool";
    regions.running.push(regions.shell(run).stderr(log).spawn().unwrap());
    regions
        .done("zonebreak replicate status --source \"$WEST\" --destination \"$EAST\" --wait --timeout 60s");
    regions.stop();
    regions.west.kill();
    let promote = "zonebreak replicate promote --source \"$WEST\" --destination \"$EAST\" --spool none";
    let what = "listening for a replicator elsewhere";
    let drawn = regions.run(&format!("TERM=xterm exec python3 terminal.py {promote}"));
    assert_eq!(drawn.code, 5, "the answer was no: {}\n{}", drawn.out, drawn.err);
    let (bars, asked) = drawn.out.split_once("the source does not answer").unwrap();
    assert!(bars.matches(what).count() > 3 && bars.contains('█') && bars.contains("left"), "{bars:?}");
    assert!(bars.contains('\r') && asked.contains("Type yes"), "{bars:?} {asked}");
    let piped = regions.run(&format!("{promote} --yes"));
    assert_eq!(piped.code, 0, "{}", piped.err);
    assert_eq!(piped.err.matches(what).count(), 1, "{}", piped.err);
    let odd = |text: &str| text.contains(['\r', '\u{1b}', '█', '░']);
    assert!(!odd(&piped.out) && !odd(&piped.err), "{}\n{}", piped.out, piped.err);
}

/// The real program, killed after longer and longer, until one is through before it is killed. Both etcds are 40 ms away, so that
/// the kills fall between its steps.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_was_killed_anywhere_is_finished_by_the_same_command() {
    let mut regions = Regions::start().await;
    regions.done(&apply("WEST"));
    let log = std::fs::File::create(regions.lab.path().join("replicators.log")).unwrap();
    let run = "exec zonebreak replicate run --source \"$WEST\" --destination \"$EAST\" --spool spool";
    let replicator = regions.shell(run).stderr(log).spawn().unwrap();
    regions.running.push(replicator);
    let wait = "zonebreak replicate status --source \"$WEST\" --destination \"$EAST\" --wait --timeout 60s";
    regions.done(wait);
    let mut west = Client::connect([regions.west.url()], None).await.unwrap();
    let mut east = Client::connect([regions.east.url()], None).await.unwrap();
    let writer = tokio::spawn(write_while_owner(west.clone()));

    let far = Duration::from_millis(20);
    let links = [
        Link::open(regions.west.address(), far).await.unwrap(),
        Link::open(regions.east.address(), far).await.unwrap(),
    ];
    let promote = format!(
        "exec zonebreak replicate promote --source {} --destination {} --actor eve",
        links[0].url(),
        links[1].url()
    );
    let (mut fenced, mut kills) = (0, 0);
    loop {
        let mut child = regions.shell(&promote).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(100 * (kills + 1))).await;
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let (at_west, at_east) = (owner(&mut west).await, owner(&mut east).await);
        let epochs = [&at_west, &at_east].map(|it| it.as_ref().map_or(0, |(it, _)| it.epoch));
        assert!(epochs.iter().all(|epoch| *epoch <= 2), "a second try is no second promotion: {epochs:?}");
        let taken = at_east.is_some_and(|(it, _)| it.epoch == 2);
        fenced += u32::from(epochs[0] == 2 && !taken);
        assert!(!taken || epochs[0] == 2, "nobody takes the destination while the source is not fenced");
    }
    assert!(kills >= 2 && fenced >= 1, "{kills} kills, {fenced} of them between fence and end");
    let again = regions.done(&promote);
    assert!(again.contains("epoch 2"), "{again}");
    let acknowledged = writer.await.unwrap();
    let count = GetOptions::new().with_prefix().with_count_only();
    let there = east.get("/zonebreak/v1/written/", Some(count)).await.unwrap().count();
    assert!(acknowledged > 0 && there == acknowledged as i64, "{acknowledged} acknowledged, {there} there");
    for client in [&mut west, &mut east] {
        let (owner, _) = owner(client).await.unwrap();
        assert_eq!((owner.epoch, owner.actor.as_str()), (2, "eve"));
    }
    let mut replicator = regions.running.pop().unwrap();
    assert_eq!(replicator.wait().unwrap().code(), Some(5), "{}", regions.log());
    assert!(regions.log().contains("was promoted (epoch 2)"), "{}", regions.log());
}
