//! A stream: what one client sends, in commands that can be left out one by
//! one when a mismatch is made small.
//!
//! The bytes are the same for both servers except CAS uniques, which each
//! server invents for itself: a command may hold a reference to one that the
//! server answered earlier on this connection.

use std::fmt::Write;

/// How answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Classic and meta commands.
    Text,
    /// Binary packets.
    Binary,
}

/// Bytes, or a CAS unique that the server told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// The CAS unique answered `back` answers ago (0 = the last one), plus `delta`.
    Cas { back: usize, delta: i64 },
}

/// One step of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a command.
    Send(Vec<Piece>),
    /// Wait until everything sent so far is answered.
    Sync,
    /// Let time pass.
    Sleep(u64),
    /// Send nothing for a moment so that the server sees what it has.
    Flush,
    /// Half-close, read to the end and open a new connection.
    Reconnect,
}

/// What one client does.
#[derive(Clone, Debug)]
pub struct Stream {
    /// For messages: seed and kind, or the case's name.
    pub name: String,
    /// How answers are read.
    pub protocol: Protocol,
    /// It may break its framing, so that a sync is taken for data.
    pub broken: bool,
    /// What happens.
    pub steps: Vec<Step>,
    /// Decides how the bytes are cut into packets; `None`: as few as possible.
    pub chunk_seed: Option<u64>,
}

impl Step {
    /// A command of plain bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Step {
        Step::Send(vec![Piece::Raw(bytes.into())])
    }
}

impl Stream {
    /// The same stream with only some of its steps.
    pub fn with_steps(&self, steps: Vec<Step>) -> Stream {
        Stream {
            name: self.name.clone(),
            protocol: self.protocol,
            broken: self.broken,
            steps,
            chunk_seed: self.chunk_seed,
        }
    }

    /// As a case file has it, so that it can be pasted into one.
    pub fn as_case(&self) -> String {
        let mut text = format!("== {}\n", self.name);
        if self.protocol == Protocol::Binary {
            text.push_str("binary\n");
        }
        if let Some(seed) = self.chunk_seed {
            let _ = writeln!(text, "chunks {seed}");
        }
        for step in &self.steps {
            match step {
                Step::Send(pieces) => {
                    let mut line = String::new();
                    for piece in pieces {
                        match piece {
                            Piece::Raw(bytes) => line.push_str(&escape(bytes)),
                            Piece::Cas { back, delta: 0 } => {
                                let _ = write!(line, "\\{{cas {back}}}");
                            }
                            Piece::Cas { back, delta } => {
                                let _ = write!(line, "\\{{cas {back} {delta}}}");
                            }
                        }
                    }
                    match line.strip_suffix("\\r\\n") {
                        Some(line) if self.protocol == Protocol::Text => {
                            let _ = writeln!(text, "> {line}");
                        }
                        _ => {
                            let _ = writeln!(text, "- {line}");
                        }
                    }
                }
                Step::Sync => text.push_str("sync\n"),
                Step::Flush => text.push_str("flush\n"),
                Step::Sleep(ms) => {
                    let _ = writeln!(text, "sleep {ms}");
                }
                Step::Reconnect => text.push_str("reconnect\n"),
            }
        }
        text
    }
}

/// Bytes as text: printable ASCII as it is, the rest as in Rust or C.
/// A long run of one byte is written `\*count(x)`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let run = bytes[at..].iter().take_while(|other| **other == byte).count();
        if run > 40 {
            let _ = write!(text, "\\*{run}({})", escape(&[byte]));
            at += run;
            continue;
        }
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(byte as char),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
        at += 1;
    }
    text
}
