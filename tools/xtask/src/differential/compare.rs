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
    /// Numbers of seconds no farther apart than the clock went on meanwhile.
    Clock,
    /// memcached's as it is, ours in base64.
    Base64,
    /// memcached's wrapped below zero where ours is 0.
    PastIsZero,
    /// Versions of one word each, of digits and dots, behind equal words.
    Release,
    /// Any answer at all.
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
                            "base64" => How::Base64,
                            "clock" => How::Clock,
                            "past is 0" => How::PastIsZero,
                            "release" => How::Release,
                            other => bail!("`{other}` is no way to differ"),
                        };
                        allowed.fields.push((text("name")?, how));
                    }
                    "line" => allowed.lines.push((text("memcached")?, text("seawall")?)),
                    // Never generated, so there is nothing to compare.
                    "avoided" => drop(text("what")?),
                    "stat_missing" => allowed.stats_missing.push(text("name")?),
                    other => bail!("allowed.toml has no [[{other}]]"),
                }
            }
        }
        Ok(allowed)
    }

    fn ways(&self, name: &str) -> impl Iterator<Item = &How> {
        let matches = move |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        self.fields.iter().filter(move |(pattern, _)| matches(pattern)).map(|(_, how)| how)
    }

    /// Whether a statistic may differ so. `stats.general.*` has every name, so
    /// the strictest way counts.
    fn stat(&self, name: &str, theirs: &[u8], ours: &[u8]) -> bool {
        let mut ways = self.ways(name).peekable();
        match ways.peek() {
            None => false,
            Some(_) => {
                ways.all(|how| *how != How::Release || is_release(theirs) && is_release(ours))
            }
        }
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
    let mut context = Meanwhile {
        pairs: Bijection::default(),
        // Whole seconds of two clocks that need not tick together.
        seconds: memcached.took.max(ours.took).as_secs_f64().ceil() + 1.0,
    };
    for (session, (theirs, mine)) in memcached.sessions.iter().zip(&ours.sessions).enumerate() {
        let mut theirs_fields = answers::fields(protocol, &theirs.bytes);
        let mut mine_fields = answers::fields(protocol, &mine.bytes);
        if theirs.deaf && mine.deaf {
            cut_to_what_memcached_sent(&mut theirs_fields, &mut mine_fields);
        }
        let found = fields_difference(allowed, &theirs_fields, &mine_fields, &mut context);
        if let Some(words) = found {
            return Some(format!("connection {session}: {words}"));
        }
        if theirs.deaf != mine.deaf {
            let words = |deaf| if deaf { "no longer understood" } else { "still understood" };
            return Some(format!(
                "connection {session}: memcached {} commands, ours {}",
                words(theirs.deaf),
                words(mine.deaf)
            ));
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

/// memcached forgets answers that it has not sent yet when it closes, and it
/// sends none while it swallows a value. How many that are depends on packet
/// borders, so of a connection that ended like this only what it did send is
/// compared.
fn cut_to_what_memcached_sent(theirs: &mut Vec<Field<'_>>, mine: &mut Vec<Field<'_>>) {
    if theirs.last().is_some_and(|field| field.name == "rest") {
        theirs.pop();
    }
    mine.truncate(theirs.len());
    // It may have closed in the middle of a long value.
    if let (Some(cut), Some(whole)) = (theirs.last(), mine.last())
        && cut.name == whole.name
        && whole.bytes.starts_with(&cut.bytes)
        && whole.bytes != cut.bytes
    {
        theirs.pop();
        mine.pop();
    }
}

fn fields_difference(
    allowed: &Allowed,
    theirs: &[Field<'_>],
    mine: &[Field<'_>],
    context: &mut Meanwhile,
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
            (Some(a), Some(b)) if a.name == b.name && same(allowed, a, b, context) => {}
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

fn same(allowed: &Allowed, a: &Field<'_>, b: &Field<'_>, context: &mut Meanwhile) -> bool {
    if a.bytes == b.bytes && !a.name.ends_with(".cas") {
        return true;
    }
    if a.name == "line" {
        return allowed.line(&a.bytes, &b.bytes);
    }
    let ways: Vec<&How> = allowed.ways(&a.name).collect();
    if ways.is_empty() {
        return a.bytes == b.bytes;
    }
    ways.into_iter().any(|how| {
        let seconds = (number(&a.bytes), number(&b.bytes));
        match (how, seconds, (integer(&a.bytes), integer(&b.bytes))) {
            (How::Any, ..) => true,
            (How::Release, ..) => is_release(&a.bytes) && is_release(&b.bytes),
            (How::Base64, ..) => {
                let encoded = super::meta::base64(&a.bytes).into_bytes();
                *b.bytes == *encoded || *b.bytes == *[&encoded[..], b" b"].concat()
            }
            // -1 stands for no time at all.
            (How::Clock, (Some(x), Some(y)), _) => {
                x != -1.0 && y != -1.0 && (x - y).abs() <= context.seconds
            }
            (How::PastIsZero, _, (Some(x), Some(0))) => (1 << 31..1 << 32).contains(&x),
            (How::Bijection, _, (Some(x), Some(y))) => context.pairs.join(x, y),
            _ => false,
        }
    })
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
            Some(ours) if *ours == &*field.bytes => {}
            Some(ours) if allowed.stat(&name, &field.bytes, ours) => {}
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

/// `VERSION 1.6.45`, or the number alone.
fn is_release(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let word = line.strip_prefix(b"VERSION ").unwrap_or(line);
    let mut parts = word.split(|byte| *byte == b'.');
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.clone().count() == 3 && parts.all(digits)
}

fn number(bytes: &[u8]) -> Option<f64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn integer(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// What is known of a stream as a whole.
struct Meanwhile {
    pairs: Bijection,
    /// How far apart two readings of the clock may be.
    seconds: f64,
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
    use std::time::Duration;

    use super::super::drive::{Ended, Session};
    use super::*;

    fn transcript(answers: &[u8]) -> Transcript {
        let session = Session { bytes: answers.to_vec(), ended: Ended::Closed, deaf: false };
        Transcript { sessions: vec![session], took: Duration::from_millis(10) }
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
    fn a_version_is_one_word() {
        assert!(!differ(b"VERSION 1.6.18\r\n", b"VERSION 1.6.45\r\n"));
        assert!(differ(b"VERSION 1.6.18\r\n", b"VERSION 1.6.18 seawall-0.1.0\r\n"));
        assert!(differ(b"VERSION 1.6.18\r\n", b"VERSION 1.6\r\n"));
    }

    #[test]
    fn what_memcached_forgot_when_it_closed_is_not_missed() {
        let path = crate::paths::xtask().join("differential/allowed.toml");
        let allowed = Allowed::load(&path).unwrap();
        let differ = |theirs: &[u8], mine: &[u8]| {
            let (mut theirs, mut mine) = (transcript(theirs), transcript(mine));
            theirs.sessions[0].deaf = true;
            mine.sessions[0].deaf = true;
            difference(&allowed, Protocol::Text, &theirs, &mine).is_some()
        };
        assert!(!differ(b"STORED\r\n", b"STORED\r\nERROR\r\n"));
        assert!(!differ(b"VALUE a 0 5\r\nab", b"VALUE a 0 5\r\nabcde\r\nEND\r\n"));
        assert!(differ(b"VALUE a 0 5\r\nab", b"VALUE a 0 5\r\nacbde\r\nEND\r\n"));
        assert!(differ(b"STORED\r\n", b"ERROR\r\nSTORED\r\n"));
        assert!(differ(b"STORED\r\nERROR\r\n", b"STORED\r\n"));
    }

    #[test]
    fn times_may_differ_by_what_passed_and_never_is_no_time() {
        assert!(!differ(b"HD t100\r\n", b"HD t99\r\n"));
        assert!(differ(b"HD t100\r\n", b"HD t90\r\n"));
        assert!(differ(b"HD t-1\r\n", b"HD t0\r\n"));
        assert!(!differ(b"HD t4294967230\r\n", b"HD t0\r\n"));
        assert!(differ(b"HD t0\r\n", b"HD t4294967230\r\n"));
    }

    #[test]
    fn ours_may_remember_that_a_key_was_base64() {
        assert!(!differ(b"HD kabc t-1\r\n", b"HD kYWJj b t-1\r\n"));
        assert!(differ(b"HD kYWJj b t-1\r\n", b"HD kabc t-1\r\n"));
        assert!(differ(b"HD kabd t-1\r\n", b"HD kYWJj b t-1\r\n"));
    }

    #[test]
    fn a_byte_more_is_a_difference() {
        assert!(differ(b"END\r\n", b"END\r\n\r\n"));
        assert!(differ(b"VALUE a 0 1\r\nx\r\nEND\r\n", b"VALUE a 0 1\r\ny\r\nEND\r\n"));
    }
}
