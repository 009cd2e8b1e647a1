//! Connections by address, and the routing that everybody uses now.

use crate::connection::Endpoint;
use crate::counters::Counting;
use crate::options::ClientOptions;
use crate::routing::{Routing, Topology};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::Notify;

/// See the module's text.
#[derive(Debug)]
pub struct Pool {
    options: Arc<ClientOptions>,
    counting: Arc<Counting>,
    alarm: Arc<Notify>,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
    routing: RwLock<Arc<Routing>>,
}

impl Pool {
    /// Knows the configured servers only.
    pub fn new(options: Arc<ClientOptions>, counting: Arc<Counting>, alarm: Arc<Notify>) -> Pool {
        let none = Routing::new(Topology::NotBegun, Vec::new(), |_| unreachable!("no nodes"));
        let routing = RwLock::new(Arc::new(none));
        let pool = Pool { options, counting, alarm, endpoints: Mutex::default(), routing };
        pool.install(Topology::NotBegun);
        pool
    }

    /// How keys find their owners now.
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.read().expect("no holder panics").clone()
    }

    /// Goes by `topology` from now on. Connections to addresses that are still
    /// there stay, but for those to nodes that are down; others end when their
    /// answers are there.
    pub fn install(&self, topology: Topology) {
        let mut known = self.endpoints.lock().expect("no holder panics");
        let mut kept: HashMap<String, Arc<Endpoint>> = HashMap::new();
        let mut endpoint = |address: &str| {
            let made = kept
                .entry(address.to_owned())
                .or_insert_with(|| known.remove(address).unwrap_or_else(|| self.start(address)));
            made.clone()
        };
        let servers = self.options.servers.iter().map(|server| endpoint(server)).collect();
        let routing = Routing::new(topology, servers, endpoint);
        let routing = Arc::new(routing);
        *self.routing.write().expect("no holder panics") = routing.clone();
        *known = kept;
        // After the change: who is sent away finds the new owner.
        routing.down().for_each(|endpoint| endpoint.cut());
    }

    fn start(&self, address: &str) -> Arc<Endpoint> {
        let (options, counting) = (self.options.clone(), self.counting.clone());
        Arc::new(Endpoint::new(address, options, counting, self.alarm.clone()))
    }
}
