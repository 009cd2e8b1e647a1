//! `seawallctl invalidate`: keys are deleted one by one, tags and namespaces
//! through the server's own `invalidate`, all names in one command.

use std::io::Write;

use serde_json::json;

use super::print_json;
use crate::cli::{InvalidateKind, InvalidateOptions};
use crate::error::CtlError;
use crate::memcached::Client;

/// Names of one command; a command line holds 2048 bytes or more.
const NAMES_AT_ONCE: usize = 8;
/// Longest name, as for keys.
const NAME_BYTES_MAX: usize = 250;

pub(super) fn run(
    client: &mut Client,
    options: &InvalidateOptions,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, CtlError> {
    let kind = match options.kind {
        InvalidateKind::Key => "key",
        InvalidateKind::Tag => "tag",
        InvalidateKind::Ns => "ns",
    };
    check_names(kind, &options.names, options.kind == InvalidateKind::Key)?;
    if options.kind == InvalidateKind::Key {
        let mut missing = Vec::new();
        for name in &options.names {
            if !client.delete(name)? {
                missing.push(name.as_str());
            }
        }
        let deleted = options.names.len() - missing.len();
        if json {
            print_json(&json!({ "kind": kind, "deleted": deleted, "not_found": missing }), out)?;
        } else {
            writeln!(out, "{deleted} of {} keys deleted", options.names.len())?;
            for name in &missing {
                writeln!(out, "not found: {name}")?;
            }
        }
        return Ok(u8::from(!missing.is_empty()));
    }
    for names in options.names.chunks(NAMES_AT_ONCE) {
        let command = format!("invalidate {kind} {}", names.join(" "));
        let answer = client.command(&command)?;
        if !answer.starts_with("INVALIDATED") {
            return Err(CtlError::Unexpected { request: command, found: answer });
        }
    }
    if json {
        print_json(&json!({ "kind": kind, "invalidated": options.names.len() }), out)?;
    } else {
        let (one, many) = if kind == "tag" { ("tag", "tags") } else { ("namespace", "namespaces") };
        let noun = if options.names.len() == 1 { one } else { many };
        writeln!(out, "{} {noun} invalidated", options.names.len())?;
    }
    Ok(0)
}

/// Refuses names that the protocol can't carry, before anything is dropped.
fn check_names(kind: &str, names: &[String], spaces: bool) -> Result<(), CtlError> {
    for name in names {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(CtlError::Usage(format!(
                "{kind} `{name}` has {} bytes; names have 1 to {NAME_BYTES_MAX}",
                name.len()
            )));
        }
        if !spaces && name.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(CtlError::Usage(format!(
                "{kind} `{}` holds a space or control character; names may not",
                name.escape_default()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_anything_happens() {
        let check = |name: &str, spaces| check_names("tag", &[name.to_owned()], spaces).is_ok();
        assert!(check("a", false));
        assert!(!check("", false));
        assert!(!check("a b", false));
        assert!(check("a b", true));
        assert!(!check(&"x".repeat(251), true));
        assert!(!check("a\r\nflush_all", false));
    }
}
