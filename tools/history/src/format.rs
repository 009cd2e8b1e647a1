//! Histories as files, for test programs in any language.
//!
//! A history is a text of lines, each a JSON object; empty lines are skipped
//! and the order of lines does not matter. Moments are nanoseconds of one
//! monotonic clock that all clients share (`CLOCK_MONOTONIC` of one machine:
//! Python's `time.monotonic_ns()`). Keys are text; values are numbers below
//! 2^64, and every write of a key writes another one: the client's number in
//! the upper half and a counter in the lower will do.
//!
//! ```text
//! {"kind":"write","client":1,"key":"user:1","value":7,"invoked_ns":10,"completed_ns":20}
//! {"kind":"write","client":1,"key":"user:1","value":8,"invoked_ns":25}
//! {"kind":"write","client":2,"key":"user:2","value":9,"invoked_ns":30,"completed_ns":40,"refused":true}
//! {"kind":"write","client":2,"key":"user:2","value":10,"invoked_ns":45,"completed_ns":50,"ttl_ms":60000,"tags":["red"]}
//! {"kind":"delete","client":3,"key":"user:1","invoked_ns":30,"completed_ns":50}
//! {"kind":"read","client":4,"key":"user:1","invoked_ns":60,"completed_ns":70,"hit":8}
//! {"kind":"read","client":4,"key":"user:1","invoked_ns":96,"completed_ns":99,"miss":true}
//! {"kind":"invalidate","client":1,"tag":"red","invoked_ns":91,"completed_ns":95}
//! {"kind":"invalidate","client":1,"namespace":"user","invoked_ns":91,"completed_ns":95}
//! {"kind":"invalidate","client":1,"all":true,"invoked_ns":91,"completed_ns":95}
//! {"kind":"healed","at_ns":100}
//! {"kind":"acknowledge","partition":17,"epoch":4,"node":"a","at_ns":35}
//! ```
//!
//! | kind | fields |
//! |---|---|
//! | `write` | any store: set, and add, replace or cas that stored. `refused` says that the server declined it (a plain "no", so that the value is surely nowhere); `ttl_ms` and `tags` if it had any |
//! | `delete` | deleted or not found alike |
//! | `read` | `hit` with the value, or `miss`. A read without an answer need not be recorded; nor should a hit that the server marked stale |
//! | `invalidate` | one of `tag`, `namespace` (keys that begin with it and a colon) and `all` |
//! | `healed` | all faults are over; reads invoked from here on are the read-back. The last such line counts |
//! | `acknowledge` | a node acknowledged a write of that partition while it believed in that epoch |
//!
//! Without `completed_ns` (or with `null`) an operation's outcome is unknown:
//! timeout, lost connection, an error that does not say whether it was done. A
//! client invokes nothing while an operation of its own is under way; after an
//! unknown outcome it may go on. Attempts that were repeated with the same value
//! are one operation, from the first byte to the last answer, and must take
//! effect once; to let each happen or not, give each a value of its own.
//!
//! Stamp `invoked_ns` before the first byte is sent and `completed_ns` after
//! the last byte of the answer was received: spans that are too long hide
//! violations, spans that are too short invent them.

use crate::history::{Builder, History, Malformed};
use crate::operation::{Acknowledgement, Action, Invalidation, Operation, Scope};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, BufRead, Write};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[allow(missing_docs)] // The table above says what they mean.
pub enum Line {
    /// A store.
    Write {
        client: u32,
        key: String,
        value: u64,
        invoked_ns: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_ns: Option<u64>,
        #[serde(default, skip_serializing_if = "is_false")]
        refused: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<String>,
    },
    /// A delete.
    Delete {
        client: u32,
        key: String,
        invoked_ns: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_ns: Option<u64>,
    },
    /// A read.
    Read {
        client: u32,
        key: String,
        invoked_ns: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_ns: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hit: Option<u64>,
        #[serde(default, skip_serializing_if = "is_false")]
        miss: bool,
    },
    /// An invalidation.
    Invalidate {
        client: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
        invoked_ns: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_ns: Option<u64>,
    },
    /// The end of all faults.
    Healed { at_ns: u64 },
    /// A node's acknowledgement.
    Acknowledge { partition: u32, epoch: u64, node: String, at_ns: u64 },
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Writes one line.
pub fn write_line(mut out: impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")
}

/// Reads a history.
pub fn read(mut input: impl BufRead) -> Result<History, Error> {
    let mut builder = Builder::default();
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        if input.read_line(&mut text)? == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        let at_line = |what: String| Error::Line { number, what };
        let line = serde_json::from_str(&text).map_err(|error| at_line(why(&error)))?;
        add(&mut builder, line).map_err(|what| at_line(what.to_owned()))?;
    }
    Ok(builder.finish()?)
}

/// What `serde_json` has against a line, without its idea of where.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => format!("{}, column {}", &text[..end], error.column()),
        None => text,
    }
}

fn add(builder: &mut Builder, line: Line) -> Result<(), &'static str> {
    match line {
        Line::Write { client, key, value, invoked_ns, completed_ns, refused, ttl_ms, tags } => {
            let key = builder.key(&key);
            let action = match (refused, completed_ns) {
                (true, None) => return Err("a refused write has a completed_ns"),
                (true, Some(_)) => Action::Refused { value },
                (false, _) => Action::Write {
                    value,
                    ttl_ns: ttl_ms.map(|ttl_ms| ttl_ms.saturating_mul(1_000_000)),
                    tags: tags.iter().map(|tag| builder.tag(tag)).collect(),
                },
            };
            builder.push(Operation { client, key, invoked_ns, completed_ns, action });
        }
        Line::Delete { client, key, invoked_ns, completed_ns } => {
            let (key, action) = (builder.key(&key), Action::Delete);
            builder.push(Operation { client, key, invoked_ns, completed_ns, action });
        }
        Line::Read { client, key, invoked_ns, completed_ns, hit, miss } => {
            let action = match (hit, miss) {
                (Some(value), false) => Action::Hit { value },
                (None, true) => Action::Miss,
                (None, false) if completed_ns.is_none() => return Ok(()),
                _ => return Err("a read has either a hit or a miss"),
            };
            let key = builder.key(&key);
            builder.push(Operation { client, key, invoked_ns, completed_ns, action });
        }
        Line::Invalidate { client, tag, namespace, all, invoked_ns, completed_ns } => {
            let scope = match (tag, namespace, all) {
                (Some(tag), None, false) => Scope::Tag(builder.tag(&tag)),
                (None, Some(namespace), false) => Scope::Namespace(namespace.into()),
                (None, None, true) => Scope::All,
                _ => return Err("an invalidation has one of tag, namespace and all"),
            };
            builder.invalidate(Invalidation { client, scope, invoked_ns, completed_ns });
        }
        Line::Healed { at_ns } => builder.healed(at_ns),
        Line::Acknowledge { partition, epoch, node, at_ns } => {
            let node = node.into();
            builder.acknowledge(Acknowledgement { partition, epoch, node, at_ns });
        }
    }
    Ok(())
}

/// Why a history can't be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be read.
    Io(io::Error),
    /// A line is none.
    Line {
        /// Its number, from 1.
        number: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The lines contradict each other.
    Malformed(Malformed),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        Error::Malformed(malformed)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => error.fmt(out),
            Error::Line { number, what } => write!(out, "line {number}: {what}"),
            Error::Malformed(malformed) => malformed.fmt(out),
        }
    }
}

impl std::error::Error for Error {}
