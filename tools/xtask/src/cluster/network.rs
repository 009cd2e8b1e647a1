//! Hosts that a switch connects, and what the switch drops.
//!
//! The calling thread moves into a network of its own and becomes the host that
//! clients run on; every other host is a network that a sleeping child holds.
//! They are joined by a bridge, whose filter plays the broken cables. Nothing
//! here has a name outside, so when this process ends, however that happens,
//! everything is gone with it.
//!
//! ```text
//!  clients 10.77.0.1 ── bridge ──┬── veth 1 ── host 1, 10.77.0.11
//!                      (nft)     ├── veth 2 ── host 2, 10.77.0.12
//!                                └── ...
//! ```

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::slow::SlowCable;
use crate::{install, process};

const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses that a packet may have. Hosts are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Host(usize),
    Clients,
}

impl End {
    pub fn address(self) -> Ipv4Addr {
        match self {
            End::Host(host) => Ipv4Addr::new(10, 77, 0, 11 + host as u8),
            End::Clients => Ipv4Addr::new(10, 77, 0, 1),
        }
    }
}

/// The hosts. Dropped, they are gone.
#[derive(Debug)]
pub struct Network {
    holders: Vec<Child>,
}

impl Network {
    /// Connects so many hosts. To be called on a thread that ends afterwards: it
    /// can't go back to the machine's own network.
    pub fn new(hosts: usize) -> Result<Network> {
        install::apt(&["nftables"], &["nft"])?;
        install::apt(&["iptables"], &["iptables"])?;
        install::apt(&["iproute2"], &["ip"])?;
        process::leave_network().context("cannot make a network (are you root?)")?;
        let mut network = Network { holders: Vec::new() };
        shell(&format!(
            "ip link set lo up && ip link add switch type bridge \
             && ip addr add {}/24 dev switch && ip link set switch up",
            End::Clients.address()
        ))?;
        for host in 0..hosts {
            network.add(host)?;
        }
        shell(
            "nft 'add table bridge cables \
             ; add chain bridge cables across { type filter hook forward priority 0; } \
             ; add chain bridge cables to_clients { type filter hook input priority 0; } \
             ; add chain bridge cables from_clients { type filter hook output priority 0; }'",
        )?;
        Ok(network)
    }

    fn add(&mut self, host: usize) -> Result<()> {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let holder = process::bind_to_parent(&mut holder).spawn().context("cannot unshare")?;
        let pid = holder.id();
        self.holders.push(holder);
        let ours = std::fs::read_link("/proc/thread-self/ns/net")?;
        for _ in 0..1_000 {
            let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net"))?;
            if theirs != ours {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let address = End::Host(host).address();
        shell(&format!(
            "ip link add host{host} type veth peer name eth0 netns {pid} \
             && ip link set host{host} master switch up \
             && nsenter -t {pid} -n sh -c 'ip link set lo up && ip addr add {address}/24 dev eth0 \
                && ip link set eth0 up'"
        ))
    }

    /// A command that will run on a host.
    pub fn command(&self, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holders[host].id().to_string(), "-n"]).arg(program);
        command
    }

    /// Packets of these pairs of sender and receiver are lost from here on,
    /// and no others.
    pub fn drop_packets(&self, pairs: &[(End, End)]) -> Result<()> {
        let mut script = String::from("flush table bridge cables");
        for (from, to) in pairs {
            let chain = match (from, to) {
                (_, End::Clients) => "to_clients",
                (End::Clients, _) => "from_clients",
                _ => "across",
            };
            let (from, to) = (from.address(), to.address());
            script.push_str(&format!(
                "; add rule bridge cables {chain} ip saddr {from} ip daddr {to} drop"
            ));
        }
        shell(&format!("nft '{script}'"))
    }

    /// All packets of a host take longer, and some are lost, while this lives.
    pub fn slow(&self, host: usize, seed: u64) -> Result<SlowCable> {
        SlowCable::new(self.holders[host].id(), seed)
    }

    /// All cables are whole.
    pub fn heal(&self) -> Result<()> {
        self.drop_packets(&[])
    }

    /// Every pair of a host and another, both ways; with clients or without.
    pub fn around(&self, host: usize, clients: bool) -> Vec<(End, End)> {
        let others = (0..self.holders.len()).filter(|other| *other != host).map(End::Host);
        let others = others.chain(clients.then_some(End::Clients));
        others.flat_map(|other| [(End::Host(host), other), (other, End::Host(host))]).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Runs it in the calling thread's network.
pub fn shell(script: &str) -> Result<()> {
    let (good, text) = process::capture(Command::new("sh").args(["-c", script]), PATIENCE)?;
    ensure!(good, "{script}:\n{text}");
    Ok(())
}
