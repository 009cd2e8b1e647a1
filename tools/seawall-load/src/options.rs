//! The command line, and its translation into a [`Plan`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::{
    Arrivals, CorePorts, Distribution, Io, Plan, Protocol, Ratio, Span, parse_bytes, parse_count,
    parse_duration,
};
use crate::target::Target;

/// Load generator for memcached-compatible servers, and for Redis and Valkey.
///
/// Without --rate it runs a closed loop: every connection keeps --pipeline
/// requests outstanding and sends the next when an answer comes. With --rate
/// requests are due at times of their own, and latency runs from the time at
/// which a request was due, so that stalls of the server show in full.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Options {
    /// Another way to run; see its own help.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// One run.
    #[command(flatten)]
    pub run: RunOptions,
}

const EXAMPLES: &str = "\
Examples:
  seawall-load --preload --ratio 1:0 --pipeline 32
  seawall-load --preload --distribution zipf --rate 100k --duration 1m --svg latency.svg
  seawall-load --protocol meta --multiget 50 --ratio 1:0 --server-pid $(pidof seawalld)
  seawall-load --protocol resp --server 127.0.0.1:6379 --preload --pipeline 32
  seawall-load sweep --rates 20k,40k,60k --peer seawall=127.0.0.1:11211 \\
      --peer memcached=127.0.0.1:11311 --svg sweep.svg";

/// Other ways to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure latency at several rates against several servers, in turn.
    Sweep(SweepOptions),
}

/// What to send.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Requests")]
pub struct WorkloadOptions {
    /// How requests are written.
    #[arg(long, value_enum, default_value = "text")]
    pub protocol: Protocol,
    /// Gets and sets in proportion.
    #[arg(long, value_name = "GETS:SETS", default_value = "90:10")]
    pub ratio: Ratio,
    /// Keys of one get.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub multiget: u32,
    /// Distinct keys, such as 1m or 500k.
    #[arg(long, value_name = "COUNT", value_parser = parse_count, default_value = "1m")]
    pub keys: u64,
    /// Length of every key.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "30")]
    pub key_bytes: u32,
    /// What keys begin with [default: as much of `key:` as fits].
    #[arg(long, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// Length of values, or a range: 100, 4k, 100-4k.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub value_bytes: Span,
    /// How often each key is asked for: uniform, zipf, zipf:THETA, sequential.
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub distribution: Distribution,
    /// Seconds until written items expire; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ttl: u32,
    /// Set a key after it was missed, as an application would.
    #[arg(long)]
    pub fill: bool,
    /// Check every value against what must have been written.
    #[arg(long)]
    pub verify: bool,
    /// Write every key once before anything else (quiet sets, where the protocol
    /// has them).
    #[arg(long)]
    pub preload: bool,
    /// Seed of keys and arrivals: the same seed, the same requests.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// How to send it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct LoopOptions {
    /// Connections in all.
    #[arg(long, short = 'c', value_name = "N", default_value_t = 50)]
    pub connections: u32,
    /// Threads, which share the connections.
    #[arg(long, short = 't', value_name = "N", default_value_t = 1)]
    pub threads: u32,
    /// CPUs to pin the threads to, in turn.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cpus: Vec<u32>,
    /// Most outstanding requests a connection.
    #[arg(long, value_name = "DEPTH", default_value_t = 1)]
    pub pipeline: u32,
    /// Fill a pipeline again only when all its answers have come [default: with
    /// every answer].
    #[arg(long)]
    pub batch: bool,
    /// Which system calls carry the bytes.
    #[arg(long, value_enum, default_value = "auto")]
    pub io: Io,
    /// When requests are due in an open loop.
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Arrivals,
    /// How long to measure: 10s, 500ms, 2m.
    #[arg(long, short = 'd', value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// How long to run before measuring.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub warmup: Duration,
}

/// One run.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The server: HOST:PORT or unix:PATH.
    #[arg(long, short = 's', value_name = "ADDRESS", default_value = "127.0.0.1:11211")]
    pub server: Target,
    /// Requests a second in all (open loop), such as 100k [default: closed loop].
    #[arg(long, value_name = "RATE", value_parser = parse_count)]
    pub rate: Option<u64>,
    /// Measure so many requests instead of --duration.
    #[arg(long, value_name = "COUNT", value_parser = parse_count)]
    pub requests: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub workload: WorkloadOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connections: LoopOptions,
    /// The server's process: shows the CPU time that a request costs it.
    #[arg(long, value_name = "PID", help_heading = "Server")]
    pub server_pid: Option<u32>,
    /// Send every key to its owning core: core 0 listens on this port, core 1 on
    /// the next.
    #[arg(long, value_name = "PORT", requires = "cores", help_heading = "Server")]
    pub core_ports: Option<u16>,
    /// How many cores the server has.
    #[arg(long, value_name = "N", requires = "core_ports", help_heading = "Server")]
    pub cores: Option<u32>,
    /// The server's hash seed.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Server")]
    pub hash_seed: u64,
    /// Length of one reporting interval.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s", help_heading = "Output")]
    pub report_every: Duration,
    /// Write the report as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write a plot of the latency percentiles.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
    /// Print no progress and no table.
    #[arg(long, short = 'q', help_heading = "Output")]
    pub quiet: bool,
}

/// Several rates, several servers.
#[derive(Debug, Clone, Args)]
pub struct SweepOptions {
    /// Rates to offer, such as 20k,40k,60k.
    #[arg(long, value_name = "LIST", value_parser = parse_count, value_delimiter = ',', required = true)]
    pub rates: Vec<u64>,
    /// A server with its name in the plot; give one for each. One that speaks
    /// another protocol than --protocol: NAME=PROTOCOL@ADDRESS.
    #[arg(long = "peer", value_name = "NAME=ADDRESS", value_parser = parse_peer, required = true)]
    pub peers: Vec<Peer>,
    /// How often to go through all rates and peers; the median counts.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rounds: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub workload: WorkloadOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connections: LoopOptions,
    /// Write all reports as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write a plot of latency against load.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
    /// Print no progress and no table.
    #[arg(long, short = 'q', help_heading = "Output")]
    pub quiet: bool,
}

/// A server of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the plot.
    pub name: String,
    /// Its protocol, if not everybody's.
    pub protocol: Option<Protocol>,
    /// Where it listens.
    pub target: Target,
}

fn parse_peer(text: &str) -> Result<Peer, String> {
    let Some((name, place)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err("NAME=HOST:PORT, for example memcached=127.0.0.1:11211".into());
    };
    let (protocol, address) = match place.split_once('@') {
        Some((protocol, address)) => (Some(Protocol::from_str(protocol, false)?), address),
        None => (None, place),
    };
    Ok(Peer { name: name.into(), protocol, target: address.parse()? })
}

/// The part of a plan that a lone run and a sweep share.
fn shared(workload: &WorkloadOptions, connections: &LoopOptions) -> Plan {
    Plan {
        protocol: workload.protocol,
        ratio: workload.ratio,
        multiget: workload.multiget,
        keys: workload.keys,
        key_bytes: workload.key_bytes,
        key_prefix: workload.key_prefix.clone(),
        value_bytes: workload.value_bytes,
        distribution: workload.distribution,
        ttl: workload.ttl,
        fill: workload.fill,
        verify: workload.verify,
        preload: workload.preload,
        seed: workload.seed,
        connections: connections.connections,
        threads: connections.threads,
        cpus: connections.cpus.clone(),
        pipeline: connections.pipeline,
        batch: connections.batch,
        io: connections.io,
        arrivals: connections.arrivals,
        duration: connections.duration,
        warmup: connections.warmup,
        ..Plan::default()
    }
}

impl RunOptions {
    /// What the options ask for.
    pub fn plan(&self) -> Plan {
        Plan {
            target: self.server.clone(),
            rate: self.rate.map(|rate| rate as f64),
            requests: self.requests,
            report_every: self.report_every,
            server_pid: self.server_pid,
            core_ports: self.core_ports.zip(self.cores).map(|(base, cores)| CorePorts {
                base,
                cores,
                seed: self.hash_seed,
            }),
            ..shared(&self.workload, &self.connections)
        }
    }
}

impl SweepOptions {
    /// One point: this server at this rate.
    pub fn plan(&self, peer: &Peer, rate: u64, preload: bool) -> Plan {
        let shared = shared(&self.workload, &self.connections);
        Plan {
            target: peer.target.clone(),
            protocol: peer.protocol.unwrap_or(shared.protocol),
            rate: Some(rate as f64),
            preload,
            ..shared
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn options_become_a_plan() {
        let options = Options::parse_from([
            "seawall-load",
            "-s",
            "unix:/x",
            "--rate",
            "50k",
            "--ratio",
            "1:0",
            "--value-bytes",
            "10-4k",
            "--cpus",
            "0,1",
            "--core-ports",
            "12000",
            "--cores",
            "2",
        ]);
        let plan = options.run.plan();
        assert_eq!(plan.target, Target::Unix("/x".into()));
        assert_eq!(plan.rate, Some(50_000.0));
        assert_eq!(plan.value_bytes, Span { min: 10, max: 4096 });
        assert_eq!(plan.cpus, [0, 1]);
        assert_eq!(plan.core_ports, Some(CorePorts { base: 12_000, cores: 2, seed: 0 }));
    }

    #[test]
    fn a_peer_may_speak_a_protocol_of_its_own() {
        let peer = parse_peer("redis=resp@127.0.0.1:6379").unwrap();
        assert_eq!((peer.name.as_str(), peer.protocol), ("redis", Some(Protocol::Resp)));
        assert_eq!(peer.target, "127.0.0.1:6379".parse().unwrap());
        assert_eq!(parse_peer("a=127.0.0.1:1").unwrap().protocol, None);
        for wrong in ["127.0.0.1:1", "=127.0.0.1:1", "a=http@127.0.0.1:1", "a=resp@"] {
            assert!(parse_peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn defaults_are_the_plans_defaults() {
        let plan = Options::parse_from(["seawall-load"]).run.plan();
        assert_eq!(format!("{plan:?}"), format!("{:?}", Plan::default()));
    }
}
