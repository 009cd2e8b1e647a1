//! Addresses of host names, for auto-discovery.
//!
//! Asking a resolver may take seconds, so neither a core nor the control thread does
//! it: they use what is [`known`](Names::known), and ask for the rest in the background.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// An answer is asked for anew after so long, when there is a reason to.
const KEPT: Duration = Duration::from_secs(10);

/// Names and their addresses.
#[derive(Debug, Default)]
pub struct Names(Mutex<BTreeMap<String, (Option<IpAddr>, Instant)>>);

impl Names {
    /// Addresses that are known of names.
    pub fn known(&self) -> BTreeMap<String, IpAddr> {
        let names = self.0.lock().expect("no holder panics");
        names.iter().filter_map(|(name, (ip, _))| Some((name.clone(), (*ip)?))).collect()
    }

    /// Those of the names that should be asked for. Others are forgotten.
    pub fn due(&self, hosts: impl Iterator<Item = String>) -> Vec<String> {
        let hosts: Vec<String> = hosts.filter(|host| host.parse::<IpAddr>().is_err()).collect();
        let mut names = self.0.lock().expect("no holder panics");
        names.retain(|name, _| hosts.contains(name));
        let is_due = |host: &String| names.get(host).is_none_or(|(_, at)| at.elapsed() > KEPT);
        hosts.into_iter().filter(is_due).collect()
    }

    /// Asks for them, which may take long. True if an address is another one now.
    pub fn ask(&self, hosts: Vec<String>) -> bool {
        let mut changed = false;
        for host in hosts {
            let ip = resolve(&host);
            let mut names = self.0.lock().expect("no holder panics");
            let before = names.insert(host, (ip, Instant::now()));
            changed |= before.and_then(|(ip, _)| ip) != ip;
        }
        changed
    }
}

/// The address of a host: of several the first of IPv4, which every client can use,
/// then the first. It may take long.
pub fn resolve(host: &str) -> Option<IpAddr> {
    let found: Vec<IpAddr> = (host, 0).to_socket_addrs().ok()?.map(|found| found.ip()).collect();
    preferred(&found)
}

fn preferred(found: &[IpAddr]) -> Option<IpAddr> {
    found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_one_of_ipv4_is_taken() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(preferred(&[ip("::1"), ip("127.0.0.1"), ip("10.0.0.1")]), Some(ip("127.0.0.1")));
        assert_eq!(preferred(&[ip("fd00::2"), ip("fd00::1")]), Some(ip("fd00::2")));
        assert_eq!(preferred(&[]), None);
    }

    #[test]
    fn a_name_is_asked_for_once_and_an_address_never() {
        let names = Names::default();
        let hosts = || ["10.0.0.7", "localhost", "::1"].map(str::to_owned).into_iter();
        let due = names.due(hosts());
        assert_eq!(due, ["localhost"]);
        assert!(names.ask(due) && names.due(hosts()).is_empty());
        assert!(names.known()["localhost"].is_loopback());
        assert!(names.due(std::iter::empty()).is_empty() && names.known().is_empty());
    }
}
