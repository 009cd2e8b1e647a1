//! What a run does, as plain values: [`Plan`] and the small types of its
//! fields, each with the parser of its command-line form.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::error::LoadError;
use crate::target::Target;

/// How requests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The classic text commands: `get`, `set`.
    Text,
    /// The meta commands: `mg`, `ms`, `mn`.
    Meta,
    /// The binary protocol.
    Binary,
    /// What Redis and Valkey speak: `GET`, `MGET`, `SET` with `EX`.
    Resp,
}

impl Protocol {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Text => "text",
            Protocol::Meta => "meta",
            Protocol::Binary => "binary",
            Protocol::Resp => "resp",
        }
    }
}

/// Which system calls carry the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// One ring a thread: multishot receive, sends submitted together.
    Uring,
    /// epoll with one `recv` and one `send` a connection and turn.
    Epoll,
}

/// How often each key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The k-th most popular key in proportion to `1 / k^theta`.
    Zipf(f64),
    /// One after the other, each worker in its own part.
    Sequential,
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, theta) = match text.split_once(':') {
            Some((name, theta)) => (name, Some(theta)),
            None => (text, None),
        };
        match (name, theta) {
            ("uniform", None) => Ok(Distribution::Uniform),
            ("sequential", None) => Ok(Distribution::Sequential),
            ("zipf", None) => Ok(Distribution::Zipf(0.99)),
            ("zipf", Some(theta)) => match theta.parse::<f64>() {
                Ok(theta) if theta > 0.0 && theta <= 10.0 => Ok(Distribution::Zipf(theta)),
                _ => Err(format!("zipf's theta is a number above 0 and up to 10, not `{theta}`")),
            },
            _ => Err("one of uniform, zipf, zipf:THETA, sequential".into()),
        }
    }
}

/// When requests are due in an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent clients: exponential gaps.
    Poisson,
    /// A metronome: equal gaps.
    Constant,
}

/// Gets and sets in proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ratio {
    /// Parts that read.
    pub gets: u32,
    /// Parts that write.
    pub sets: u32,
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(gets, sets)| {
            Some(Ratio { gets: gets.trim().parse().ok()?, sets: sets.trim().parse().ok()? })
        });
        match parts {
            Some(ratio) if ratio.gets as u64 + ratio.sets as u64 > 0 => Ok(ratio),
            _ => Err("GETS:SETS, for example 90:10, and not 0:0".into()),
        }
    }
}

/// A length in bytes, fixed or from a range; each key has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The shortest.
    pub min: u32,
    /// The longest.
    pub max: u32,
}

impl Span {
    /// One length only.
    pub const fn fixed(bytes: u32) -> Span {
        Span { min: bytes, max: bytes }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let span = Span { min: parse_bytes(min)?, max: parse_bytes(max)? };
        if span.min > span.max {
            return Err(format!("the range {text} runs backwards"));
        }
        Ok(span)
    }
}

/// Reads `4096`, `4k`, `4KiB`, `1m` (binary multiples).
pub fn parse_bytes(text: &str) -> Result<u32, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, unit) = match digits.as_bytes().last() {
        Some(b'k') => (&digits[..digits.len() - 1], 1u64 << 10),
        Some(b'm') => (&digits[..digits.len() - 1], 1 << 20),
        Some(b'g') => (&digits[..digits.len() - 1], 1 << 30),
        _ => (digits, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes <= 1 << 30 => Ok(bytes as u32),
        _ => Err(format!("`{text}` is not a size up to 1 GiB, such as 100, 4k or 1MiB")),
    }
}

/// Reads `1000000`, `1_000_000`, `10k`, `1m` (decimal multiples).
pub fn parse_count(text: &str) -> Result<u64, String> {
    let clean = text.trim().replace('_', "").to_ascii_lowercase();
    let (number, unit) = match clean.as_bytes().last() {
        Some(b'k') => (&clean[..clean.len() - 1], 1e3),
        Some(b'm') => (&clean[..clean.len() - 1], 1e6),
        Some(b'g') => (&clean[..clean.len() - 1], 1e9),
        _ => (&clean[..], 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if number >= 0.0 && number * unit < 1e15 => Ok((number * unit).round() as u64),
        _ => Err(format!("`{text}` is not a count such as 5000, 50k or 1.5m")),
    }
}

/// Reads `10`, `10s`, `500ms`, `2m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let clean = text.trim();
    let split = clean.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(clean.len());
    let unit = match &clean[split..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` ends in no unit of ms, s, m, h")),
    };
    match clean[..split].trim().parse::<f64>() {
        Ok(number) if number >= 0.0 && number * unit < 1e7 => {
            Ok(Duration::from_secs_f64(number * unit))
        }
        _ => Err(format!("`{text}` is not a duration such as 10s, 500ms or 2m")),
    }
}

/// Sends every key to the connection whose core owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CorePorts {
    /// Core 0 listens here, core 1 on the next port, and so on.
    pub base: u16,
    /// How many cores the server has.
    pub cores: u32,
    /// The server's hash seed.
    pub seed: u64,
}

/// Everything that a run needs to know.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Where the server listens.
    pub target: Target,
    /// How requests are written.
    pub protocol: Protocol,
    /// Which system calls carry them.
    pub io: Io,
    /// Sockets in all, spread evenly over the threads.
    pub connections: u32,
    /// Worker threads.
    pub threads: u32,
    /// CPUs to pin the workers to, in turn; empty leaves it to the scheduler.
    pub cpus: Vec<u32>,
    /// Most outstanding requests a connection.
    pub pipeline: u32,
    /// Whether a pipeline is filled again only when it is empty, not as soon as
    /// an answer has come.
    pub batch: bool,
    /// Keys of one get.
    pub multiget: u32,
    /// Gets and sets in proportion.
    pub ratio: Ratio,
    /// Distinct keys.
    pub keys: u64,
    /// Length of every key.
    pub key_bytes: u32,
    /// What keys begin with; none: as much of `key:` as fits.
    pub key_prefix: Option<String>,
    /// Length of values.
    pub value_bytes: Span,
    /// How often each key is asked for.
    pub distribution: Distribution,
    /// Requests a second in an open loop; none: a closed loop.
    pub rate: Option<f64>,
    /// When requests are due in an open loop.
    pub arrivals: Arrivals,
    /// How long to measure, unless `requests` says how much.
    pub duration: Duration,
    /// How many requests to measure.
    pub requests: Option<u64>,
    /// How long to run before measuring.
    pub warmup: Duration,
    /// Whether to write every key first.
    pub preload: bool,
    /// Whether to check every value.
    pub verify: bool,
    /// Whether a miss is followed by a set of that key.
    pub fill: bool,
    /// Seconds until written items expire; 0: never.
    pub ttl: u32,
    /// Length of one reporting interval.
    pub report_every: Duration,
    /// The server's process, for its CPU time.
    pub server_pid: Option<u32>,
    /// Sends every key to its owning core.
    pub core_ports: Option<CorePorts>,
    /// Seed of keys and arrivals: the same seed, the same requests.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            target: Target::Tcp("127.0.0.1:11211".into()),
            protocol: Protocol::Text,
            io: Io::Auto,
            connections: 50,
            threads: 1,
            cpus: Vec::new(),
            pipeline: 1,
            batch: false,
            multiget: 1,
            ratio: Ratio { gets: 90, sets: 10 },
            keys: 1_000_000,
            key_bytes: 30,
            key_prefix: None,
            value_bytes: Span::fixed(100),
            distribution: Distribution::Uniform,
            rate: None,
            arrivals: Arrivals::Poisson,
            duration: Duration::from_secs(10),
            requests: None,
            warmup: Duration::from_secs(1),
            preload: false,
            verify: false,
            fill: false,
            ttl: 0,
            report_every: Duration::from_secs(1),
            server_pid: None,
            core_ports: None,
            seed: 1,
        }
    }
}

/// Requests that a connection may have outstanding at most.
pub const PIPELINE_MAX: u32 = 65_536;
/// Keys of one get at most.
pub const MULTIGET_MAX: u32 = 10_000;
/// Sockets of one run at most.
pub const CONNECTIONS_MAX: u32 = 100_000;

impl Plan {
    /// Finds everything that is wrong, not only the first mistake.
    pub fn check(&self) -> Result<(), LoadError> {
        let mut wrong = Vec::new();
        let mut bound = |name: &str, value: u64, min: u64, max: u64| {
            if value < min || value > max {
                wrong.push(format!("--{name} {value} is outside {min} to {max}"));
            }
        };
        bound("connections", self.connections.into(), 1, CONNECTIONS_MAX.into());
        bound("threads", self.threads.into(), 1, 1024);
        bound("pipeline", self.pipeline.into(), 1, PIPELINE_MAX.into());
        bound("multiget", self.multiget.into(), 1, MULTIGET_MAX.into());
        bound("keys", self.keys, 1, 1 << 48);
        bound("key-bytes", self.key_bytes.into(), 1, 250);
        if self.threads > self.connections {
            wrong.push(format!(
                "{} threads cannot share {} connections: each needs one",
                self.threads, self.connections
            ));
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate < 1e9)) {
            wrong.push("--rate must be above 0 and below 1e9 requests a second".into());
        }
        if self.report_every < Duration::from_millis(10) {
            wrong.push("--report-every must be at least 10ms".into());
        }
        if self.requests.is_none() && self.duration.is_zero() {
            wrong.push("--duration must be above 0".into());
        }
        if self.fill && self.multiget > 1 {
            wrong.push("--fill works with single gets only, not with --multiget".into());
        }
        if let Some(core_ports) = self.core_ports {
            if core_ports.cores == 0 || core_ports.base as u32 + core_ports.cores > 65_536 {
                wrong.push("--core-ports and --cores name ports beyond 65535".into());
            } else if self.connections / self.threads < core_ports.cores {
                wrong.push(format!(
                    "every thread needs a connection to each of the {} cores",
                    core_ports.cores
                ));
            }
            if self.protocol == Protocol::Resp {
                wrong.push(
                    "--core-ports is for Seawall's own cores, which do not speak --protocol resp"
                        .into(),
                );
            }
            if self.multiget > 1 {
                wrong.push("--core-ports works with single gets only, not with --multiget".into());
            }
        }
        if let Err(error) = crate::keys::KeySpace::new(self) {
            wrong.push(error);
        }
        if wrong.is_empty() { Ok(()) } else { Err(LoadError::Plan(wrong.join("\n"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_durations_are_read() {
        assert_eq!(parse_bytes("100"), Ok(100));
        assert_eq!(parse_bytes("4k"), Ok(4096));
        assert_eq!(parse_bytes("4KiB"), Ok(4096));
        assert_eq!(parse_bytes("1m"), Ok(1 << 20));
        assert!(parse_bytes("2g").is_err());
        assert!(parse_bytes("k").is_err());
        assert_eq!(parse_count("1_000"), Ok(1000));
        assert_eq!(parse_count("1.5m"), Ok(1_500_000));
        assert!(parse_count("-1").is_err());
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("5 parsecs").is_err());
    }

    #[test]
    fn ratios_spans_and_distributions_are_read() {
        assert_eq!("90:10".parse(), Ok(Ratio { gets: 90, sets: 10 }));
        assert!("0:0".parse::<Ratio>().is_err());
        assert_eq!("100-4k".parse(), Ok(Span { min: 100, max: 4096 }));
        assert!("4k-100".parse::<Span>().is_err());
        assert_eq!("zipf:0.8".parse(), Ok(Distribution::Zipf(0.8)));
        assert!("zipf:nan".parse::<Distribution>().is_err());
        assert!("normal".parse::<Distribution>().is_err());
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let plan = Plan { connections: 0, pipeline: 0, key_bytes: 3, ..Plan::default() };
        let text = plan.check().expect_err("three mistakes").to_string();
        assert!(text.contains("--connections 0"), "{text}");
        assert!(text.contains("--pipeline 0"), "{text}");
        assert!(text.contains("key"), "{text}");
        assert!(Plan::default().check().is_ok());
    }

    #[test]
    fn resp_refuses_what_only_seawall_understands() {
        let resp = Plan { protocol: Protocol::Resp, ..Plan::default() };
        assert!(resp.check().is_ok());
        let core_ports = Some(CorePorts { base: 12_000, cores: 2, seed: 0 });
        let text =
            Plan { core_ports, ..resp }.check().expect_err("RESP has no core ports").to_string();
        assert!(text.contains("--core-ports") && text.contains("--protocol resp"), "{text}");
    }
}
