//! `zonebreak topology validate | apply | diff | get`: the operator's part of the topology, in a file and in etcd. `topology confirm` is
//! in [`super::held`].

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;
use zonebreak_topology::{
    EtcdOptions, Problem,
    edit::{self, Applied, Change, ChangeKind, Compared, EditError, File},
    strangers::Stranger,
};

use super::{
    by_file,
    connect::EtcdArgs,
    failures,
    held::{self, ConfirmArgs},
    output::{OutputArgs, print, warn},
    why::{self, WhyArgs},
};
use crate::exit::{Exit, Failure, Outcome};

/// What can be done with the topology.
#[derive(Debug, Clone, Subcommand)]
pub enum TopologyCommand {
    /// Checks a topology file, and asks nobody.
    ///
    /// Everything that is wrong is listed with line, column and field. Zones that are named and are not there are told as
    /// warnings: a policy may speak of a zone before there is one.
    #[command(after_help = "Example:\n  zonebreak topology validate topology.yaml")]
    Validate(ValidateArgs),
    /// Writes a topology file to etcd.
    ///
    /// Everything is checked first; if anything is wrong, all of it is listed and nothing is written. Keys that the file does
    /// not name stay, unless --prune is given; registrations under a lease always stay.
    #[command(after_help = "Examples:
  zonebreak topology apply topology.yaml --dry-run
  zonebreak topology apply topology.yaml
  zonebreak topology get > topology.yaml; $EDITOR topology.yaml; zonebreak topology apply topology.yaml")]
    Apply(ApplyArgs),
    /// Shows what applying a file would change. Ends with 3 when that is anything.
    #[command(
        after_help = "Example:\n  zonebreak topology diff topology.yaml || echo 'etcd differs from the file'"
    )]
    Diff(DiffArgs),
    /// Prints zones, services and drains as a topology file.
    ///
    /// YAML or JSON; `topology apply` reads both. Values that cannot be used are comments in YAML, and told on standard error
    /// with JSON.
    #[command(after_help = "Example:\n  zonebreak topology get --endpoints > topology.yaml")]
    Get(GetArgs),
    /// Lets a change through that the server holds back because it would take away too much.
    ///
    /// A service that loses more than half of its endpoints at once keeps them until the loss is undone or confirmed here;
    /// `zonebreak status` shows what is held and why. A confirmation counts for the endpoints that are left now and for ten
    /// minutes: what goes missing beyond that is held again. Written to etcd for every replica to hear; told to the server
    /// where the topology is a file.
    #[command(after_help = "Examples:
  zonebreak topology confirm                                         all that is held
  zonebreak topology confirm order-svc --reason \"moved to eu-2\"      this alone

Ends with 0 let through, 3 not held, 4 not confirmed by every proxy in time, 7 unreachable.")]
    Confirm(ConfirmArgs),
    /// Explains each weight and priority of a service as a proxy has them.
    ///
    /// For each zone its priority, weight and share, with what made them: the proxy's own zone, the policy's weights, capacity,
    /// drains, health; then what takes no requests and who says so, what is held or refused, and whether the proxy has it.
    #[command(after_help = "Examples:
  zonebreak topology why order-svc --proxy sidecar-7f9c
  zonebreak topology why order-svc --zone az-b -o json")]
    Why(WhyArgs),
}

/// `topology validate`.
#[derive(Debug, Clone, clap::Args)]
pub struct ValidateArgs {
    /// The topology file.
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `validate` prints for programs.
#[derive(Debug, Default, Serialize)]
struct Checked {
    /// What is wrong; nothing when the file is valid.
    problems: Vec<Problem>,
    /// Zones that are named and are not there.
    strangers: Vec<Stranger>,
}

/// `topology apply`.
#[derive(Debug, Clone, clap::Args)]
pub struct ApplyArgs {
    /// The topology file.
    file: PathBuf,
    /// Remove keys that the file does not name, of the kinds it has (zones, services, ...).
    #[arg(long)]
    prune: bool,
    /// Show what would change and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// `topology diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct DiffArgs {
    /// The topology file.
    file: PathBuf,
    /// Count keys that the file does not name, of the kinds it has.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum FileFormat {
    /// For people, with comments.
    #[default]
    Yaml,
    /// For programs.
    Json,
}

/// `topology get`.
#[derive(Debug, Clone, clap::Args)]
pub struct GetArgs {
    /// Form of the file on standard output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: FileFormat,
    /// Print endpoints too, registered ones included.
    #[arg(long)]
    endpoints: bool,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// What `apply` prints for programs.
#[derive(Debug, Serialize)]
struct Written<'a> {
    /// The revision that holds it all; absent in a dry run.
    revision: Option<i64>,
    changes: &'a [Change],
}

/// Runs the command.
pub async fn run(command: TopologyCommand) -> Outcome {
    match command {
        TopologyCommand::Validate(args) => validate(&args),
        TopologyCommand::Apply(args) => apply(&args).await,
        TopologyCommand::Diff(args) => {
            let (file, etcd) = (read(&args.file)?, options(&args.etcd)?);
            let compared = edit::diff(&etcd, &file, args.prune).await;
            let Compared { changes, strangers } = compared.map_err(|error| failure(&args.file, error))?;
            warn(strangers);
            args.output.print(&changes, |wide| lines(&changes, wide))?;
            Ok(if changes.is_empty() { Exit::Ok } else { Exit::CheckFailed })
        }
        TopologyCommand::Get(args) => {
            let etcd = options(&args.etcd)?;
            let text =
                edit::get(&etcd, args.endpoints).await.map_err(|error| failure(Path::new("etcd"), error))?;
            match args.output {
                FileFormat::Yaml => print(&text)?,
                FileFormat::Json => {
                    text.lines()
                        .map_while(|line| line.strip_prefix("# "))
                        .for_each(|line| eprintln!("{line}"));
                    print(&json(&text)?)?;
                }
            }
            Ok(Exit::Ok)
        }
        TopologyCommand::Confirm(args) => held::confirm(&args).await,
        TopologyCommand::Why(args) => why::run(&args).await,
    }
}

/// The same topology file in JSON.
fn json(yaml: &str) -> Result<String, Failure> {
    let fail = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Unexpected, format_args!("failed to write the topology as JSON: {error}"))
    };
    let value: Value = serde_saphyr::from_str(yaml).map_err(|error| fail(&error))?;
    serde_json::to_string_pretty(&value).map_err(|error| fail(&error))
}

fn validate(args: &ValidateArgs) -> Outcome {
    let (checked, ended) = match parse(&args.file)? {
        Ok(file) => (Checked { strangers: file.strangers(), ..Checked::default() }, Ok(Exit::Ok)),
        Err(EditError::Invalid(problems)) => {
            let checked = Checked { problems: problems.clone(), ..Checked::default() };
            (checked, Err(failure(&args.file, EditError::Invalid(problems))))
        }
        Err(error) => return Err(failure(&args.file, error)),
    };
    args.output.print_for_programs(&checked)?;
    warn(checked.strangers);
    if ended.is_ok() {
        eprintln!("the topology is valid");
    }
    ended
}

async fn apply(args: &ApplyArgs) -> Outcome {
    let (file, etcd) = (read(&args.file)?, options(&args.etcd)?);
    let (revision, changes, strangers) = if args.dry_run {
        let compared = edit::diff(&etcd, &file, args.prune).await;
        let Compared { changes, strangers } = compared.map_err(|error| failure(&args.file, error))?;
        (None, changes, strangers)
    } else {
        let applied = edit::apply(&etcd, &file, args.prune).await;
        let Applied { revision, changes, strangers } = applied.map_err(|error| failure(&args.file, error))?;
        (Some(revision), changes, strangers)
    };
    warn(strangers);
    args.output.print(&Written { revision, changes: &changes }, |wide| lines(&changes, wide))?;
    match (changes.len(), revision) {
        (0, _) => eprintln!("etcd holds all of it already"),
        (number, None) => eprintln!("{number} keys would change; nothing is written"),
        (number, Some(revision)) => eprintln!("{number} keys written, revision {revision}"),
    }
    Ok(Exit::Ok)
}

fn options(args: &EtcdArgs) -> Result<EtcdOptions, Failure> {
    args.load(by_file::topology)?.etcd.options().map_err(Failure::usage)
}

fn read(path: &Path) -> Result<File, Failure> {
    parse(path)?.map_err(|error| failure(path, error))
}

/// The file, or what is wrong with it. A failure when there is none.
fn parse(path: &Path) -> Result<Result<File, EditError>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format_args!("failed to read {}: {error}", path.display())))?;
    Ok(File::parse(&path.display().to_string(), &text))
}

fn failure(file: &Path, error: EditError) -> Failure {
    match error {
        EditError::Etcd { error: ref cause, .. } => {
            Failure::new(failures::etcd_exit(cause), format_args!("failed to {error}"))
        }
        EditError::Render(_) => Failure::new(Exit::Unexpected, format_args!("failed to {error}")),
        EditError::Conflict { .. } => Failure::new(Exit::Conflict, format_args!("failed to {error}")),
        EditError::Invalid(problems) => {
            let place = |line: Option<u32>, column: Option<u32>| {
                line.zip(column).map_or_else(String::new, |(line, column)| format!(":{line}:{column}"))
            };
            let lines = problems.iter().map(|problem| {
                let at = place(problem.line, problem.column);
                // A file that cannot be read as a whole is its own key.
                let key = if file == Path::new(&problem.key) {
                    String::new()
                } else {
                    format!("{}: ", problem.key)
                };
                format!("\n  {}{at}: {key}{}", file.display(), problem.message)
            });
            Failure::usage(format_args!(
                "failed to use the topology file, nothing of it is written:{}",
                lines.collect::<String>()
            ))
        }
    }
}

/// One line a key, in the signs of `diff`; with room, the values too.
fn lines(changes: &[Change], wide: bool) -> String {
    let value = |sign: char, value: &Option<Value>| match value {
        Some(value) if wide => format!("    {sign} {value}\n"),
        _ => String::new(),
    };
    let line = |change: &Change| {
        let sign = match change.change {
            ChangeKind::Added => '+',
            ChangeKind::Changed => '~',
            ChangeKind::Removed => '-',
        };
        format!("{sign} {}\n{}{}", change.key, value('-', &change.from), value('+', &change.to))
    };
    changes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use zonebreak_topology::etcd::EtcdError;

    use super::*;

    #[test]
    fn half_a_write_ends_as_etcd_ended_it() {
        let unreachable =
            || EtcdError::Unreachable { endpoints: "a:1".to_owned(), why: "no route".to_owned() };
        for written in [0, 7] {
            for (error, exit) in [
                (EtcdError::Denied("no".to_owned()), Exit::Usage),
                (EtcdError::Failed("no space".to_owned()), Exit::Unexpected),
                (unreachable(), Exit::Unreachable),
            ] {
                let failure = failure(Path::new("t.yaml"), EditError::Etcd { error, written });
                assert_eq!(failure.exit, exit, "{failure}");
                assert_eq!(failure.message.contains("7 changes are written"), written == 7, "{failure}");
            }
        }
    }
}
