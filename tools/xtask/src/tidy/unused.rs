//! `pub` items that nobody uses.
//!
//! The compiler warns of what is private and unused, but takes a `pub` item of a
//! library for used. Here an item counts as unused if its name stands nowhere else
//! in the code of the workspace, or nowhere else but in tests. This misses an item
//! that shares its name with another one. It is wrong about a name that only a macro
//! puts together, or that is there for users of a library: those have an entry, with
//! the reason, under `[unused-allowed]` in `tidy.toml`.

use std::collections::{BTreeMap, HashMap};

use super::source::{Source, is_word, words};
use super::{Finding, Workspace};

/// What may follow `pub` before the name.
const KINDS: &[&str] =
    &["fn", "struct", "enum", "union", "trait", "type", "const", "static", "mod"];
const QUALIFIERS: &[&str] = &["const", "unsafe", "async", "extern", "mut"];

/// Items whose name stands but once.
pub fn find(
    workspace: &Workspace,
    allowed: &BTreeMap<String, String>,
    findings: &mut Vec<Finding>,
) {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    let mut outside_tests: HashMap<&str, u32> = HashMap::new();
    for source in &workspace.sources {
        let tests = source.tests();
        for (at, word) in source.words() {
            *counts.entry(word).or_default() += 1;
            *outside_tests.entry(word).or_default() += u32::from(at < tests);
        }
    }
    for source in &workspace.sources {
        let tests = source.tests();
        for (at, name) in items(source) {
            let uses = (outside_tests[name] - u32::from(at < tests), counts[name] - 1);
            let who = match uses {
                (_, 0) => "nothing names",
                (0, _) if at < tests && !is_for_tests(source, at) => "only tests name",
                _ => continue,
            };
            if !allowed.contains_key(name) {
                findings.push(Finding {
                    rule: "unused",
                    path: source.path.clone(),
                    line: source.line_of(at),
                    text: format!(
                        "{who} `{name}`: take it out, or give a reason in [unused-allowed]"
                    ),
                });
            }
        }
    }
    let first = workspace.sources.first().map_or("", |source| &source.path);
    for name in allowed.keys().filter(|name| outside_tests.get(name.as_str()) != Some(&1)) {
        findings.push(Finding {
            rule: "unused",
            path: first.to_owned(),
            line: 1,
            text: format!("[unused-allowed] has `{name}`, which is gone or used"),
        });
    }
}

/// Whether an item says itself that it is there for tests.
fn is_for_tests(source: &Source, at: usize) -> bool {
    let line = source.code[..at].rfind('\n').unwrap_or(0);
    source.code[..line].trim_end().ends_with("#[cfg(test)]")
}

/// `pub` items and fields, and the variants of `pub` enums.
fn items(source: &Source) -> Vec<(usize, &str)> {
    let code = source.code.as_str();
    let mut found = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "pub") {
        let rest = &code[at + "pub".len()..];
        let rest = match rest.trim_start().starts_with('(') {
            true => rest.find(')').map_or("", |end| &rest[end + 1..]),
            false => rest,
        };
        let mut next =
            words(rest).skip_while(|(_, word)| QUALIFIERS.contains(word) && *word != "const");
        let Some((first, kind)) = next.next() else { continue };
        let (place, name) = match kind {
            "const" => match next.find(|(_, word)| *word != "unsafe" && *word != "fn") {
                Some(named) => named,
                None => continue,
            },
            "use" => continue,
            kind if KINDS.contains(&kind) => match next.next() {
                Some(named) => named,
                None => continue,
            },
            // A field: `pub name: Type`.
            name if rest[first + name.len()..].trim_start().starts_with(':') => (first, name),
            _ => continue,
        };
        let begin = at + (code.len() - at - rest.len()) + place;
        found.push((begin, name));
        if kind == "enum" {
            found.extend(variants(code, begin));
        }
    }
    found
}

/// The names directly inside the braces of an enum.
fn variants(code: &str, from: usize) -> Vec<(usize, &str)> {
    let Some(open) = code[from..].find('{').map(|at| from + at + 1) else { return Vec::new() };
    let (mut depth, mut wanted, mut found, mut at) = (0, true, Vec::new(), open);
    while let Some(c) = code[at..].chars().next() {
        match c {
            '(' | '{' | '[' => depth += 1,
            '}' if depth == 0 => break,
            ')' | '}' | ']' => depth -= 1,
            ',' if depth == 0 => wanted = true,
            c if depth == 0 && wanted && is_word(c) => {
                let name = words(&code[at..]).next().map_or("", |(_, name)| name);
                found.push((at, name));
                wanted = false;
                at += name.len();
                continue;
            }
            _ => {}
        }
        at += c.len_utf8();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        items(&Source::new("a.rs", text)).into_iter().map(|(_, name)| name.to_owned()).collect()
    }

    #[test]
    fn items_fields_and_variants_are_found() {
        let text = "pub const fn a() {}\npub const B: u8 = 1;\npub unsafe fn c() {}\n\
                    pub struct D { pub e: u8, f: u8 }\npub(crate) enum G { H(u8), I { j: u8 }, #[x(y)] K = 3 }\n\
                    pub use other::thing;\nfn private() {}\npub static L: u8 = 1;\n";
        assert_eq!(names(text), ["a", "B", "c", "D", "e", "G", "H", "I", "K", "L"]);
    }

    #[test]
    fn an_item_named_only_in_tests_or_comments_is_unused() {
        let mut workspace = Workspace::default();
        workspace.sources.push(Source::new(
            "a.rs",
            "pub fn used() {}\n/// Not unused_one.\npub fn unused_one() {}\n",
        ));
        workspace.sources.push(Source::new("tests/b.rs", "fn t() { tested(); }\n"));
        workspace.sources.push(Source::new("c.rs", "fn c() { used(); }\npub fn tested() {}\n"));
        let mut findings = Vec::new();
        find(&workspace, &BTreeMap::new(), &mut findings);
        let lines: Vec<_> = findings.iter().map(|it| (it.path.as_str(), it.line)).collect();
        assert_eq!(lines, [("a.rs", 3), ("c.rs", 2)]);
        let why = |name: &str| (name.to_owned(), "why".to_owned());
        let allowed = BTreeMap::from(["unused_one", "tested"].map(why));
        findings.clear();
        find(&workspace, &allowed, &mut findings);
        assert_eq!(findings, []);
        let stale = BTreeMap::from(["unused_one", "tested", "used"].map(why));
        find(&workspace, &stale, &mut findings);
        assert_eq!(findings[0].text, "[unused-allowed] has `used`, which is gone or used");
    }
}
