//! Links and paths in pages and comments that lead nowhere.

use std::collections::{BTreeSet, HashSet};

use super::{Finding, Page, Workspace};

/// A path ends by one of these.
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".py", ".case", ".mjs", ".php", ".pl"];

/// The book's table of contents.
const CONTENTS: &str = "docs/SUMMARY.md";

/// Links of pages, and paths that comments and pages name.
pub fn find(workspace: &Workspace, findings: &mut Vec<Finding>) {
    let places = Places::new(workspace);
    for page in &workspace.pages {
        let mut code = false;
        for (number, line) in page.text.lines().enumerate() {
            let mut bad = Vec::new();
            if line.trim_start().starts_with("```") {
                code = !code;
            }
            if !code {
                targets(line)
                    .filter(|target| !places.leads(page, target))
                    .for_each(|target| bad.push(target));
            }
            named(line)
                .filter(|path| !places.names(&page.path, path))
                .for_each(|path| bad.push(path));
            for target in bad {
                findings.push(finding(&page.path, number + 1, target));
            }
        }
    }
    for source in &workspace.sources {
        for comment in &source.comments {
            for path in named(&comment.text).filter(|path| !places.names(&source.path, path)) {
                findings.push(finding(&source.path, comment.line, path));
            }
        }
    }
}

/// Pages of the book that its table of contents leaves out.
pub fn unlisted(workspace: &Workspace, findings: &mut Vec<Finding>) {
    let book = workspace.pages.iter().find(|page| page.path == CONTENTS);
    let listed: HashSet<String> = book
        .iter()
        .flat_map(|page| page.text.lines().flat_map(targets))
        .map(|target| joined(CONTENTS, target))
        .collect();
    for page in workspace.pages.iter().filter(|page| page.path.starts_with("docs/")) {
        if page.path != CONTENTS && !listed.contains(&page.path) {
            let text = format!("{CONTENTS} does not list it");
            findings.push(Finding { rule: "links", path: page.path.clone(), line: 1, text });
        }
    }
}

fn finding(path: &str, line: usize, target: &str) -> Finding {
    let text = format!("{target:?} leads nowhere");
    Finding { rule: "links", path: path.to_owned(), line, text }
}

/// What can be linked to.
struct Places<'a> {
    files: HashSet<&'a str>,
    tops: BTreeSet<&'a str>,
    pages: &'a [Page],
}

impl<'a> Places<'a> {
    fn new(workspace: &'a Workspace) -> Places<'a> {
        let files: HashSet<&str> = workspace.files.iter().map(String::as_str).collect();
        let tops = files.iter().filter_map(|path| Some(path.split_once('/')?.0)).collect();
        Places { files, tops, pages: &workspace.pages }
    }

    /// Whether a link of a page leads to a file or folder, and to a heading in it.
    fn leads(&self, page: &Page, target: &str) -> bool {
        if target.contains("://") || target.starts_with("mailto:") {
            return true;
        }
        let (path, heading) = target.split_once('#').unwrap_or((target, ""));
        let path = match path {
            "" => page.path.clone(),
            path => joined(&page.path, path),
        };
        if !self.exists(&path) {
            return false;
        }
        let linked = self.pages.iter().find(|other| other.path == path);
        heading.is_empty() || linked.is_none_or(|page| has_heading(&page.text, heading))
    }

    fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        path.is_empty()
            || self.files.contains(path)
            || self.files.iter().any(|file| file.starts_with(&folder))
    }

    /// Whether a path that a text names is a file: from the root, from the crate, or
    /// from the folder of the file itself. Others than ours begin elsewhere.
    fn names(&self, inside: &str, path: &str) -> bool {
        let top = path.split('/').next().unwrap_or_default();
        if !self.tops.contains(top) && !["src", "tests"].contains(&top) {
            return true;
        }
        let ancestors = inside.match_indices('/').map(|(at, _)| &inside[..=at]);
        self.exists(path) || ancestors.clone().any(|folder| self.exists(&format!("{folder}{path}")))
    }
}

/// A relative link of a file, from the root.
fn joined(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The targets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, _)| {
        let rest = &line[at + 2..];
        let target = &rest[..rest.find(')')?];
        Some(target.split_whitespace().next().unwrap_or_default())
    })
}

/// Paths with a folder and a known ending.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c)))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.contains('/') && !word.starts_with('/') && !word.contains(".."))
        .filter(|word| ENDINGS.iter().any(|ending| word.ends_with(ending)))
}

/// Whether a heading of the page has that anchor.
fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>() == anchor
    })
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::*;

    const NONE: [usize; 0] = [];

    fn findings(page: &str, comment: &str) -> Vec<usize> {
        let workspace = Workspace {
            files: ["docs/a.md", "docs/b.md", "net/src/x.rs"].map(String::from).into(),
            pages: vec![
                Page { path: "docs/a.md".into(), text: page.into() },
                Page { path: "docs/b.md".into(), text: "# One road, `for` all\n".into() },
            ],
            sources: vec![Source::new("net/src/x.rs", comment)],
        };
        let mut out = Vec::new();
        find(&workspace, &mut out);
        out.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn links_to_files_and_headings_are_followed() {
        assert_eq!(
            findings("[b](b.md#one-road-for-all) [x](../net/src/x.rs) [w](https://x)\n", ""),
            NONE
        );
        assert_eq!(findings("\n[b](c.md)\n[b](b.md#two)\n[none](#three)\n", ""), [2, 3, 4]);
    }

    #[test]
    fn a_page_that_the_contents_leave_out_is_found() {
        let page = |path: &str, text: &str| Page { path: path.into(), text: text.into() };
        let pages = vec![
            page("docs/SUMMARY.md", "- [A](a.md)\n  - [B](more/b.md)\n"),
            page("docs/a.md", ""),
            page("docs/more/b.md", ""),
            page("docs/c.md", ""),
            page("README.md", ""),
        ];
        let workspace = Workspace { pages, ..Workspace::default() };
        let mut findings = Vec::new();
        unlisted(&workspace, &mut findings);
        let paths: Vec<_> = findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["docs/c.md"]);
    }

    #[test]
    fn paths_in_comments_and_pages_are_files() {
        assert_eq!(
            findings(
                "see `net/src/x.rs`, or tokio's src/y.rsx, or redis/src/z.c",
                "//! docs/b.md, src/x.rs.\n"
            ),
            NONE
        );
        assert_eq!(findings("see net/src/y.rs\n", "\n// docs/c.md\n"), [1, 2]);
    }
}
