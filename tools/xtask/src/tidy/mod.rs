//! `cargo xtask tidy`: what the compiler and clippy do not find.
//!
//! Each rule is a text search over all Rust files (and, for words and links,
//! all pages) of the workspace: [`unused`], [`shape`], [`prose`], [`links`],
//! [`messages`]. What stood when a rule came is counted by file in
//! `tools/xtask/tidy.toml`. A count there may only shrink: more findings fail the
//! check, and so do fewer, until the lower number is written down
//! (`cargo xtask tidy --record`, which refuses to raise the sum of a rule).

mod links;
mod messages;
mod prose;
mod ratchet;
mod shape;
mod source;
mod unused;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::report::Done;
use ratchet::Exceptions;
use source::Source;

/// Something that a rule does not want.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The rule's name, as in `tidy.toml`.
    pub rule: &'static str,
    /// The file.
    pub path: String,
    /// The line in it, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

/// A page of the documentation.
#[derive(Debug)]
pub struct Page {
    /// Relative to the workspace's root.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// Everything that is looked at.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Rust files.
    pub sources: Vec<Source>,
    /// Markdown files.
    pub pages: Vec<Page>,
    /// Every file, for links.
    pub files: Vec<String>,
}

/// Findings printed of each rule; the rest is a number.
const SHOWN_OF_A_RULE: usize = 20;

/// Looks at everything; `record` writes the exceptions down anew.
pub fn run(record: bool) -> Result<Done> {
    let workspace = Workspace::read()?;
    let path = paths::xtask().join("tidy.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let exceptions = Exceptions::parse(&text)?;
    let findings = findings(&workspace, &exceptions);
    if record {
        std::fs::write(&path, exceptions.recorded(&text, &findings)?)?;
        return Ok(Done::new(1, "exceptions written down"));
    }
    let complaints = exceptions.complaints(&findings);
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    let excepted = findings.len();
    let files = workspace.sources.len() + workspace.pages.len();
    Ok(Done::new(files as u64, format!("{files} files, {excepted} exceptions left")))
}

fn findings(workspace: &Workspace, exceptions: &Exceptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    unused::find(workspace, &exceptions.unused_allowed, &mut findings);
    for source in &workspace.sources {
        shape::find(source, &mut findings);
        prose::in_source(source, &mut findings);
    }
    for page in &workspace.pages {
        prose::in_page(page, &mut findings);
    }
    links::find(workspace, &mut findings);
    links::unlisted(workspace, &mut findings);
    messages::find(workspace, &mut findings);
    findings.sort();
    findings
}

impl Workspace {
    /// Reads the repository, without what builds leave in it.
    fn read() -> Result<Workspace> {
        let mut workspace = Workspace::default();
        let root = paths::root();
        workspace.read_folder(&root, "")?;
        workspace.sources.sort_by(|a, b| a.path.cmp(&b.path));
        workspace.pages.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(workspace)
    }

    fn read_folder(&mut self, folder: &Path, inside: &str) -> Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name != ".ci" || name == "target" || name == "book" {
                continue;
            }
            let path = if inside.is_empty() { name.clone() } else { format!("{inside}/{name}") };
            if entry.file_type()?.is_dir() {
                self.read_folder(&entry.path(), &path)?;
                continue;
            }
            if name.ends_with(".rs") {
                let text = std::fs::read_to_string(entry.path())?;
                self.sources.push(Source::new(&path, &text));
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(entry.path())?;
                self.pages.push(Page { path: path.clone(), text });
            }
            self.files.push(path);
        }
        Ok(())
    }
}
