//! docs/messages.md lists every message that an operator can meet.
//!
//! The messages are read from the sources: what is logged (`say`), what errors of
//! the start and of seawallctl consist of (`bail!`, `context`, `Display`), mistakes of
//! the configuration, and answers that begin with `SERVER_ERROR` or follow it. Of each text the
//! longest part without a placeholder must stand on the page.

use super::source::Source;
use super::{Finding, Page, Workspace};

const PAGE: &str = "docs/messages.md";

/// Where operators' messages come from.
const SOURCES: &[&str] = &[
    "engine/src/",
    "net/src/",
    "cluster/src/",
    "tools/coordinator/src/",
    "tools/seawalld/src/",
    "tools/seawallctl/src/",
];

/// Constants here are what `SERVER_ERROR` is followed by.
const REASONS: &str = "net/src/peering/";

/// Calls whose literals are messages.
const CALLS: &[&str] = &[
    "say",
    "log",
    "bail",
    "ensure",
    "anyhow",
    "context",
    "with_context",
    "problem",
    "Usage",
    "Failed",
];
/// Shorter texts are parts of others.
const BYTES_MIN: usize = 10;

/// Messages that the page lacks.
pub fn find(workspace: &Workspace, findings: &mut Vec<Finding>) {
    let page = workspace.pages.iter().find(|page: &&Page| page.path == PAGE);
    let page = normal(page.map_or("", |page| &page.text));
    for source in &workspace.sources {
        if !SOURCES.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (line, text) in messages(source) {
            if !page.contains(&text) {
                let text = format!("{text:?} is not on {PAGE}");
                findings.push(Finding { rule: "messages", path: source.path.clone(), line, text });
            }
        }
    }
}

/// The lines and longest fixed parts of a file's messages.
fn messages(source: &Source) -> Vec<(usize, String)> {
    let spans: Vec<_> = calls(source).chain(displays(source)).collect();
    let tests = source.tests();
    let mut found = Vec::new();
    for literal in source.literals.iter().filter(|literal| literal.at < tests) {
        let inside = spans.iter().any(|(begin, end)| (*begin..*end).contains(&literal.at));
        let named = source.path.starts_with(REASONS)
            && source.code[..literal.at].trim_end().ends_with(": &str =");
        if !inside && !named && !literal.text.starts_with("SERVER_ERROR ") {
            continue;
        }
        let part = fixed_part(&literal.text);
        if part.len() >= BYTES_MIN && part.contains(' ') {
            found.push((literal.line, part));
        }
    }
    found
}

/// The arguments of calls that make messages.
fn calls(source: &Source) -> impl Iterator<Item = (usize, usize)> {
    source.words().filter(|(_, word)| CALLS.contains(word)).filter_map(|(at, word)| {
        let before = source.code[..at].trim_end();
        let rest = &source.code[at + word.len()..];
        let open = at + word.len() + rest.starts_with('!') as usize;
        let is_call = source.code[open..].starts_with('(') && !before.ends_with("fn");
        is_call.then(|| closing(&source.code, open)).flatten().map(|close| (open, close))
    })
}

/// The bodies of `impl Display`.
fn displays(source: &Source) -> impl Iterator<Item = (usize, usize)> {
    source.code.match_indices("Display for ").filter_map(|(at, _)| {
        let open = at + source.code[at..].find('{')?;
        Some((open, closing(&source.code, open)?))
    })
}

/// Where the bracket that opens at `open` closes.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    code[open..]
        .bytes()
        .position(|byte| {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth -= 1,
                _ => {}
            }
            depth == 0
        })
        .map(|length| open + length)
}

/// The longest part of a text that is the same in every message: of its first line
/// if that is long enough, without placeholders.
fn fixed_part(text: &str) -> String {
    let text = text.strip_prefix("SERVER_ERROR ").map_or(text.to_owned(), |rest| {
        format!("SERVER_ERROR {}", rest.split('\r').next().unwrap_or_default())
    });
    let mut parts = vec![String::new()];
    let mut inside = false;
    for c in text.lines().next().unwrap_or_default().chars() {
        match c {
            '{' if !inside => {
                inside = true;
                parts.push(String::new());
            }
            '}' => inside = false,
            c if !inside => parts.last_mut().expect("there is one").push(c),
            _ => {}
        }
    }
    let longest = parts.into_iter().max_by_key(|part| part.trim().len()).unwrap_or_default();
    normal(longest.trim_matches([' ', ':', ';', ',', '"', '`', '(', ')']))
}

/// Without what pages and sources write differently.
fn normal(text: &str) -> String {
    text.replace("\\|", "|").replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_with_their_longest_fixed_part() {
        let text = "fn a() { say(&format!(\"cannot read {path}: {error}; starting\\n more\"));\n\
                    bail!(\"no such node\"); other(\"not a message\"); }\n\
                    impl fmt::Display for E { fn f() { write!(f, \"the disk {n} is really full\") } }\n\
                    const S: &str = \"SERVER_ERROR out of memory\";\n\
                    #[cfg(test)]\nmod tests { fn t() { say(\"a test says this\"); } }\n";
        let found: Vec<_> = messages(&Source::new("net/src/a.rs", text));
        let expected = [
            (1, "cannot read"),
            (2, "no such node"),
            (3, "is really full"),
            (4, "SERVER_ERROR out of memory"),
        ];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn the_page_is_compared_without_markup() {
        let mut workspace = Workspace::default();
        workspace.sources.push(Source::new("net/src/a.rs", "fn a() { bail!(\"use `a|b` here\") }"));
        let mut findings = Vec::new();
        find(&workspace, &mut findings);
        assert_eq!(findings.len(), 1);
        let text = "| use a\\|b\nhere | cause |".to_owned();
        workspace.pages.push(Page { path: PAGE.into(), text });
        findings.clear();
        find(&workspace, &mut findings);
        assert_eq!(findings, []);
    }
}
