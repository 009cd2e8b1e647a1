//! Case files: streams written by hand, one file per pair of servers.
//!
//! ```text
//! # A comment.
//! flags -S                      both servers get these flags (before the first case)
//! auth user:password            -Y with a file of this line
//! == name of a case             a new connection
//! binary                        its answers are binary packets
//! chunks 7                      cut into packets by this seed
//! > set a 0 0 3                 sends the line and \r\n; escapes: \r \n \\ \x00 \*300(a)
//! - abc                         sends without \r\n
//! > cas a 0 0 1 \{cas 0}        the last CAS unique answered; \{cas 1 -1}: the one before, less one
//! packet op=0x01 key=a extras=0000000000000000 value=abc opaque=7 cas=\{cas:0}
//! repeat 100                    the next line so many times
//! sync | flush | sleep 1100 | reconnect
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::stream::{Piece, Protocol, Step, Stream};

/// A file: the servers' flags and the streams.
#[derive(Debug, Default)]
pub struct CaseFile {
    /// The file's stem.
    pub name: String,
    /// Flags for both servers.
    pub flags: Vec<String>,
    /// `user:password` of an auth file.
    pub auth: Option<String>,
    /// `user:password` of SASL.
    pub sasl: Option<String>,
    /// The cases.
    pub streams: Vec<Stream>,
}

/// Reads every `*.case` of a folder, in the order of their names.
pub fn load_all(folder: &Path) -> Result<Vec<CaseFile>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "case"))
        .collect();
    paths.sort();
    paths.iter().map(|path| load(path)).collect()
}

/// Reads one file.
pub fn load(path: &Path) -> Result<CaseFile> {
    let text = std::fs::read_to_string(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut file = CaseFile { name, ..CaseFile::default() };
    let mut repeat = 1;
    for (index, line) in text.lines().enumerate() {
        read_line(&mut file, line, &mut repeat)
            .with_context(|| format!("{}:{}", path.display(), index + 1))?;
    }
    Ok(file)
}

fn read_line(file: &mut CaseFile, line: &str, repeat: &mut usize) -> Result<()> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "flags" => {
            file.flags.extend(rest.split_whitespace().map(str::to_owned));
            return Ok(());
        }
        "auth" => {
            file.auth = Some(rest.to_owned());
            return Ok(());
        }
        "sasl" => {
            file.sasl = Some(rest.to_owned());
            return Ok(());
        }
        "==" => {
            let name = format!("{}: {rest}", file.name);
            let stream = Stream {
                name,
                protocol: Protocol::Text,
                broken: true,
                steps: Vec::new(),
                chunk_seed: None,
            };
            file.streams.push(stream);
            return Ok(());
        }
        _ => {}
    }
    let stream = file.streams.last_mut().context("a case starts with `== name`")?;
    let step = match verb {
        "binary" => {
            stream.protocol = Protocol::Binary;
            return Ok(());
        }
        "chunks" => {
            stream.chunk_seed = Some(rest.parse()?);
            return Ok(());
        }
        "repeat" => {
            *repeat = rest.parse()?;
            return Ok(());
        }
        ">" => {
            let mut pieces = unescape(rest)?;
            pieces.push(Piece::Raw(b"\r\n".to_vec()));
            Step::Send(pieces)
        }
        "-" => Step::Send(unescape(rest)?),
        "packet" => Step::Send(packet(rest)?),
        "sync" => Step::Sync,
        "flush" => Step::Flush,
        "sleep" => Step::Sleep(rest.parse()?),
        "reconnect" => Step::Reconnect,
        other => bail!("`{other}` is no verb of case files"),
    };
    let times = std::mem::replace(repeat, 1);
    stream.steps.extend(std::iter::repeat_n(step, times));
    Ok(())
}

/// Undoes [`super::stream::escape`].
pub fn unescape(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut raw = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            raw.push(*first);
            continue;
        }
        let (kind, tail) = rest.split_first().context("a backslash ends the line")?;
        rest = tail;
        match kind {
            b'r' => raw.push(b'\r'),
            b'n' => raw.push(b'\n'),
            b't' => raw.push(b'\t'),
            b'\\' => raw.push(b'\\'),
            b'x' => {
                let digits = rest.get(..2).context("\\x wants two digits")?;
                raw.push(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
                rest = &rest[2..];
            }
            b'*' => {
                let open = rest.iter().position(|byte| *byte == b'(').context("\\*count(x)")?;
                let close = rest.iter().position(|byte| *byte == b')').context("\\*count(x)")?;
                let count: usize = std::str::from_utf8(&rest[..open])?.parse()?;
                let inner = unescape(std::str::from_utf8(&rest[open + 1..close])?)?;
                let [Piece::Raw(unit)] = inner.as_slice() else {
                    bail!("\\*count(x) of bytes only")
                };
                raw.extend(unit.repeat(count));
                rest = &rest[close + 1..];
            }
            b'{' => {
                let close = rest.iter().position(|byte| *byte == b'}').context("\\{cas n}")?;
                let words = std::str::from_utf8(&rest[..close])?;
                // With a colon where a space would end the word.
                let mut words = words.split([' ', ':']).skip(1);
                let back = words.next().context("\\{cas n}")?.parse()?;
                let delta = words.next().map_or(Ok(0), str::parse)?;
                pieces.push(Piece::Raw(std::mem::take(&mut raw)));
                pieces.push(Piece::Cas { back, delta });
                rest = &rest[close + 1..];
            }
            other => bail!("\\{} is no escape", *other as char),
        }
    }
    if !raw.is_empty() {
        pieces.push(Piece::Raw(raw));
    }
    Ok(pieces)
}

/// A request packet; lengths follow from the parts unless given.
fn packet(text: &str) -> Result<Vec<Piece>> {
    let mut magic = 0x80;
    let (mut opcode, mut opaque, mut vbucket, mut data_type) = (0u8, 0u32, 0u16, 0u8);
    let (mut key, mut extras, mut value) = (Vec::new(), Vec::new(), Vec::new());
    let (mut key_bytes, mut extras_bytes, mut body_bytes) = (None, None, None);
    let mut cas = Piece::Raw(vec![0; 8]);
    for word in text.split_whitespace() {
        let (name, rest) = word.split_once('=').with_context(|| format!("`{word}` has no ="))?;
        match name {
            "magic" => magic = number(rest)? as u8,
            "op" => opcode = number(rest)? as u8,
            "opaque" => opaque = number(rest)? as u32,
            "vbucket" => vbucket = number(rest)? as u16,
            "type" => data_type = number(rest)? as u8,
            "key" => key = plain(rest)?,
            "value" => value = plain(rest)?,
            "extras" => extras = hex(rest)?,
            "keylen" => key_bytes = Some(number(rest)? as u16),
            "extlen" => extras_bytes = Some(number(rest)? as u8),
            "bodylen" => body_bytes = Some(number(rest)? as u32),
            "cas" => {
                cas = match unescape(rest)?.as_slice() {
                    [Piece::Raw(_)] => Piece::Raw(number(rest)?.to_be_bytes().to_vec()),
                    [_, reference] => reference.clone(),
                    _ => bail!("cas is a number or \\{{cas:n}}"),
                }
            }
            other => bail!("`{other}` is no part of a packet"),
        }
    }
    let mut head = vec![magic, opcode];
    head.extend(key_bytes.unwrap_or(key.len() as u16).to_be_bytes());
    head.push(extras_bytes.unwrap_or(extras.len() as u8));
    head.push(data_type);
    head.extend(vbucket.to_be_bytes());
    let body_total = (key.len() + extras.len() + value.len()) as u32;
    head.extend(body_bytes.unwrap_or(body_total).to_be_bytes());
    head.extend(opaque.to_be_bytes());
    Ok(vec![Piece::Raw(head), cas, Piece::Raw([extras, key, value].concat())])
}

fn plain(text: &str) -> Result<Vec<u8>> {
    Ok(match unescape(text)?.as_slice() {
        [] => Vec::new(),
        [Piece::Raw(bytes)] => bytes.clone(),
        _ => bail!("only bytes here"),
    })
}

fn number(text: &str) -> Result<u64> {
    Ok(match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)?,
        None => text.parse()?,
    })
}

fn hex(text: &str) -> Result<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| {
            let digits = text.get(at..at + 2).context("an odd number of hex digits")?;
            Ok(u8::from_str_radix(digits, 16)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::stream::escape;
    use super::*;

    #[test]
    fn escaped_bytes_come_back() {
        let bytes: Vec<u8> = (0..=255).chain(std::iter::repeat_n(b'x', 300)).collect();
        assert_eq!(unescape(&escape(&bytes)).unwrap(), [Piece::Raw(bytes)]);
    }

    #[test]
    fn a_packet_counts_its_own_lengths() {
        let pieces = packet("op=0x01 key=ab extras=0000000000000000 value=xyz").unwrap();
        let Piece::Raw(head) = &pieces[0] else { panic!("a header first") };
        assert_eq!(head[..12], [0x80, 1, 0, 2, 8, 0, 0, 0, 0, 0, 0, 13]);
    }

    #[test]
    fn a_packet_may_refer_to_a_cas() {
        let pieces = packet("op=0x05 key=a cas=\\{cas:1}").unwrap();
        assert_eq!(pieces[1], Piece::Cas { back: 1, delta: 0 });
    }

    #[test]
    fn every_committed_case_reads() {
        let files = load_all(&crate::paths::xtask().join("differential/cases")).unwrap();
        assert!(files.iter().all(|file| !file.streams.is_empty()));
    }
}
