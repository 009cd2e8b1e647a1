//! Words in comments, messages and pages: docs that say nothing, and terms that
//! only this project would understand.

use super::source::{Piece, Source, is_word};
use super::{Finding, Page};

/// Names that are metaphors, as whole words of code, with the plain term.
const NAMES: &[(&str, &str)] = &[
    ("Alike", "config mismatch"),
    ("Board", PLAIN),
    ("Counted", PLAIN),
    ("Doors", PLAIN),
    ("Lane", "replica progress"),
    ("Ledger", PLAIN),
    ("Parcel", "message"),
    ("Placed", PLAIN),
    ("Post", "mailbox, outbox"),
    ("Seat", PLAIN),
    ("Shown", PLAIN),
    ("Speaker", PLAIN),
    ("Standing", "lease state"),
    ("Word", "message"),
];

const PLAIN: &str = "a plain term of the field";

/// Phrases of comments, messages and pages, in lower case, with the plain term.
const PHRASES: &[(&str, &str)] = &[
    ("clock of day", "wall clock"),
    ("clock is late", "clock is behind"),
    ("comes about", "commits"),
    ("makes no sense", "is a protocol violation"),
    ("nobody leads", "no leader"),
    ("reigns", "is in force"),
    ("strangers", "other cluster, unknown node"),
    ("the begin of", "the beginning, or entry, of"),
    ("the module's text", "the thing itself"),
    ("told", "sent or acknowledged"),
];

/// Pages that keep the words of their time, and one that quotes messages.
const QUOTES: &[&str] =
    &["CHANGELOG.md", "docs/decisions/", "docs/messages.md", "benches/results/"];

/// This file: it names what it looks for.
const SELF: &str = "tools/xtask/src/tidy/";

/// One-word docs, and banned names and phrases.
pub fn in_source(source: &Source, findings: &mut Vec<Finding>) {
    if source.path.starts_with(SELF) {
        return;
    }
    one_word(source, findings);
    for (at, word) in source.words() {
        if let Some((_, better)) = NAMES.iter().find(|(name, _)| *name == word) {
            let text = format!("the name `{word}`; better: {better}");
            findings.push(found("words", &source.path, source.line_of(at), text));
        }
    }
    for piece in source.comments.iter().chain(&source.literals) {
        phrases(&source.path, piece.line, &piece.text, findings);
    }
}

/// Banned phrases.
pub fn in_page(page: &Page, findings: &mut Vec<Finding>) {
    if QUOTES.iter().any(|quotes| page.path.starts_with(quotes)) {
        return;
    }
    for (number, line) in page.text.lines().enumerate() {
        phrases(&page.path, number + 1, line, findings);
    }
}

fn found(rule: &'static str, path: &str, line: usize, text: String) -> Finding {
    Finding { rule, path: path.to_owned(), line, text }
}

/// A doc comment of one line with one word in it. A reference is enough: `-C`.
fn one_word(source: &Source, findings: &mut Vec<Finding>) {
    let docs: Vec<&Piece> = source.comments.iter().filter(|piece| piece.doc).collect();
    for (index, piece) in docs.iter().enumerate() {
        let beside = |other: Option<&&Piece>| {
            other.is_some_and(|other| other.line.abs_diff(piece.line) == 1)
        };
        let alone = !beside(docs.get(index + 1))
            && !beside(index.checked_sub(1).and_then(|before| docs.get(before)));
        let refers = piece.text.contains(['`', '[']);
        if alone && !refers && piece.text.split_whitespace().count() <= 1 {
            let text =
                format!("the doc comment {:?} says nothing that the name does not", piece.text);
            findings.push(found("one-word-docs", &source.path, piece.line, text));
        }
    }
}

fn phrases(path: &str, line: usize, text: &str, findings: &mut Vec<Finding>) {
    let lower = text.to_lowercase();
    for (phrase, better) in PHRASES {
        for (at, _) in lower.match_indices(phrase) {
            let before = lower[..at].chars().next_back().is_some_and(is_word);
            let after = lower[at + phrase.len()..].chars().next().is_some_and(is_word);
            if !before && !after {
                let line = line + lower[..at].matches('\n').count();
                let text = format!("{phrase:?}; better: {better}");
                findings.push(found("words", path, line, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<(&'static str, usize)> {
        let mut findings = Vec::new();
        in_source(&Source::new("a.rs", text), &mut findings);
        findings.into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn one_word_alone_is_found_and_a_last_line_of_a_paragraph_is_not() {
        let text = "/// Which.\nfn a() {}\n/// What it is, and\n/// which.\nfn b() {}\n// Short.\n";
        assert_eq!(rules(text), [("one-word-docs", 1)]);
    }

    #[test]
    fn banned_words_are_found_whole_in_names_comments_and_messages() {
        assert_eq!(rules("struct Lane;\nstruct Lanes;\n"), [("words", 1)]);
        assert_eq!(rules("// The node that was told.\n// retold\n"), [("words", 1)]);
        assert_eq!(rules("const A: &str = \"it\nreigns\";\n"), [("words", 2)]);
    }
}
