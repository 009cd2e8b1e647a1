//! Counters of the protocols, one set per core.

/// What a core counts that the engine does not see.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreStats {
    /// Bytes received. The reactor counts them.
    pub bytes_read: u64,
    /// Bytes sent. The reactor counts them.
    pub bytes_written: u64,
    /// Connections closed for silence. The reactor counts them.
    pub idle_kicks: u64,
    /// Turns in which a connection used up its share.
    pub conn_yields: u64,
    /// Requests executed for other cores.
    pub hops_served: u64,
    /// Requests sent to other cores.
    pub hops_sent: u64,
    /// Requests for keys of this core by its own connections.
    pub local_requests: u64,
    /// `flush_all` commands.
    pub cmd_flush: u64,
    /// `me` and other meta commands that memcached counts.
    pub cmd_meta: u64,
    /// Logins tried.
    pub auth_cmds: u64,
    /// Logins refused.
    pub auth_errors: u64,
    /// Values over `-I`.
    pub store_too_large: u64,
    /// Writes refused for want of memory.
    pub store_no_memory: u64,
    /// Turns of the loop. The reactor counts them.
    pub turns: u64,
    /// Bytes held in connection buffers now. The reactor keeps it.
    pub buffer_bytes: u64,
    /// Connections on this core now. The reactor keeps it.
    pub connections: u64,
}
