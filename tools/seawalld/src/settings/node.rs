//! The settings of the node: what goes from the table's rows to the cores as it is.

use super::choices::{self, Pin};
use super::{Config, Effective};
use engine::{Eviction, HashSeed, ShardConfig};
use net::auth::Users;
use net::core::Settings;
use net::listener::ListenAddress;
use net::node::NodeConfig;
use net::reactor::ReactorOptions;
use net::sys::{BackendOptions, affinity};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Completion queue entries for each submission queue entry.
const COMPLETIONS_A_SUBMISSION: u32 = 4;
/// Connections' buffers, unless said: this part of the memory limit, at least so much.
const CONNECTIONS_MEMORY_PART: u64 = 4;
const CONNECTIONS_MEMORY_MIN: u64 = 64 << 20;

/// Where clients are sent by auto-discovery.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// Host as configured.
    pub host: String,
    /// Its address, if known here.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

impl Config {
    /// The node's part of the configuration.
    pub fn node(
        &self,
        rows: &Effective,
        seed: &HashSeed,
        users: Users,
        advertised: Advertised,
    ) -> NodeConfig {
        let usable = affinity::usable_cores();
        let cores = self.cores.unwrap_or(usable as u32);
        let mut listen: Vec<ListenAddress> =
            self.tcp.iter().copied().map(ListenAddress::Tcp).collect();
        if let Some((path, mask)) = &self.unix {
            listen.push(ListenAddress::Unix { path: path.clone(), mask: *mask });
        }
        NodeConfig {
            settings: self.protocol(rows, advertised),
            users,
            cores: Some(cores),
            pin: match rows.choice("cores.pin", &choices::PIN) {
                Pin::Always => true,
                Pin::Never => false,
                Pin::Auto => cores as usize == usable,
            },
            listen,
            core_ports: self.core_ports,
            backend: rows.choice("io.backend", &choices::BACKEND),
            backend_options: BackendOptions {
                submissions: rows.number("io.ring_entries") as u32,
                completions: rows.number("io.ring_entries") as u32 * COMPLETIONS_A_SUBMISSION,
                receive_buffers: rows.number("io.receive_buffers") as u16,
                ..BackendOptions::default()
            },
            reactor: ReactorOptions {
                backlog_bytes_max: rows.number("connections.backlog_max") as usize,
                connection_bytes_max: connections_memory(rows) / cores as usize,
                busy_poll: Duration::from_micros(rows.number("io.busy_poll_us")),
                ..ReactorOptions::default()
            },
            shard: self.shard(rows, seed),
            seed: seed.clone(),
            huge_pages: self.large_pages,
            peering: None,
        }
    }

    /// What the protocols need.
    fn protocol(&self, rows: &Effective, advertised: Advertised) -> Settings {
        let tcp = self.tcp.first();
        Settings {
            memory_bytes_max: self.memory_bytes,
            connections_max: self.connections_max,
            connections_max_fast: rows.choice("connections.refuse_fast", &choices::REFUSE_FAST),
            tcp_port: tcp.map_or(0, |address| address.port()),
            listen: tcp.filter(|_| !self.tcp_any).map(|address| address.ip().to_string()),
            unix_socket: self.unix.as_ref().map(|(path, _)| path_text(path)),
            unix_mask: self.unix.as_ref().map_or(0o700, |(_, mask)| *mask),
            evictions: self.eviction != Eviction::None,
            eviction_policy: match self.eviction {
                Eviction::None => "none".into(),
                _ => rows.text("memory.eviction").into(),
            },
            shutdown_command: rows.switch("protocol.enable_shutdown"),
            prefix_delimiter: self.delimiter,
            detail: rows.is_given("namespace.delimiter"),
            requests_per_turn: rows.number("cores.requests_per_turn") as u32,
            cas: !rows.switch("protocol.disable_cas"),
            cas_bits: rows.choice("protocol.cas_bits", &choices::CAS_BITS),
            backlog: rows.number("listen.backlog") as u32,
            binding: rows.choice("protocol.only", &choices::PROTOCOL),
            sasl: self.sasl,
            auth_file: self.auth_file.as_deref().map(path_text),
            value_bytes_max: self.value_bytes_max as usize,
            flush: !rows.switch("protocol.disable_flush_all"),
            dump: !rows.switch("protocol.disable_dump"),
            watch: !rows.switch("protocol.disable_watch"),
            idle_timeout_seconds: rows.number("connections.idle_timeout") as u32,
            track_sizes: rows.switch("memory.track_sizes"),
            output_bytes_high_water: rows.number("connections.output_max") as usize,
            hops_in_flight_max: rows.number("connections.hops_max") as usize,
            arriving_bytes_max: rows.number("memory.arriving_max"),
            arriving_wait_ms: rows.number("memory.arriving_wait_ms"),
            advertise_host: advertised.host,
            advertise_ip: advertised.ip.map_or_else(String::new, |ip| ip.to_string()),
            advertise_port: advertised.port,
            ..Settings::default()
        }
    }

    /// What the engine needs.
    fn shard(&self, rows: &Effective, seed: &HashSeed) -> ShardConfig {
        ShardConfig {
            value_bytes_max: self.value_bytes_max as usize,
            eviction: self.eviction,
            versions: !rows.switch("protocol.disable_cas"),
            short_cas: rows.choice("protocol.cas_bits", &choices::CAS_BITS) == 32,
            access_times: rows.switch("memory.access_times"),
            namespaces: self.namespaces.clone(),
            namespace_delimiter: self.delimiter,
            tag_generations_max: rows.number("namespace.tag_generations_max") as usize,
            // Each clock may differ from the keeper's by so much.
            expired_kept_ms: self.cluster.as_ref().map_or(0, |cluster| 2 * cluster.skew_max_ms),
            ..ShardConfig::new(seed.clone(), self.memory_bytes as usize)
        }
    }
}

/// Bytes of all connections' buffers.
fn connections_memory(rows: &Effective) -> usize {
    match rows.number("connections.memory_max") {
        0 => {
            let part = rows.number("memory.limit") / CONNECTIONS_MEMORY_PART;
            part.max(CONNECTIONS_MEMORY_MIN) as usize
        }
        bytes => bytes as usize,
    }
}

fn path_text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::collect;
    use net::core::Binding;
    use net::sys::BackendChoice;

    fn node(args: &[&str]) -> NodeConfig {
        let found = collect(args.iter().map(std::ffi::OsString::from), [], |_| unreachable!());
        assert_eq!(found.problems, []);
        let config = Config::new(&found.effective).unwrap();
        let advertised = Advertised { host: "a".into(), ip: None, port: 1 };
        config.node(&found.effective, &HashSeed::new(1), Users::default(), advertised)
    }

    #[test]
    fn each_word_reaches_the_node_as_what_it_means() {
        for (word, meaning) in [
            ("clock-pro", Eviction::ClockPro),
            ("lru", Eviction::Lru),
            ("lfu", Eviction::Lfu),
            ("s3-fifo", Eviction::S3Fifo),
        ] {
            let node = node(&["--eviction", word]);
            assert_eq!(node.shard.eviction, meaning);
            assert_eq!(node.settings.eviction_policy, word);
        }
        let none = node(&["-M"]);
        assert_eq!(none.shard.eviction, Eviction::None);
        assert_eq!(
            (none.settings.evictions, none.settings.eviction_policy.as_str()),
            (false, "none")
        );
        let one = node(&["--io-backend", "io_uring", "-B", "binary", "--pin-cores", "yes"]);
        assert_eq!(
            (one.backend, one.settings.binding, one.pin),
            (BackendChoice::Uring, Binding::Binary, true)
        );
        let other = node(&[
            "--io-backend",
            "epoll",
            "-B",
            "ascii",
            "--pin-cores",
            "no",
            "--cas-bits",
            "32",
        ]);
        assert_eq!(
            (other.backend, other.settings.binding, other.pin),
            (BackendChoice::Epoll, Binding::Ascii, false)
        );
        assert!(other.shard.short_cas && !one.shard.short_cas);
        assert_eq!((other.settings.cas_bits, one.settings.cas_bits), (32, 64));
    }

    #[test]
    fn buffers_of_connections_follow_the_memory_limit_unless_said() {
        let bytes = |args: &[&str]| node(args).reactor.connection_bytes_max;
        assert_eq!(bytes(&["-t", "2"]), 32 << 20);
        assert_eq!(bytes(&["-t", "2", "-m", "1g"]), 128 << 20);
        assert_eq!(bytes(&["-t", "2", "--connections-memory-max", "10m"]), 5 << 20);
    }
}
