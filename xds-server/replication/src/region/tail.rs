//! The file of what only a returning region has: a line of JSON for each key, whole and safe on disk under its name or not there,
//! and never written over another one.

use std::{
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
};

/// What the names of such files end with.
const SUFFIX: &str = "jsonl";

/// A tail that was saved.
#[derive(Debug)]
pub(crate) struct Exported {
    pub path: PathBuf,
    pub keys: usize,
}

/// A tail that is being written.
pub(super) struct Draft {
    directory: PathBuf,
    name: String,
    part: PathBuf,
    file: BufWriter<File>,
    keys: usize,
}

// === impl Draft ===

impl Draft {
    /// Begins the file `name.jsonl` in `directory`. Nobody else writes there: it is the spool's, which is locked.
    pub(super) async fn create(directory: &Path, name: String) -> io::Result<Self> {
        tokio::fs::create_dir_all(directory).await?;
        let part = directory.join(format!("{name}.part"));
        let file = BufWriter::new(File::create(&part).await?);
        Ok(Self { directory: directory.to_owned(), name, part, file, keys: 0 })
    }

    /// The next line.
    pub(super) async fn push(&mut self, line: &Value) -> io::Result<()> {
        self.keys += 1;
        self.file.write_all(format!("{line}\n").as_bytes()).await
    }

    /// Makes it safe, and gives it the first name that is free. A tail that is there already, of a return that was cut off after
    /// it was saved, is not saved twice.
    pub(super) async fn finish(mut self) -> io::Result<Exported> {
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        let Self { directory, name, part, keys, .. } = self;
        let named = move || place(&directory, &name, &part);
        let path = tokio::task::spawn_blocking(named).await.map_err(io::Error::other)??;
        Ok(Exported { path, keys })
    }
}

/// Gives the file `part` its name, unless the last one of this name holds the same.
fn place(directory: &Path, name: &str, part: &Path) -> io::Result<PathBuf> {
    let mut saved: Option<PathBuf> = None;
    let suffixes = std::iter::once(String::new()).chain((2_u32..).map(|number| format!("-{number}")));
    for suffix in suffixes {
        let path = directory.join(format!("{name}{suffix}.{SUFFIX}"));
        if path.exists() {
            saved = Some(path);
            continue;
        }
        if let Some(saved) = saved
            && same(&saved, part)?
        {
            std::fs::remove_file(part)?;
            return Ok(saved);
        }
        std::fs::rename(part, &path)?;
        std::fs::File::open(directory)?.sync_all()?;
        return Ok(path);
    }
    Err(io::Error::other("every name is taken"))
}

/// Whether two files hold the same bytes.
fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (std::fs::File::open(one)?, std::fs::File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let mut other = BufReader::new(other).bytes();
    for byte in BufReader::new(one).bytes() {
        if other.next().transpose()? != Some(byte?) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn save(directory: &Path, lines: &[&str]) -> PathBuf {
        let mut draft = Draft::create(directory, "divergent-orders-2-b".to_owned()).await.unwrap();
        for line in lines {
            draft.push(&Value::from(*line)).await.unwrap();
        }
        let saved = draft.finish().await.unwrap();
        assert_eq!(saved.keys, lines.len());
        saved.path
    }

    #[tokio::test]
    async fn a_tail_is_whole_or_not_there_and_never_written_over_another() {
        let directory = tempfile::tempdir().unwrap();
        let within = directory.path().join("made");
        drop(Draft::create(&within, "divergent-orders-2-b".to_owned()).await.unwrap());
        let first = save(&within, &["one"]).await;
        assert_eq!(first, within.join("divergent-orders-2-b.jsonl"));
        assert_eq!(save(&within, &["one"]).await, first, "the same once more is no second file");
        let second = save(&within, &["two"]).await;
        assert_eq!(second, within.join("divergent-orders-2-b-2.jsonl"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&first).as_str(), read(&second).as_str()), ("\"one\"\n", "\"two\"\n"));
        assert_eq!(std::fs::read_dir(&within).unwrap().count(), 2, "nothing half written is left");
    }
}
