//! Where auto-discovery sends clients.

use super::say;
use crate::settings::{Advertise, Advertised, Config};
use std::net::{IpAddr, SocketAddr};

/// memcached's port, for a node that listens on a Unix socket alone.
const PORT_DEFAULT: u16 = 11_211;

/// Host, address and port that clients are sent to.
pub fn advertised(config: &Config) -> Advertised {
    let (host, port) = host_and_port(config, config.tcp.first().copied());
    Advertised { ip: address(config, &host), host, port }
}

/// As configured, else as listened on, else as advertised to other nodes.
fn host_and_port(config: &Config, tcp: Option<SocketAddr>) -> (String, u16) {
    let port = tcp.map_or(PORT_DEFAULT, |address| address.port());
    if let Some(given) = &config.advertise {
        return (given.host.clone(), given.port.unwrap_or(port));
    }
    if let Some(address) = tcp.filter(|address| !address.ip().is_unspecified()) {
        return (address.ip().to_string(), port);
    }
    // It is HOST:PORT, checked with the other settings.
    let of_peers = config.cluster.as_ref().and_then(|cluster| Advertise::parse(&cluster.advertise));
    (of_peers.map_or_else(|| "127.0.0.1".into(), |peers| peers.host), port)
}

/// The address of that host, if it was given or can be found now.
fn address(config: &Config, host: &str) -> Option<IpAddr> {
    let given = config.advertise.as_ref().and_then(|given| given.ip);
    let found = given.or_else(|| host.parse().ok()).or_else(|| crate::names::resolve(host));
    if found.is_none() {
        say(&format!("the advertised host {host} has no address here; clients get its name alone"));
    }
    found
}
