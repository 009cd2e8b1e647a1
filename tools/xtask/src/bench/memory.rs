//! Resident bytes an item, beside memcached and Redis.

use std::io::{BufWriter, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::page::Page;
use super::{Options, PROFILE};
use crate::build;
use crate::server::{Program, Server, Setup};

/// Key and value lengths of the memory table.
const SIZES: &[(usize, usize)] = &[(10, 10), (20, 100), (30, 500)];
const ITEMS: usize = 1_000_000;
/// Writes before.
const WARM_UP: usize = 200_000;

/// Seawall, memcached and Redis at each size, with TTL and version and without.
pub fn table(_: &Options, page: &mut Page) -> Result<u64> {
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    page.say(&format!("{ITEMS} items: what the process grew by while they were written, its connection buffers being warm.\n"));
    page.head(&["server", "key+value", "TTL and version", "neither"]);
    for program in [&seawall, &Program::Memcached, &Program::Redis] {
        for &(key, value) in SIZES {
            let full = overhead(program, key, value, true)?;
            let bare = overhead(program, key, value, false)?;
            page.row([
                program.name().to_owned(),
                format!("{key}+{value}"),
                format!("{full:.1}"),
                format!("{bare:.1}"),
            ]);
        }
    }
    Ok(3 * SIZES.len() as u64)
}

fn overhead(program: &Program, key: usize, value: usize, full: bool) -> Result<f64> {
    let mut flags = match program {
        Program::Redis => vec![],
        _ => vec!["-t", "1", "-m", "2048"],
    };
    if !full && *program != Program::Redis {
        flags.push("-C");
    }
    let server = Setup::new(program, &flags).start()?;
    let redis = *program == Program::Redis;
    // One item over and over: connection buffers, which do not grow with the
    // items, have been used before it counts.
    fill(&server, redis, key, value, full, std::iter::repeat_n(0, WARM_UP))?;
    std::thread::sleep(Duration::from_millis(500));
    let before = server.resident_bytes()?;
    fill(&server, redis, key, value, full, 0..ITEMS)?;
    std::thread::sleep(Duration::from_millis(500));
    let grown = server.resident_bytes()?.saturating_sub(before);
    Ok(grown as f64 / ITEMS as f64 - (key + value) as f64)
}

/// Writes items in one pipeline and waits for its end.
fn fill(
    server: &Server,
    redis: bool,
    key: usize,
    value: usize,
    ttl: bool,
    items: impl Iterator<Item = usize>,
) -> Result<()> {
    let stream = TcpStream::connect(server.address)?;
    let mut reader = stream.try_clone()?;
    // Redis answers every write: somebody must read while we send.
    let drain = std::thread::spawn(move || -> std::io::Result<bool> {
        let (mut tail, mut piece) = (Vec::new(), [0; 65_536]);
        loop {
            let count = reader.read(&mut piece)?;
            tail.extend_from_slice(&piece[..count]);
            tail.drain(..tail.len().saturating_sub(16));
            if count == 0 || tail.ends_with(b"END\r\n") || tail.ends_with(b"+PONG\r\n") {
                return Ok(count > 0);
            }
        }
    });
    let mut out = BufWriter::with_capacity(1 << 16, &stream);
    let value = "v".repeat(value);
    for item in items {
        let length = value.len();
        match (redis, ttl) {
            (false, _) => {
                let expiry = if ttl { 86_400 } else { 0 };
                write!(out, "set {item:0key$} 0 {expiry} {length} noreply\r\n{value}\r\n")?;
            }
            (true, true) => write!(
                out,
                "*5\r\n$3\r\nSET\r\n${key}\r\n{item:0key$}\r\n${length}\r\n{value}\r\n$2\r\nEX\r\n$5\r\n86400\r\n"
            )?,
            (true, false) => {
                write!(
                    out,
                    "*3\r\n$3\r\nSET\r\n${key}\r\n{item:0key$}\r\n${length}\r\n{value}\r\n"
                )?;
            }
        }
    }
    out.write_all(if redis { b"*1\r\n$4\r\nPING\r\n" } else { b"get none\r\n" })?;
    out.flush()?;
    let answered = drain.join().ok().context("the reading thread panicked")??;
    ensure!(answered, "the server closed the connection");
    Ok(())
}
