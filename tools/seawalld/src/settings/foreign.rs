//! Environment variables that begin as ours do and are not ours.
//!
//! For every Service of its namespace, Kubernetes puts "service links" into each
//! container's environment. A Service called `seawall`, or `seawall-listen`, thus
//! brings `SEAWALL_PORT=tcp://10.0.0.7:11211`, `SEAWALL_LISTEN_PORT=tcp://...` and more,
//! the second of which even has the name of a setting.

/// Variables of `seawallctl`, which may run in the same environment.
const OF_SEAWALLCTL: [&str; 2] = ["SEAWALL_SERVER", "SEAWALL_ADMIN"];

/// Protocols of a Service's port.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Whether `seawallctl` reads it.
pub fn is_of_seawallctl(name: &str) -> bool {
    OF_SEAWALLCTL.contains(&name)
}

/// Whether the variable is one that Kubernetes makes for a Service:
///
/// ```text
/// X_SERVICE_HOST   X_SERVICE_PORT   X_SERVICE_PORT_NAME
/// X_PORT=tcp://10.0.0.7:11211
/// X_PORT_11211_TCP=tcp://10.0.0.7:11211   and   ..._PROTO   ..._PORT   ..._ADDR
/// ```
pub fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") {
        return true;
    }
    if name.contains("_SERVICE_PORT_") || is_port_link(name) {
        return true;
    }
    let protocol = value.split_once("://").map(|(protocol, _)| protocol);
    name.ends_with("_PORT") && protocol.is_some_and(|protocol| PROTOCOLS.contains(&protocol))
}

/// `X_PORT_11211_TCP`, with or without an ending.
fn is_port_link(name: &str) -> bool {
    let endings = ["_PROTO", "_PORT", "_ADDR"];
    let bare = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let Some((rest, protocol)) = bare.rsplit_once('_') else { return false };
    let Some((rest, port)) = rest.rsplit_once('_') else { return false };
    PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(protocol))
        && port.parse::<u16>().is_ok()
        && rest.ends_with("_PORT")
}

/// What to say of the links that were ignored.
pub fn note(links: &[String]) -> Option<String> {
    let first = links.first()?;
    let more = match links.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "ignoring {first}{more} in the environment: Kubernetes made them for a Service whose name begins with seawall (enableServiceLinks: false keeps them away)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::table::SETTINGS;

    #[test]
    fn every_variable_of_a_service_is_known() {
        let address = "tcp://10.0.0.7:11211";
        for service in ["SEAWALL", "SEAWALL_LISTEN", "SEAWALL_CLUSTER", "SEAWALL_A_B"] {
            for (ending, value) in [
                ("SERVICE_HOST", "10.0.0.7"),
                ("SERVICE_PORT", "11211"),
                ("SERVICE_PORT_MEMCACHED", "11211"),
                ("PORT", address),
                ("PORT", "udp://10.0.0.7:53"),
                ("PORT", "sctp://[fd00::1]:5"),
                ("PORT_11211_TCP", address),
                ("PORT_11211_TCP_PROTO", "tcp"),
                ("PORT_11211_TCP_PORT", "11211"),
                ("PORT_11211_TCP_ADDR", "10.0.0.7"),
                ("PORT_53_UDP_ADDR", "10.0.0.7"),
                ("PORT_5_SCTP", "sctp://10.0.0.7:5"),
            ] {
                assert!(
                    is_service_link(&format!("{service}_{ending}"), value),
                    "{service}_{ending}"
                );
            }
        }
    }

    #[test]
    fn no_setting_is_taken_for_one() {
        for setting in SETTINGS {
            for value in ["", "11211", "etcd://10.0.0.7:2379", setting.default] {
                assert!(!is_service_link(&setting.env(), value), "{}={value}", setting.env());
            }
        }
    }
}
