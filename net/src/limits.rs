//! Every bound of a connection, with the reason for its value.
//!
//! Nothing here is a guess that grows at run time: a client that pipelines
//! without reading, dribbles a value in byte by byte or asks for a million
//! keys meets one of these numbers and waits.

/// Values up to this length are collected in the connection's input before
/// they are stored, and copied straight into its output when they are read.
/// Longer ones arrive through a reservation and leave through a pin, piece by
/// piece. Equal to one receive buffer, so that a small value never waits for
/// more than one extra read.
pub const INLINE_VALUE_BYTES_MAX: usize = 16 * 1024;

/// Default of how long a large value waits while too many others are arriving
/// (milliseconds). Honest clients send the rest of theirs within a fraction of
/// it; after it, only clients that stopped in the middle can be in the way.
pub const ARRIVING_WAIT_MS: u64 = 1_000;

/// Connections of a core that wait so; further ones are refused at once.
/// Otherwise clients that leave in the middle of their value would pile up here
/// until nobody else can connect.
pub const ARRIVING_QUEUE_MAX: usize = 64;

/// Values read that are longer than this are pinned and copied into the output
/// piecewise. A few receive windows: below it the pin's bookkeeping costs more
/// than the bytes it keeps out of the output.
pub const PIN_VALUE_BYTES_MIN: usize = 64 * 1024;

/// The same in a batch whose answers take much room already.
pub const PIN_VALUE_BYTES_MIN_CROWDED: usize = 2 * 1024;

/// Bytes of values of one connection that are copied into a batch; beyond them
/// its longer values are pinned. A window of small ones.
pub const COPIED_BYTES_PER_CONNECTION: usize = 16 * 1024;

/// The same while a core's connections hold much.
pub const COPIED_BYTES_PER_CONNECTION_CROWDED: usize = 4 * 1024;

/// The same of all connections.
pub const COPIED_BYTES_PER_BATCH: usize = 128 * 1024;

/// A piece of a pinned value that is copied into the output at once.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A command line without its newline may be this long; then memcached closes
/// the connection unless it is a `get` or `gets`.
pub const LINE_BYTES_MAX: usize = 2048;

/// A `get` line longer than this is answered while it arrives. Below it the
/// line is complete before its first key is looked up, as in memcached, so
/// that a key too long anywhere in it yields the error alone.
pub const MULTIGET_LINE_BYTES_MAX: usize = 16 * 1024;

/// Tokens of a command line, its terminator included; memcached's number. What
/// is beyond it counts as one rest.
pub const TOKENS_MAX: usize = 24;

/// Tokens that a meta command may have, its terminator included.
pub const META_TOKENS_MAX: usize = 20;

/// Longest opaque of a meta command, the `O` included.
pub const OPAQUE_BYTES_MAX: usize = 32;

/// Default of the output that a connection may pile up before it stops
/// executing: four send calls' worth of a usual socket buffer.
pub const OUTPUT_BYTES_HIGH_WATER: usize = 256 * 1024;

/// The same while a core's connections hold an eighth of their bound ...
pub const CROWDED_OUTPUT_BYTES: usize = 32 * 1024;

/// ... and a quarter. A client that does not read then costs a page or two, of
/// which the default bound has room for thousands.
pub const TIGHT_OUTPUT_BYTES: usize = 4 * 1024;

/// Output of one turn, of all connections together, after which it counts as
/// long. To copy and send it takes some tenths of a millisecond, and a request for
/// another core's key waits for three turns.
pub const TURN_OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Requests of one turn after which it counts as long.
pub const TURN_REQUESTS_MAX: u32 = 2048;

/// What each further connection may put out in a long turn, if it has asked only in
/// this one: enough for whoever asks for little. The others wait for the next turn.
pub const LONG_TURN_OUTPUT_BYTES: usize = 4 * 1024;

/// Requests that each further connection may execute in a long turn.
pub const LONG_TURN_REQUESTS: u32 = 32;

/// Receives in a row that a connection takes without anything left over before
/// it is received from by multishot. One multishot receive may bring 32
/// buffers at once, so a connection that cannot go on would pile them up.
pub const CALM_RECEIVES_MIN: u8 = 16;

/// Default of the requests of one connection that may be under way on other
/// cores. Enough to fill a batch for every peer, and small enough that 10,000
/// greedy connections stay within a few hundred megabytes of answers.
pub const HOPS_IN_FLIGHT_MAX: usize = 1024;

/// The same while a core's connections hold an eighth of their bound ...
pub const CROWDED_HOPS_MAX: usize = 64;

/// ... and a quarter.
pub const TIGHT_HOPS_MAX: usize = 8;

/// What an answer from another core is expected to be long before the first has
/// come. Later it is told from those that came.
pub const ANSWER_BYTES_EXPECTED: usize = 1024;

/// Default of the requests of one connection executed in one loop turn before
/// the others get theirs (memcached's `-R`, which defaults to 20 because there
/// each costs a system call; here a turn sends all of them at once).
pub const REQUESTS_PER_TURN_MAX: u32 = 512;

/// Requests looked ahead in the input, so that their cache lines arrive while
/// the ones before are executed.
pub const PREFETCH_WINDOW: usize = 16;

/// A batch is closed and a new one begun when it holds this many requests ...
pub const BATCH_REQUESTS_MAX: usize = 1024;

/// ... or this many bytes of keys and values.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Batches that may wait for, or travel to, one peer. A peer that far behind
/// is busy; the connections that need it wait.
pub const BATCHES_PER_PEER_MAX: usize = 4;

/// Watchers at once; memcached's number.
pub const WATCHERS_MAX: u32 = 20;

/// Default size of a watcher's log buffer; what does not fit is counted as
/// skipped (memcached's `watcher_logbuf_size`).
pub const WATCHER_LOG_BYTES: usize = 256 * 1024;

/// Bytes of one answer to a dump's step.
pub const DUMP_CHUNK_BYTES: usize = 32 * 1024;

/// Text of one `stats cachedump`, its `END` included: memcached's 2 MiB.
pub const CACHEDUMP_BYTES_MAX: usize = 2 << 20;

/// Prefixes counted by `stats detail` on one core; later ones are ignored.
pub const DETAIL_PREFIXES_MAX: usize = 4096;

/// Longest SASL message; memcached bounds it by its largest unchunked item.
pub const SASL_BYTES_MAX: usize = 4096;
