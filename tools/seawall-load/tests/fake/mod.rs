//! A tiny memcached, and Redis, inside the test's process: four protocols, one
//! thread a connection, a map behind a lock, and faults on request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Every so many-th value read has a wrong byte; 0: none.
    pub corrupt_every: u64,
    /// A connection closes after so many requests; 0: never.
    pub close_after: u64,
    /// Every set is answered with an error.
    pub no_memory: bool,
    /// The whole server sleeps once, at this request, for so long.
    pub stall: Option<(u64, Duration)>,
}

/// The server; its threads end with the process.
pub struct Fake {
    pub address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    items: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    requests: AtomicU64,
    reads: AtomicU64,
    faults: Faults,
}

impl Fake {
    pub fn start(faults: Faults) -> Fake {
        Fake::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), faults)
    }

    pub fn on(listener: TcpListener, faults: Faults) -> Fake {
        let address = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(State { faults, ..State::default() });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that goes away ends its thread; that is no failure.
                std::thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Fake { address, state }
    }

    pub fn items(&self) -> usize {
        self.state.items.lock().expect("no panic").len()
    }

    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.state.items.lock().expect("no panic").keys().cloned().collect()
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut output = stream;
        let mut out = Vec::new();
        let mut served = 0;
        loop {
            // Answers of a pipeline leave together.
            if input.buffer().is_empty() && !out.is_empty() {
                output.write_all(&out)?;
                out.clear();
            }
            let Some(first) = input.fill_buf()?.first().copied() else { return Ok(()) };
            let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some((at, pause)) = self.faults.stall
                && number == at
            {
                let items = self.items.lock().expect("no panic");
                std::thread::sleep(pause);
                drop(items);
            }
            served += 1;
            if self.faults.close_after > 0 && served > self.faults.close_after {
                return Ok(());
            }
            match first {
                0x80 => self.binary(&mut input, &mut out)?,
                b'*' => self.resp(&mut input, &mut out)?,
                _ => self.line(&mut input, &mut out)?,
            }
        }
    }

    fn read(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = self.items.lock().expect("no panic").get(key).cloned()?;
        let number = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        if self.faults.corrupt_every > 0
            && number.is_multiple_of(self.faults.corrupt_every)
            && let Some(byte) = value.last_mut()
        {
            *byte ^= 1;
        }
        Some(value)
    }

    fn line(&self, input: &mut impl BufRead, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["get", ref keys @ ..] => {
                for key in keys {
                    if let Some(value) = self.read(key.as_bytes()) {
                        out.extend_from_slice(
                            format!("VALUE {key} 0 {}\r\n", value.len()).as_bytes(),
                        );
                        out.extend_from_slice(&value);
                        out.extend_from_slice(b"\r\n");
                    }
                }
                out.extend_from_slice(b"END\r\n");
            }
            ["mg", key, ref flags @ ..] => match self.read(key.as_bytes()) {
                Some(value) => {
                    let with_key =
                        if flags.contains(&"k") { format!(" k{key}") } else { String::new() };
                    out.extend_from_slice(format!("VA {}{with_key}\r\n", value.len()).as_bytes());
                    out.extend_from_slice(&value);
                    out.extend_from_slice(b"\r\n");
                }
                None if flags.contains(&"q") => {}
                None => out.extend_from_slice(b"EN\r\n"),
            },
            ["set", key, _, _, bytes, ref rest @ ..] => {
                let stored = self.store(key, bytes, input)?;
                match (stored, rest.contains(&"noreply")) {
                    (true, false) => out.extend_from_slice(b"STORED\r\n"),
                    (false, false) => {
                        out.extend_from_slice(b"SERVER_ERROR out of memory storing object\r\n")
                    }
                    (_, true) => {}
                }
            }
            ["ms", key, bytes, ref flags @ ..] => {
                let stored = self.store(key, bytes, input)?;
                match (stored, flags.contains(&"q")) {
                    (true, false) => out.extend_from_slice(b"HD\r\n"),
                    (true, true) => {}
                    (false, _) => {
                        out.extend_from_slice(b"SERVER_ERROR out of memory storing object\r\n")
                    }
                }
            }
            ["mn"] => out.extend_from_slice(b"MN\r\n"),
            ["version"] => out.extend_from_slice(b"VERSION fake\r\n"),
            _ => out.extend_from_slice(b"ERROR\r\n"),
        }
        Ok(())
    }

    fn resp(&self, input: &mut impl BufRead, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut words = Vec::new();
        for _ in 0..length(b'*', input)? {
            let mut word = vec![0; length(b'$', input)? + 2];
            input.read_exact(&mut word)?;
            assert!(word.ends_with(b"\r\n"), "an argument ends wrongly");
            word.truncate(word.len() - 2);
            words.push(word);
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let answer = |key: &[u8], out: &mut Vec<u8>| match self.read(key) {
            Some(value) => {
                out.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
                out.extend_from_slice(&value);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(b"$-1\r\n"),
        };
        match words[..] {
            [b"GET", key] => answer(key, out),
            [b"MGET", ref keys @ ..] => {
                out.extend_from_slice(format!("*{}\r\n", keys.len()).as_bytes());
                keys.iter().for_each(|key| answer(key, out));
            }
            [b"SET", ..] if self.faults.no_memory => {
                out.extend_from_slice(b"-OOM out of memory\r\n")
            }
            [b"SET", key, value] | [b"SET", key, value, b"EX", _] => {
                self.items.lock().expect("no panic").insert(key.to_vec(), value.to_vec());
                out.extend_from_slice(b"+OK\r\n");
            }
            [b"PING"] => out.extend_from_slice(b"+PONG\r\n"),
            _ => out.extend_from_slice(b"-ERR unknown command\r\n"),
        }
        Ok(())
    }

    fn store(&self, key: &str, bytes: &str, input: &mut impl Read) -> std::io::Result<bool> {
        let mut value = vec![0; bytes.parse::<usize>().expect("a number") + 2];
        input.read_exact(&mut value)?;
        assert!(value.ends_with(b"\r\n"), "the value of {key} ends wrongly");
        value.truncate(value.len() - 2);
        if !self.faults.no_memory {
            self.items.lock().expect("no panic").insert(key.as_bytes().to_vec(), value);
        }
        Ok(!self.faults.no_memory)
    }

    fn binary(&self, input: &mut impl Read, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut header = [0; 24];
        input.read_exact(&mut header)?;
        let key_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let extras_bytes = usize::from(header[4]);
        let body_bytes =
            u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let mut body = vec![0; body_bytes];
        input.read_exact(&mut body)?;
        let key = &body[extras_bytes..extras_bytes + key_bytes];
        let value = &body[extras_bytes + key_bytes..];
        let mut answer = |status: u16, extras: &[u8], key: &[u8], value: &[u8]| {
            let body_bytes = (extras.len() + key.len() + value.len()) as u32;
            out.extend_from_slice(&[0x81, header[1], 0, key.len() as u8, extras.len() as u8, 0]);
            out.extend_from_slice(&status.to_be_bytes());
            out.extend_from_slice(&body_bytes.to_be_bytes());
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&[extras, key, value].concat());
        };
        match header[1] {
            // GET and GETKQ
            opcode @ (0x00 | 0x0d) => match self.read(key) {
                Some(value) => answer(0, &[0; 4], if opcode == 0x0d { key } else { b"" }, &value),
                None if opcode == 0x00 => answer(1, b"", b"", b"Not found"),
                None => {}
            },
            // SET and SETQ
            opcode @ (0x01 | 0x11) => {
                if self.faults.no_memory {
                    answer(0x82, b"", b"", b"Out of memory");
                } else {
                    self.items.lock().expect("no panic").insert(key.to_vec(), value.to_vec());
                    if opcode == 0x01 {
                        answer(0, b"", b"", b"");
                    }
                }
            }
            0x0a => answer(0, b"", b"", b""),
            _ => answer(0x81, b"", b"", b"Unknown command"),
        }
        Ok(())
    }
}

/// The number behind `mark` in a line of its own.
fn length(mark: u8, input: &mut impl BufRead) -> std::io::Result<usize> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let number = line.trim_end().strip_prefix(mark as char).and_then(|text| text.parse().ok());
    number.ok_or_else(|| std::io::Error::other(format!("`{line}` is no length")))
}
