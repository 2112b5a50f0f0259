//! Where the page lies, and what lies beside it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;

/// What of a cluster's folder is worth reading after a run.
const KEPT: [&str; 4] = ["jsonl", "log", "toml", "json"];

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct Folder {
    page: PathBuf,
}

/// Whether history, events and logs stay beside the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// They do.
    Everything,
    /// The page alone is enough.
    ThePage,
}

impl Folder {
    /// `faults/<time>-<seed>/report.html` in the folder that this program was built into.
    ///
    /// # Errors
    /// When the system does not say where the program is.
    pub fn of_run(seed: u64) -> anyhow::Result<Self> {
        let me = std::env::current_exe()?;
        // target/debug/brama-faults, or target/debug/deps/scenarios-0123 of a test.
        let target = me
            .ancestors()
            .skip(1)
            .find(|folder| {
                !["deps", "debug", "release"]
                    .iter()
                    .any(|name| folder.ends_with(name))
            })
            .context("the program lies nowhere")?;
        let time = began().replace([':', '-'], "").replace('T', "-").replace('Z', "");
        let page = target
            .join("faults")
            .join(format!("{time}-{seed}"))
            .join("report.html");
        Ok(Self { page })
    }

    /// The page is to be this file.
    pub fn with_page(page: PathBuf) -> Self {
        Self { page }
    }

    /// The page.
    pub fn page(&self) -> &Path {
        &self.page
    }

    /// Copies what a cluster's folder holds to read (histories, logs, configurations; not the data) beside the page. Returns what it
    /// is and where, for [`Report::files`](super::Report::files).
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn take(&self, from: &Path, keeps: Keeps) -> anyhow::Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        if keeps == Keeps::Everything {
            let beside = self.page.parent().unwrap_or(Path::new("."));
            self.take_from(from, beside, "", &mut files)?;
            files.sort();
        }
        Ok(files)
    }

    fn take_from(
        &self,
        from: &Path,
        to: &Path,
        prefix: &str,
        files: &mut Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            // The folders of nodes, and nothing in them: data is not to read.
            if kind.is_dir() && prefix.is_empty() {
                self.take_from(&entry.path(), &to.join(&name), &format!("{name}/"), files)?;
            } else if kind.is_file() && KEPT.iter().any(|end| name.ends_with(&format!(".{end}"))) {
                std::fs::create_dir_all(to)?;
                std::fs::copy(entry.path(), to.join(&name))
                    .with_context(|| format!("cannot copy {}", entry.path().display()))?;
                files.push((what(&name), path));
            }
        }
        Ok(())
    }
}

/// The moment, as people write it.
pub(crate) fn began() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn what(name: &str) -> String {
    match name {
        "history.jsonl" => "every operation, its start, its end and what came of it",
        "events.jsonl" => "every event, and when it first arrived",
        "faults.jsonl" => "what went wrong on purpose",
        _ if name.ends_with(".log") => "what the node wrote",
        _ if name.ends_with(".toml") => "its configuration",
        _ => "more of the run",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_and_logs_are_taken_and_data_is_not() {
        let cluster = tempfile::tempdir().unwrap();
        let node = cluster.path().join("node1");
        std::fs::create_dir_all(node.join("data")).unwrap();
        for (file, text) in [
            ("history.jsonl", "{}"),
            ("node1/node.log", "started"),
            ("node1/data/vote.json", "1"),
        ] {
            std::fs::write(cluster.path().join(file), text).unwrap();
        }
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::with_page(place.path().join("run/report.html"));
        assert!(folder.take(cluster.path(), Keeps::ThePage).unwrap().is_empty());
        let files = folder.take(cluster.path(), Keeps::Everything).unwrap();
        let paths: Vec<_> = files.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(paths.len(), 2, "{paths:?}");
        for path in ["history.jsonl", "node1/node.log"] {
            assert!(paths.contains(&path), "{paths:?}");
            assert!(place.path().join("run").join(path).is_file(), "{path}");
        }
    }

    #[test]
    fn a_run_has_a_folder_of_its_own_beside_the_program() {
        let page = Folder::of_run(42).unwrap();
        let text = page.page().display().to_string();
        assert!(
            text.ends_with("-42/report.html") && text.contains("/faults/2"),
            "{text}"
        );
        assert!(!text.contains("/deps/") && !text.contains("/debug/"), "{text}");
    }
}
