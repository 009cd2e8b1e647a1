//! Functions that do not fit on a screen, and files that are more than one idea.

use super::Finding;
use super::source::{Source, words};

/// Lines of a function, its signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file, its tests included.
const FILE_LINES_MAX: usize = 900;

/// Long functions and files.
pub fn find(source: &Source, findings: &mut Vec<Finding>) {
    for (line, name, lines) in functions(source) {
        if lines > FUNCTION_LINES_MAX {
            findings.push(Finding {
                rule: "long-functions",
                path: source.path.clone(),
                line,
                text: format!("fn {name} has {lines} lines, more than {FUNCTION_LINES_MAX}"),
            });
        }
    }
    let lines = source.code.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(Finding {
            rule: "long-files",
            path: source.path.clone(),
            line: 1,
            text: format!("{lines} lines, more than {FILE_LINES_MAX}"),
        });
    }
}

/// Every function with a body: its line, name and number of lines.
fn functions(source: &Source) -> Vec<(usize, &str, usize)> {
    let mut found = Vec::new();
    let mut names = words(&source.code).peekable();
    while let Some((at, word)) = names.next() {
        let Some((_, name)) = names.peek().filter(|_| word == "fn") else { continue };
        let Some((open, close)) = body(&source.code, at) else { continue };
        let lines = 1 + source.code[at..close].matches('\n').count();
        debug_assert!(open < close);
        found.push((source.line_of(at), *name, lines));
    }
    found
}

/// The braces around the body of what begins at `from`; none if it ends by `;`
/// first, as a trait's method or a pointer's type does.
fn body(code: &str, from: usize) -> Option<(usize, usize)> {
    let (mut inside, mut braces, mut open) = (0i32, 0, None);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => inside += 1,
            b')' | b']' => inside -= 1,
            b'{' if inside == 0 || open.is_some() => {
                open.get_or_insert(at);
                braces += 1;
            }
            b'}' if open.is_some() => {
                braces -= 1;
                if braces == 0 {
                    return Some((open?, at));
                }
            }
            // The type of a pointer: `fn(u32) -> u64` in the midst of something else.
            b';' | b',' | b'=' | b'}'
                if inside <= 0 && open.is_none() && !in_generics(code, from, at) =>
            {
                return None;
            }
            _ if inside < 0 && open.is_none() => return None,
            _ => {}
        }
    }
    None
}

/// Whether a comma or `=` at `at` stands between `<` and `>` or in a `where`.
fn in_generics(code: &str, from: usize, at: usize) -> bool {
    let before = code[from..at].replace("->", "").replace("=>", "");
    before.matches('<').count() > before.matches('>').count()
        || words(&before).any(|(_, word)| word == "where")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(text: &str) -> Vec<(usize, String, usize)> {
        let source = Source::new("a.rs", text);
        functions(&source).into_iter().map(|(line, name, n)| (line, name.to_owned(), n)).collect()
    }

    #[test]
    fn a_function_is_counted_to_its_closing_brace() {
        let text = "struct S { f: fn(u8) -> u8, g: [u8; 3] }\n\
                    fn a<K: Eq<u8, u8>, V>(x: [u8; 2]) -> Map<K, V>\nwhere\n    K: A<B = C>,\n{\n    \
                    if x { \"}\" }\n}\ntrait T { fn none(&self); fn b() {} }\n";
        assert_eq!(lengths(text), [(2, "a".into(), 6), (8, "b".into(), 1)]);
    }

    #[test]
    fn a_long_function_is_found() {
        let body = "    step();\n".repeat(FUNCTION_LINES_MAX);
        let mut findings = Vec::new();
        find(&Source::new("a.rs", &format!("fn long() {{\n{body}}}\n")), &mut findings);
        assert_eq!(findings[0].text, "fn long has 72 lines, more than 70");
    }
}
