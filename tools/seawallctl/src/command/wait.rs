//! `seawallctl wait`: until the cluster is settled, for scripts that restart its nodes
//! one after the other.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{print_json, ring};
use crate::admin::{Admin, count};
use crate::error::CtlError;
use crate::format;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks in a row that must find it settled. The node that is asked may not have heard
/// yet of what has just happened to another one.
const LOOKS: u32 = 3;

/// Waits until every partition has all its copies and, unless `whole`, nothing is
/// planned. 0: it is so; 1: it was not so in time.
pub(super) fn run(
    admin: &Admin,
    whole: bool,
    patience: Duration,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, CtlError> {
    let deadline = Instant::now() + patience;
    let wanted = if whole { "whole" } else { "settled" };
    let (mut looks, mut said) = (0, None);
    loop {
        let ring = admin.get_json("/ring")?;
        let is_so = ring[wanted] == true && ring["leased"] == true;
        looks = if is_so { looks + 1 } else { 0 };
        if looks == LOOKS || Instant::now() >= deadline {
            say(&ring, json, out)?;
            return Ok(u8::from(looks < LOOKS));
        }
        let standing = ring::standing(&ring);
        if !json && !is_so && said != Some(standing) {
            said = Some(standing);
            writeln!(out, "{}", line(&ring))?;
            out.flush()?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn say(ring: &Value, json: bool, out: &mut dyn Write) -> Result<(), CtlError> {
    if json {
        return print_json(ring, out);
    }
    Ok(writeln!(out, "{}", line(ring))?)
}

fn line(ring: &Value) -> String {
    if ring["leased"] != true {
        return "this node has no lease: it answers no request".into();
    }
    let number = |name| format::grouped(count(&ring["partitions"], name));
    format!("{} of {} partitions whole; {}", number("whole"), number("all"), ring::standing(ring))
}
