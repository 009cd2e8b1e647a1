//! `--advertise`: where clients with auto-discovery find this node.

use std::net::IpAddr;

/// A host, and what else was said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A name or an address, without brackets.
    pub host: String,
    /// Its address, where it was given beside a name.
    pub ip: Option<IpAddr>,
    /// None: the port that is listened on.
    pub port: Option<u16>,
}

impl Advertise {
    /// Reads `HOST`, `HOST:PORT`, `[IPV6]:PORT` or `HOST|IP|PORT`.
    pub fn parse(text: &str) -> Option<Advertise> {
        if let Some((host, rest)) = text.split_once('|') {
            let (ip, port) = rest.split_once('|')?;
            let ip = if ip.is_empty() { None } else { Some(bare(ip).parse().ok()?) };
            return Advertise { host: bare(host).into(), ip, port: Some(port.parse().ok()?) }
                .checked();
        }
        if let Ok(ip) = bare(text).parse::<IpAddr>() {
            return Some(Advertise { host: ip.to_string(), ip: None, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        Advertise { host: bare(host).into(), ip: None, port }.checked()
    }

    fn checked(self) -> Option<Advertise> {
        let is_address = self.host.parse::<IpAddr>().is_ok();
        let is_name = !self.host.contains(|c: char| c.is_whitespace() || ":|[]/".contains(c));
        let is_host = !self.host.is_empty() && (is_address || is_name);
        (is_host && self.port != Some(0)).then_some(self)
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::Advertise;

    #[test]
    fn every_way_to_say_it_is_read() {
        let ip = |text: &str| Some(text.parse().unwrap());
        for (text, host, address, port) in [
            ("cache.example", "cache.example", None, None),
            ("cache.example:11311", "cache.example", None, Some(11_311)),
            ("10.0.0.7", "10.0.0.7", None, None),
            ("10.0.0.7:1", "10.0.0.7", None, Some(1)),
            ("::1", "::1", None, None),
            ("[::1]", "::1", None, None),
            ("[fd00::7]:11311", "fd00::7", None, Some(11_311)),
            ("cache.example|10.0.0.7|5", "cache.example", ip("10.0.0.7"), Some(5)),
            ("cache.example||5", "cache.example", None, Some(5)),
            ("a|fd00::7|5", "a", ip("fd00::7"), Some(5)),
        ] {
            let expected = Advertise { host: host.into(), ip: address, port };
            assert_eq!(Advertise::parse(text), Some(expected), "{text}");
        }
        for text in
            ["", ":1", "a:b", "a:0", "a|b|1", "a|10.0.0.7", "a|10.0.0.7|", "a b", "http://a:1"]
        {
            assert_eq!(Advertise::parse(text), None, "{text}");
        }
    }
}
