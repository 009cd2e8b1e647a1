//! A Rust file taken apart: code, comments and literals, each with its line.
//!
//! A small lexer, not a parser. `code` has the length of the file, with
//! comments and the contents of literals blanked, so that braces and names can
//! be counted in it without mistaking a string for code.

/// A file of the workspace.
#[derive(Debug)]
pub struct Source {
    /// Relative to the workspace's root, with `/`.
    pub path: String,
    /// As long as the file; comments and literals are blanks.
    pub code: String,
    /// Every line of every comment.
    pub comments: Vec<Piece>,
    /// Every string literal, escapes resolved.
    pub literals: Vec<Piece>,
}

/// A comment's line or a literal.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub at: usize,
    /// Counted from 1.
    pub line: usize,
    /// Without the marks around it.
    pub text: String,
    /// A comment of `///` or `//!`.
    pub doc: bool,
}

impl Source {
    /// Takes a file apart.
    pub fn new(path: &str, text: &str) -> Source {
        let mut lexer = Lexer {
            text,
            bytes: text.as_bytes(),
            at: 0,
            line: 1,
            code: text.as_bytes().to_vec(),
            comments: Vec::new(),
            literals: Vec::new(),
        };
        lexer.run();
        Source {
            path: path.to_owned(),
            code: String::from_utf8(lexer.code).expect("whole characters were blanked"),
            comments: lexer.comments,
            literals: lexer.literals,
        }
    }

    /// The line of a place in the file, counted from 1.
    pub fn line_of(&self, at: usize) -> usize {
        1 + self.code.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
    }

    /// The words of the code, with their places.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        words(&self.code)
    }

    /// From where on the file is compiled for tests alone: its module for them, or its
    /// beginning if it belongs to tests, benchmarks or fuzz targets as a whole.
    pub fn tests(&self) -> usize {
        let test_files = ["tests", "fuzz", "tests.rs"];
        if self.path.split('/').any(|part| test_files.contains(&part)) {
            return 0;
        }
        let mut modules = self.code.match_indices("#[cfg(test)]\nmod ");
        // `mod tests;` is a file of its own.
        let inline = modules.find(|(at, _)| {
            self.code[*at..]
                .find(['{', ';'])
                .is_some_and(|end| self.code[at + end..].starts_with('{'))
        });
        inline.map_or(self.code.len(), |(at, _)| at)
    }
}

/// Names and numbers of a text, with their places.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let begin = rest + text[rest..].find(is_word)?;
        let length = text[begin..].find(|c| !is_word(c)).unwrap_or(text.len() - begin);
        rest = begin + length;
        Some((begin, &text[begin..rest]))
    })
}

/// What names consist of.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: usize,
    code: Vec<u8>,
    comments: Vec<Piece>,
    literals: Vec<Piece>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while self.at < self.bytes.len() {
            match (self.bytes[self.at], self.peek(1)) {
                (b'/', b'/') => self.line_comment(),
                (b'/', b'*') => self.block_comment(),
                (b'"', _) => self.string(),
                (b'r', b'"' | b'#') if !self.in_word() => self.raw_string(),
                (b'\'', _) => self.character(),
                _ => self.step(),
            }
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Whether the letter here continues a name; `b` and `c` before a literal do not count.
    fn in_word(&self) -> bool {
        let before = self.bytes[..self.at].iter().rev();
        let name = before.take_while(|byte| is_word(char::from(**byte))).count();
        !(name == 0 || name == 1 && matches!(self.bytes[self.at - 1], b'b' | b'c'))
    }

    fn step(&mut self) {
        if self.bytes[self.at] == b'\n' {
            self.line += 1;
        }
        self.at += 1;
    }

    fn blank(&mut self, from: usize) {
        for byte in &mut self.code[from..self.at] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn line_comment(&mut self) {
        let from = self.at;
        let end = self.text[from..].find('\n').map_or(self.text.len(), |length| from + length);
        let text = &self.text[from + 2..end];
        let doc = text.starts_with('!') || text.starts_with('/') && !text.starts_with("//");
        let text = text.trim_start_matches(['/', '!']).trim().to_owned();
        self.comments.push(Piece { at: from, line: self.line, text, doc });
        self.at = end;
        self.blank(from);
    }

    fn block_comment(&mut self) {
        let (from, line, mut depth) = (self.at, self.line, 0);
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                }
                _ if self.at < self.bytes.len() => self.step(),
                _ => break,
            }
            if depth == 0 {
                break;
            }
        }
        let end = self.at.min(self.text.len());
        for (number, text) in self.text[from..end].lines().enumerate() {
            let text = text.trim_matches(['/', '*', ' ']).to_owned();
            self.comments.push(Piece { at: from, line: line + number, text, doc: false });
        }
        self.blank(from);
    }

    fn string(&mut self) {
        let (from, line) = (self.at, self.line);
        let mut text = Vec::new();
        self.at += 1;
        while self.at < self.bytes.len() && self.bytes[self.at] != b'"' {
            if self.bytes[self.at] != b'\\' {
                text.push(self.bytes[self.at]);
                self.step();
                continue;
            }
            self.step();
            match self.peek(0) {
                // The line goes on behind the blanks that the next one begins with.
                b'\n' => {
                    while self.peek(0).is_ascii_whitespace() {
                        self.step();
                    }
                    continue;
                }
                b'n' => text.push(b'\n'),
                other => text.push(other),
            }
            if self.at < self.bytes.len() {
                self.step();
            }
        }
        self.at = (self.at + 1).min(self.bytes.len());
        self.blank(from);
        let text = String::from_utf8_lossy(&text).into_owned();
        self.literals.push(Piece { at: from, line, text, doc: false });
    }

    fn raw_string(&mut self) {
        let (from, line) = (self.at, self.line);
        let hashes = self.bytes[from + 1..].iter().take_while(|byte| **byte == b'#').count();
        if self.peek(1 + hashes) != b'"' {
            // A raw name, such as `r#type`.
            return self.step();
        }
        let begin = from + hashes + 2;
        let close = format!("\"{}", "#".repeat(hashes));
        let length = self.text[begin..].find(&close).unwrap_or(self.text.len() - begin);
        let text = self.text[begin..begin + length].to_owned();
        while self.at < (begin + length + close.len()).min(self.bytes.len()) {
            self.step();
        }
        self.blank(from);
        self.literals.push(Piece { at: from, line, text, doc: false });
    }

    /// A character, or the `'` of a lifetime.
    fn character(&mut self) {
        let from = self.at;
        let mut inside = self.text[from + 1..].char_indices();
        let first = inside.next().map_or('\'', |(_, c)| c);
        let end = if first == '\\' {
            self.text[from + 3..].find('\'').map(|length| from + 3 + length + 1)
        } else {
            inside.next().filter(|(_, c)| *c == '\'').map(|(length, _)| from + 1 + length + 1)
        };
        let Some(end) = end else { return self.step() };
        self.at = end;
        self.blank(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_are_no_code() {
        let text =
            "//! Head {\nfn a<'a>() { let x = \"}\\\"{\"; '{'; b'\\''; r#\"\"{\"#; } // tail }\n";
        let source = Source::new("a.rs", text);
        assert_eq!(source.code.len(), text.len());
        let braces = source.code.matches(['{', '}']).count();
        assert_eq!(braces, 2, "{}", source.code);
        assert!(source.code.contains("fn a<'a>()"));
        let texts: Vec<_> = source.literals.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(texts, ["}\"{", "\"{"]);
        assert_eq!(source.comments[0].text, "Head {");
        assert!(source.comments[0].doc && !source.comments[1].doc);
        assert_eq!(source.comments[1].line, 2);
    }

    #[test]
    fn a_literal_over_two_lines_is_read_as_the_compiler_does() {
        let source = Source::new("a.rs", "const A: &str = \"one \\\n    two\";\nfn b() {}\n");
        assert_eq!(source.literals[0].text, "one two");
        assert_eq!(source.line_of(source.code.find("fn b").unwrap()), 3);
    }

    #[test]
    fn words_are_whole() {
        let found: Vec<_> = words("a_b + c1::D").map(|(_, word)| word).collect();
        assert_eq!(found, ["a_b", "c1", "D"]);
    }
}
