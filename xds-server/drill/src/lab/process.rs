//! One child process: its own group, its log in the lab's directory, dead at the latest when its owner is. Knows nothing
//! of what the program does.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use super::{Lab, LabError, sys, wait::until};

/// Lines of a child's log that go into an error.
const TAIL_LINES: usize = 40;

/// What to run; kept by the child, so that it can be run again.
#[derive(Debug, Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

/// A running child. Killed with its whole group when dropped, when the test panics, and by the kernel when this process dies
/// of SIGKILL.
#[derive(Debug)]
pub struct Process {
    name: String,
    command: Command,
    child: Child,
    /// How it ended, once it was waited for.
    ended: Option<ExitStatus>,
    log: PathBuf,
    /// Keeps the directory of the log.
    lab: Lab,
}

// === impl Command ===

impl Command {
    /// A program without arguments.
    pub fn new(program: PathBuf) -> Self {
        Self { program, args: Vec::new(), env: Vec::new() }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment, which is otherwise this process's.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The command in std's form, not yet wired to a log.
    pub(super) fn to_std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

// === impl Process ===

impl Process {
    /// Starts a child named `name`, whose output is appended to `name.log` in the lab.
    pub fn spawn(lab: &Lab, name: &str, command: Command) -> Result<Self, LabError> {
        let log = lab.path().join(format!("{name}.log"));
        let child = launch(&command, lab.path(), &log).map_err(LabError::io(format!("start {name}")))?;
        Ok(Self { name: name.to_owned(), command, child, ended: None, log, lab: lab.clone() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
            if self.ended.is_some() {
                // What it may have left behind. Once and at once: later the number may name somebody else's group.
                let _ = sys::signal_group(self.child.id(), libc::SIGKILL);
            }
        }
        self.ended
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            // Neither can fail for a child of ours that has not been waited for.
            let _ = sys::signal_group(self.pid(), libc::SIGKILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// Sends a signal, such as `libc::SIGHUP` or `libc::SIGSTOP`, to the child's group. Nothing happens to one that has ended.
    pub fn signal(&mut self, signal: i32) -> Result<(), LabError> {
        if self.exited().is_some() {
            return Ok(());
        }
        sys::signal_group(self.pid(), signal).map_err(LabError::io(format!("signal {}", self.name)))
    }

    /// Asks it to end (SIGTERM) and waits at most `grace`; it is not killed after that, so that the caller can look at it.
    pub async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus, LabError> {
        self.signal(libc::SIGTERM)?;
        let what = format!("{} end after SIGTERM", self.name);
        let log = self.log.clone();
        until(&what, grace, async || {
            self.exited().ok_or_else(|| format!("it still runs; its log:\n{}", tail(&log)))
        })
        .await
    }

    /// Starts it again with the same command, after killing it if it runs. The log goes on.
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.kill();
        let child = launch(&self.command, self.lab.path(), &self.log);
        self.child = child.map_err(LabError::io(format!("start {} again", self.name)))?;
        self.ended = None;
        Ok(())
    }

    /// The same with more arguments, behind those that it has.
    pub fn restart_with<A: AsRef<OsStr>>(
        &mut self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<(), LabError> {
        self.command.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self.restart()
    }

    /// Waits until `check` succeeds; an error at once, with the end of the log, when the child ends meanwhile.
    pub async fn ready<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut check: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, LabError> {
        let found = until(what, limit, async || match self.exited() {
            Some(status) => {
                Ok(Err(LabError::Exited { what: self.name.clone(), status, tail: self.log_tail() }))
            }
            None => check().await.map(Ok),
        });
        found.await.map_err(|error| match error {
            LabError::Timeout { what, limit, seen } => {
                let seen = format!("{seen}\nthe end of the log of {}:\n{}", self.name, self.log_tail());
                LabError::Timeout { what, limit, seen }
            }
            other => other,
        })?
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Its whole log so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

fn launch(command: &Command, folder: &Path, log: &Path) -> io::Result<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    let mut std = command.to_std();
    std.current_dir(folder).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out).process_group(0);
    sys::die_with_parent(&mut std);
    spawn_from_long_lived_thread(std)
}

/// The kernel's parent-death signal fires when the spawning *thread* ends, and tests and runtimes end threads at will. So one
/// thread, which never ends, spawns every child.
fn spawn_from_long_lived_thread(command: std::process::Command) -> io::Result<Child> {
    type Order = (std::process::Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that has gone away drops the child; it is reaped by the kernel when we end.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let gone = || io::Error::other("the thread that starts children has ended");
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new(PathBuf::from("/bin/sh")).args(["-c", script])
    }

    fn runs(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie that init has not yet reaped does not run.
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn a_drop_kills_the_whole_group() {
        let lab = Lab::new().unwrap();
        let mut process = Process::spawn(&lab, "group", shell("sleep 600 & echo $!; wait")).unwrap();
        let log = lab.path().join("group.log");
        let grandchild = process
            .ready("the grandchild's pid", Duration::from_secs(10), async || {
                fs::read_to_string(&log).unwrap().trim().parse::<u32>().map_err(|e| e.to_string())
            })
            .await
            .unwrap();
        assert!(runs(grandchild));
        drop(process);
        until("the grandchild's end", Duration::from_secs(10), async || {
            if runs(grandchild) { Err("it runs".to_owned()) } else { Ok(()) }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_child_that_ends_is_reported_with_its_last_words() {
        let lab = Lab::new().unwrap();
        let mut process = Process::spawn(&lab, "brief", shell("echo so long; exit 7")).unwrap();
        let never =
            process.ready("a miracle", Duration::from_secs(10), async || Err::<(), _>("none".to_owned()));
        let error = never.await.unwrap_err().to_string();
        assert!(error.contains("keep brief running") && error.contains("exit status: 7"), "{error}");
        assert!(error.contains("so long"), "{error}");
    }

    #[tokio::test]
    async fn terminate_waits_and_restart_runs_the_same_again() {
        let lab = Lab::new().unwrap();
        let mut process = Process::spawn(&lab, "twice", shell("echo up; exec sleep 600")).unwrap();
        let first = process.pid();
        let status = process.terminate(Duration::from_secs(10)).await.unwrap();
        assert!(!status.success());
        process.restart().unwrap();
        assert_ne!(process.pid(), first);
        assert!(process.exited().is_none());
        let log = lab.path().join("twice.log");
        let check = async || match fs::read_to_string(&log).unwrap().matches("up").count() {
            0 => Err("no word".to_owned()),
            words => Ok(words),
        };
        assert!(process.ready("its word", Duration::from_secs(10), check).await.unwrap() >= 1);
    }

    /// Runs this test binary again as a parent that is killed with SIGKILL, and looks for its orphans.
    #[tokio::test]
    async fn a_child_dies_with_a_parent_that_was_killed() {
        const ROLE: &str = "ZONEBREAK_TEST_PARENT_FOR";
        if let Some(file) = std::env::var_os(ROLE) {
            let lab = Lab::new().unwrap();
            // Spawned from a thread that ends at once: the child must live on.
            let child =
                thread::spawn(move || Process::spawn(&lab, "orphan", shell("exec sleep 600")).unwrap())
                    .join();
            fs::write(file, child.as_ref().unwrap().pid().to_string()).unwrap();
            std::future::pending::<()>().await;
        }
        let lab = Lab::new().unwrap();
        let file = lab.path().join("pid");
        let test = "lab::process::tests::a_child_dies_with_a_parent_that_was_killed";
        let command = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, &file)
            // The killed parent cannot remove its directory; it goes with ours.
            .env("TMPDIR", lab.path());
        let mut parent = Process::spawn(&lab, "parent", command).unwrap();
        let orphan = parent
            .ready("the child's pid", Duration::from_secs(20), async || {
                let text = fs::read_to_string(&file).map_err(|e| e.to_string())?;
                text.parse::<u32>().map_err(|e| e.to_string())
            })
            .await
            .unwrap();
        assert!(runs(orphan));
        // Only the parent itself: the child leads a group of its own.
        parent.kill();
        until("the child's end", Duration::from_secs(10), async || {
            if runs(orphan) { Err(format!("pid {orphan} runs")) } else { Ok(()) }
        })
        .await
        .unwrap();
    }
}
