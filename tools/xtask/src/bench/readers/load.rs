//! Many clients that ask for much at once, and one beside them that asks for little.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How the clients behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They read what they have asked for at once, and ask again, so many times.
    Read(usize),
    /// They ask so many times without waiting, and read nothing for so long.
    Ignore(usize, Duration),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections of the load.
    pub connections: usize,
    /// Keys of one `get`.
    pub keys: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// What they do then.
    pub manner: Manner,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Clients that read and were closed in the middle.
    pub closed: usize,
    /// Most resident memory of the server.
    pub resident_bytes: u64,
    /// Most that connections held, as Seawall says.
    pub connection_bytes: Option<u64>,
    /// Delays of the bystander's requests, in order of length.
    pub delays: Vec<Duration>,
}

impl Outcome {
    /// The delay that so many percent of the requests did not pass.
    pub fn delay(&self, percent: usize) -> Duration {
        let last = self.delays.len().saturating_sub(1);
        self.delays.get(last * percent / 100).copied().unwrap_or_default()
    }
}

/// The bystander asks for one of these so often.
const BYSTANDER_KEYS: usize = 16;
const BYSTANDER_EVERY: Duration = Duration::from_millis(10);
/// Between two looks at the server's memory.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// When nobody had anything to read.
const IDLE: Duration = Duration::from_micros(100);

/// Puts the load onto a server.
pub fn run(load: &Load, address: SocketAddr, pid: u32) -> io::Result<Outcome> {
    fill(load, address)?;
    let over = AtomicBool::new(false);
    let (resident, held) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(address, pid, &over, &resident, &held));
        let bystander = scope.spawn(|| stand_by(address, &over));
        let closed = match load.manner {
            Manner::Read(rounds) => read(load, rounds, address),
            Manner::Ignore(times, duration) => ignore(load, times, duration, address).map(|()| 0),
        };
        over.store(true, Relaxed);
        let failed = |_| io::Error::other("a client panicked");
        watcher.join().map_err(failed)??;
        let mut delays = bystander.join().map_err(failed)??;
        delays.sort_unstable();
        let held = held.load(Relaxed);
        Ok(Outcome {
            closed: closed?,
            resident_bytes: resident.load(Relaxed),
            connection_bytes: (held != u64::MAX).then_some(held),
            delays,
        })
    })
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn line(client: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match client.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

fn fill(load: &Load, address: SocketAddr) -> io::Result<()> {
    let mut client = connect(address)?;
    let large = (0..load.keys).map(|key| (format!("large{key}"), load.value_bytes));
    let small = (0..BYSTANDER_KEYS).map(|key| (format!("small{key}"), 10));
    for (key, bytes) in large.chain(small) {
        let value = "v".repeat(bytes);
        write!(client.get_mut(), "set {key} 0 0 {bytes}\r\n{value}\r\n")?;
        let answer = line(&mut client)?;
        if answer != "STORED\r\n" {
            return Err(io::Error::other(format!("set {key}: {answer}")));
        }
    }
    Ok(())
}

fn request(load: &Load) -> String {
    let keys: Vec<String> = (0..load.keys).map(|key| format!("large{key}")).collect();
    format!("get {}\r\n", keys.join(" "))
}

/// How many of those that read were closed, or were answered wrongly. One thread reads
/// for all: with one for each the bystander would wait for a CPU among hundreds.
fn read(load: &Load, rounds: usize, address: SocketAddr) -> io::Result<usize> {
    let request = request(load);
    let answer = answer(load);
    let mut clients: Vec<Reader> = (0..load.connections)
        .map(|_| {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Ok(Reader { stream, rounds, at: 0 })
        })
        .collect::<io::Result<_>>()?;
    for client in &mut clients {
        client.stream.write_all(request.as_bytes())?;
        client.stream.set_nonblocking(true)?;
    }
    let mut closed = 0;
    let mut buffer = vec![0; READ_BYTES];
    let began = Instant::now();
    while !clients.is_empty() && began.elapsed() < PATIENCE {
        let mut moved = false;
        clients.retain_mut(|client| match client.take(&mut buffer, &request, &answer) {
            Ok(bytes) => {
                moved |= bytes > 0;
                client.rounds > 0
            }
            Err(_) => {
                closed += 1;
                false
            }
        });
        if !moved {
            std::thread::sleep(IDLE);
        }
    }
    Ok(closed + clients.len())
}

/// What the answer to [`request`] must be.
fn answer(load: &Load) -> Vec<u8> {
    let mut answer = Vec::new();
    for key in 0..load.keys {
        answer.extend(format!("VALUE large{key} 0 {}\r\n", load.value_bytes).bytes());
        answer.resize(answer.len() + load.value_bytes, b'v');
        answer.extend(b"\r\n");
    }
    answer.extend(b"END\r\n");
    answer
}

/// A client that reads.
struct Reader {
    stream: TcpStream,
    /// Answers still to come, the one under way included.
    rounds: usize,
    /// Bytes of that one that have come.
    at: usize,
}

impl Reader {
    /// Takes what there is, and asks again behind a whole answer. How much it was.
    fn take(&mut self, buffer: &mut [u8], request: &str, answer: &[u8]) -> io::Result<usize> {
        let bytes = match self.stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        if answer.get(self.at..self.at + bytes) != Some(&buffer[..bytes]) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.at += bytes;
        if self.at == answer.len() {
            self.rounds -= 1;
            self.at = 0;
            if self.rounds > 0 {
                self.stream.write_all(request.as_bytes())?;
            }
        }
        Ok(bytes)
    }
}

/// Asks so many times, as fast as the sockets take it, and reads nothing.
fn ignore(load: &Load, times: usize, duration: Duration, address: SocketAddr) -> io::Result<()> {
    let requests = request(load).repeat(times).into_bytes();
    let clients: Vec<TcpStream> = (0..load.connections)
        .map(|_| {
            let client = TcpStream::connect(address)?;
            client.set_nonblocking(true)?;
            Ok(client)
        })
        .collect::<io::Result<_>>()?;
    let mut sent = vec![0; clients.len()];
    let began = Instant::now();
    while began.elapsed() < duration {
        for (mut client, sent) in clients.iter().zip(&mut sent) {
            // One that was closed takes nothing any more; the others go on.
            *sent += client.write(&requests[*sent..]).unwrap_or_default();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Asks for little at times of its own. What counts is how long after it was due a
/// request was answered, so that those behind a slow one count as late, too.
fn stand_by(address: SocketAddr, over: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut client = connect(address)?;
    let mut delays = Vec::new();
    let mut due = Instant::now();
    while !over.load(Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let key = delays.len() % BYSTANDER_KEYS;
        client.get_mut().write_all(format!("get small{key}\r\n").as_bytes())?;
        for _ in 0..3 {
            line(&mut client)?;
        }
        delays.push(due.elapsed());
        due += BYSTANDER_EVERY;
    }
    Ok(delays)
}

/// Notes the most that the server held.
fn watch(
    address: SocketAddr,
    pid: u32,
    over: &AtomicBool,
    resident: &AtomicU64,
    held: &AtomicU64,
) -> io::Result<()> {
    let mut client = connect(address)?;
    while !over.load(Relaxed) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line_of = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line_of("VmRSS:").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        resident.fetch_max(kib.unwrap_or(0_u64) * 1024, Relaxed);
        client.get_mut().write_all(b"stats\r\n")?;
        loop {
            let text = line(&mut client)?;
            if text == "END\r\n" {
                break;
            }
            let number = text.strip_prefix("STAT seawall_connection_bytes ");
            if let Some(bytes) = number.and_then(|number| number.trim().parse::<u64>().ok()) {
                let before = held.load(Relaxed);
                held.store(if before == u64::MAX { bytes } else { before.max(bytes) }, Relaxed);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
