//! `zonebreak replicate verify`: the proof that both sides are equal, or the keys that are not.

use zonebreak_replication::verify::{self, Proof};

use super::{StreamArgs, failure};
use crate::{
    cli::output::{OutputArgs, columns},
    exit::{Exit, Failure, Outcome},
};

/// The flags of `zonebreak replicate verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// How many differing keys to name.
    #[arg(long, value_name = "N", default_value_t = 20)]
    keys: usize,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> Outcome {
    let config = args.stream.load(Vec::new())?;
    let options = config.replicate.options().map_err(Failure::usage)?;
    let proof = verify::verify_saying(options, args.keys, |why| eprintln!("{why}")).await.map_err(failure)?;
    args.output.print(&proof, |_| table(&proof))?;
    Ok(if proof.differences == 0 && proof.conflicts == 0 { Exit::Ok } else { Exit::CheckFailed })
}

fn table(proof: &Proof) -> String {
    let verdict = if proof.differences == 0 {
        "equal".to_owned()
    } else {
        format!("{} KEYS DIFFER, in {} of 256 buckets", proof.differences, proof.buckets.len())
    };
    let verdict = match proof.conflicts {
        0 => verdict,
        open => format!("{verdict}, but for OPEN CONFLICTS ({open}: `zonebreak replicate conflicts list`)"),
    };
    let checkpoint = proof.checkpoint_digest.map_or_else(
        || "none: both regions write, and what was on its way was waited for".to_owned(),
        |digest| format!("digest {digest}"),
    );
    let mut out = format!(
        "verdict      {verdict}\nsource       revision {}, digest {}\ndestination  revision {}, digest {}\n\
         checkpoint   {checkpoint}\nkeys         {}, compared in {:.2} s\n",
        proof.source_revision,
        proof.source_digest,
        proof.destination_revision,
        proof.destination_digest,
        proof.keys,
        proof.elapsed_ms as f64 / 1000.0,
    );
    if !proof.examples.is_empty() {
        let row = |example: &verify::Example| {
            [example.key.clone(), example.difference.to_owned(), example.bucket.to_string()]
        };
        out += &format!("\n{}", columns(["KEY", "DIFFERENCE", "BUCKET"], proof.examples.iter().map(row)));
    }
    out
}
