//! Whether two transcripts say the same, given the allowed differences.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::answers::{self, Field};
use super::drive::Transcript;
use super::stream::{Protocol, escape};

/// Explicit CAS uniques (meta `E`, binary headers) of our streams are at least
/// this; no server reaches it by counting, so they must be equal to the bit.
pub const EXPLICIT_CAS_MIN: u64 = 1 << 60;

/// How a field may differ.
#[derive(Clone, Debug, PartialEq)]
enum How {
    /// Each value of one server stands for one of the other, throughout a stream.
    Bijection,
    /// Numbers at most this far apart.
    Within(f64),
    /// Anything.
    Any,
}

/// The list of allowed differences, from `allowed.toml`.
#[derive(Debug, Default)]
pub struct Allowed {
    fields: Vec<(String, How)>,
    lines: Vec<(String, String)>,
    stats_missing: Vec<String>,
}

impl Allowed {
    /// Reads the file; every entry must say why.
    pub fn load(path: &Path) -> Result<Allowed> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let document: toml_edit::DocumentMut = text.parse().context("allowed.toml")?;
        let mut allowed = Allowed::default();
        for (kind, tables) in document.iter() {
            let tables = tables.as_array_of_tables().with_context(|| format!("[[{kind}]]"))?;
            for table in tables {
                let text = |name: &str| -> Result<String> {
                    let value = table.get(name).and_then(|item| item.as_str());
                    Ok(value.with_context(|| format!("[[{kind}]] without `{name}`"))?.to_owned())
                };
                text("reason")?;
                match kind {
                    "field" => {
                        let how = match text("how")?.as_str() {
                            "bijection" => How::Bijection,
                            "any" => How::Any,
                            other => match other.strip_prefix("within ") {
                                Some(number) => How::Within(number.parse()?),
                                None => bail!("`{other}` is no way to differ"),
                            },
                        };
                        allowed.fields.push((text("name")?, how));
                    }
                    "line" => allowed.lines.push((text("memcached")?, text("seawall")?)),
                    "stat_missing" => allowed.stats_missing.push(text("name")?),
                    other => bail!("allowed.toml has no [[{other}]]"),
                }
            }
        }
        Ok(allowed)
    }

    fn how(&self, name: &str) -> Option<&How> {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        self.fields.iter().find(|(pattern, _)| matches(pattern)).map(|(_, how)| how)
    }

    fn line(&self, memcached: &[u8], ours: &[u8]) -> bool {
        let same = |pattern: &str, line: &[u8]| pattern.as_bytes() == line.trim_ascii_end();
        self.lines.iter().any(|(theirs, other)| same(theirs, memcached) && same(other, ours))
    }
}

/// The first difference that isn't allowed, in words.
pub fn difference(
    allowed: &Allowed,
    protocol: Protocol,
    memcached: &Transcript,
    ours: &Transcript,
) -> Option<String> {
    let mut pairs = Bijection::default();
    for (session, (theirs, mine)) in memcached.sessions.iter().zip(&ours.sessions).enumerate() {
        let theirs_fields = answers::fields(protocol, &theirs.bytes);
        let mine_fields = answers::fields(protocol, &mine.bytes);
        let found = fields_difference(allowed, &theirs_fields, &mine_fields, &mut pairs);
        if let Some(words) = found {
            return Some(format!("connection {session}: {words}"));
        }
        if theirs.ended != mine.ended {
            return Some(format!(
                "connection {session}: memcached {}, ours {}",
                theirs.ended.words(),
                mine.ended.words()
            ));
        }
    }
    None
}

fn fields_difference(
    allowed: &Allowed,
    theirs: &[Field<'_>],
    mine: &[Field<'_>],
    pairs: &mut Bijection,
) -> Option<String> {
    let (mut i, mut j) = (0, 0);
    while i < theirs.len() || j < mine.len() {
        let (stats_theirs, stats_mine) = (stats_block(&theirs[i..]), stats_block(&mine[j..]));
        if stats_theirs > 0 && stats_mine > 0 {
            let (block, other) = (&theirs[i..i + stats_theirs], &mine[j..j + stats_mine]);
            if let Some(words) = stats_difference(allowed, block, other) {
                return Some(words);
            }
            i += stats_theirs;
            j += stats_mine;
            continue;
        }
        match (theirs.get(i), mine.get(j)) {
            (Some(a), Some(b)) if a.name == b.name && same(allowed, a, b, pairs) => {}
            (a, b) => {
                let show = |field: Option<&Field<'_>>| match field {
                    Some(field) => format!("{} `{}`", field.name, escape(&field.bytes)),
                    None => "nothing more".to_owned(),
                };
                return Some(format!("field {i}: memcached {}, ours {}", show(a), show(b)));
            }
        }
        i += 1;
        j += 1;
    }
    None
}

fn same(allowed: &Allowed, a: &Field<'_>, b: &Field<'_>, pairs: &mut Bijection) -> bool {
    if a.bytes == b.bytes && !a.name.ends_with(".cas") {
        return true;
    }
    if a.name == "line" {
        return allowed.line(&a.bytes, &b.bytes);
    }
    match allowed.how(&a.name) {
        None => a.bytes == b.bytes,
        Some(How::Any) => true,
        Some(How::Within(most)) => match (number(&a.bytes), number(&b.bytes)) {
            (Some(x), Some(y)) => (x - y).abs() <= *most,
            _ => false,
        },
        Some(How::Bijection) => match (integer(&a.bytes), integer(&b.bytes)) {
            (Some(x), Some(y)) => pairs.join(x, y),
            _ => false,
        },
    }
}

fn stats_block(fields: &[Field<'_>]) -> usize {
    fields.iter().take_while(|field| field.name.starts_with("stat.")).count()
}

/// A block of statistics is compared by name: ours may have more of them.
fn stats_difference(allowed: &Allowed, theirs: &[Field<'_>], mine: &[Field<'_>]) -> Option<String> {
    let kind = match theirs {
        block if block.iter().any(|field| field.name == "stat.pid") => "stats.general",
        block if block.iter().any(|field| field.name == "stat.maxbytes") => "stats.settings",
        _ => "stats.other",
    };
    let mine: BTreeMap<&str, &[u8]> =
        mine.iter().map(|field| (&field.name[5..], &*field.bytes)).collect();
    for field in theirs {
        let name = format!("{kind}.{}", &field.name[5..]);
        match mine.get(&field.name[5..]) {
            None if allowed.stats_missing.contains(&name) => {}
            None => return Some(format!("{name} is missing")),
            Some(ours) if *ours == &*field.bytes || allowed.how(&name).is_some() => {}
            Some(ours) => {
                return Some(format!(
                    "{name}: memcached `{}`, ours `{}`",
                    escape(&field.bytes),
                    escape(ours)
                ));
            }
        }
    }
    None
}

fn number(bytes: &[u8]) -> Option<f64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn integer(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Which CAS unique of one server is which of the other.
#[derive(Default)]
struct Bijection {
    forward: HashMap<u64, u64>,
    backward: HashMap<u64, u64>,
}

impl Bijection {
    fn join(&mut self, theirs: u64, mine: u64) -> bool {
        if theirs == 0 || mine == 0 || theirs >= EXPLICIT_CAS_MIN {
            return theirs == mine;
        }
        *self.forward.entry(theirs).or_insert(mine) == mine
            && *self.backward.entry(mine).or_insert(theirs) == theirs
    }
}

#[cfg(test)]
mod tests {
    use super::super::drive::{Ended, Session};
    use super::*;

    fn transcript(answers: &[u8]) -> Transcript {
        let session = Session { bytes: answers.to_vec(), ended: Ended::Closed };
        Transcript { sessions: vec![session] }
    }

    fn differ(theirs: &[u8], mine: &[u8]) -> bool {
        let path = crate::paths::xtask().join("differential/allowed.toml");
        let allowed = Allowed::load(&path).unwrap();
        difference(&allowed, Protocol::Text, &transcript(theirs), &transcript(mine)).is_some()
    }

    #[test]
    fn cas_uniques_stand_for_each_other() {
        assert!(!differ(b"HD c1\r\nHD c2\r\nHD c1\r\n", b"HD c70\r\nHD c90\r\nHD c70\r\n"));
        assert!(differ(b"HD c1\r\nHD c2\r\nHD c1\r\n", b"HD c70\r\nHD c90\r\nHD c90\r\n"));
        assert!(differ(b"HD c1\r\nHD c1\r\n", b"HD c70\r\nHD c90\r\n"));
    }

    #[test]
    fn a_byte_more_is_a_difference() {
        assert!(differ(b"END\r\n", b"END\r\n\r\n"));
        assert!(differ(b"VALUE a 0 1\r\nx\r\nEND\r\n", b"VALUE a 0 1\r\ny\r\nEND\r\n"));
    }
}
