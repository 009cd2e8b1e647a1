//! Listeners of the control thread: the admin API, and other nodes of a cluster.

use net::listener::{ADDRESS_PATIENCE, ADDRESS_RETRY};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// Listens. An address in use is tried for a while: a process that was killed a
/// moment ago may still hold it.
pub async fn patiently(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && began.elapsed() < ADDRESS_PATIENCE =>
            {
                sleep(ADDRESS_RETRY).await;
            }
            outcome => return outcome,
        }
    }
}
