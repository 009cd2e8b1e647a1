//! The first lines of the log: what runs, on what, and where it listens.

use super::{Server, say};
use crate::settings::{Config, value};
use engine::Eviction;
use std::net::SocketAddr;

impl Server {
    /// Logs them.
    pub(super) fn banner(&self, admin: Option<SocketAddr>) {
        let config = &self.config;
        let cores = self.node.cores();
        let count = |number: usize, word: &str| {
            format!("{number} {word}{}", if number == 1 { "" } else { "s" })
        };
        say(&format!("version {}", env!("CARGO_PKG_VERSION")));
        match self.node.refusal() {
            Some(refusal) => say(&refusal.to_string()),
            None => say(&format!("sockets: {}", cores[0].backend.name())),
        }
        let pinned = cores
            .iter()
            .filter_map(|core| core.processor)
            .map(|cpu| cpu.to_string())
            .collect::<Vec<_>>();
        let pinned = if pinned.is_empty() {
            String::new()
        } else {
            format!(", pinned to CPU {}", pinned.join(", "))
        };
        say(&format!("{}{pinned}", count(cores.len(), "core")));
        say(&format!(
            "memory: {} MiB, {} pages, values up to {}, eviction {}",
            config.memory_bytes >> 20,
            match cores[0].pages {
                net::sys::memory::Pages::Ordinary => "ordinary",
                net::sys::memory::Pages::Transparent => "transparent huge",
                net::sys::memory::Pages::Explicit => "explicit huge",
            },
            value::bytes_text(config.value_bytes_max),
            match config.eviction {
                Eviction::None => "off",
                _ => &self.node.shared().settings.eviction_policy,
            },
        ));
        if let Some(warning) = huge_pages_missing(config, cores) {
            say(&warning);
        }
        let addresses: Vec<String> =
            self.node.addresses().iter().map(ToString::to_string).collect();
        say(&format!("listening on {}", addresses.join(", ")));
        if let Some(admin) = admin {
            say(&format!("admin API on http://{admin}"));
        }
    }
}

/// What to say if `-L` found too few huge pages in the system's pool.
fn huge_pages_missing(config: &Config, cores: &[net::node::CoreInfo]) -> Option<String> {
    use net::sys::memory::{HUGE_PAGE_BYTES, Pages};
    let without = cores.iter().filter(|core| core.pages != Pages::Explicit).count();
    if !config.large_pages || without == 0 {
        return None;
    }
    let count = cores.len() as u64;
    let pages = (config.memory_bytes / count).div_ceil(HUGE_PAGE_BYTES as u64) * count;
    Some(format!(
        "WARNING: -L asks for explicit huge pages, and the system has too few of them: \
         {without} of {count} cores go without\n  to reserve them:  sysctl vm.nr_hugepages={pages}"
    ))
}
