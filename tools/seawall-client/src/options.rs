//! Every limit and its default.

use std::time::Duration;

/// How to reach the servers, and the bounds of everything.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// `HOST:PORT` of one node, or of any nodes of a cluster: they are asked for
    /// the others, and asked again when no known node answers.
    pub servers: Vec<String>,
    /// User and password of a node that was started with `--auth-file`.
    pub login: Option<(String, String)>,
    /// Connections to every core (or node, without core ports); 1. A second one
    /// helps when large values hold up small ones.
    pub connections: usize,
    /// Requests sent on a connection whose answers have not come; 1024, as many
    /// as a node lets one connection have under way.
    pub in_flight_max: usize,
    /// Requests that wait for a place on a connection; 4096. Who comes then
    /// waits until there is room, or the time is over.
    pub queue_max: usize,
    /// Time to make a connection; one second.
    pub connect_timeout: Duration,
    /// Time for a request with all that is tried; three seconds. A cluster
    /// replaces a dead node in less than one, and a node holds a request for
    /// two before it says that nobody takes it.
    pub request_timeout: Duration,
    /// Time after which a read asks another node; one second.
    pub attempt_timeout: Duration,
    /// Time for an invalidation or a flush, which wait for every node; five
    /// seconds, as a node waits three for the others.
    pub sweep_timeout: Duration,
    /// A connection on which answers are due and nothing comes is given up after
    /// this long; six seconds, longer than anything may take.
    pub stall_timeout: Duration,
    /// Attempts beyond the first; 16.
    pub retries_max: u32,
    /// Pause before the second retry (the first is immediate). It doubles up to
    /// sixteen times this; 10 ms.
    pub backoff: Duration,
    /// How often the topology's revision is asked for; one second.
    pub poll_interval: Duration,
    /// Loaders that [`Client::get_or_load`](crate::Client::get_or_load) runs at a
    /// time; 1024. Whoever comes then waits, and what would be refilled behind a
    /// reader's back stays stale.
    pub loads_max: usize,
}

impl ClientOptions {
    /// The defaults, with these servers.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> ClientOptions {
        ClientOptions {
            servers: servers.into_iter().map(Into::into).collect(),
            login: None,
            connections: 1,
            in_flight_max: 1024,
            queue_max: 4096,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(1),
            sweep_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(6),
            retries_max: 16,
            backoff: Duration::from_millis(10),
            poll_interval: Duration::from_secs(1),
            loads_max: 1024,
        }
    }
}

/// How a value is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetOptions {
    /// Time to live; none: until it is evicted.
    pub ttl: Option<Duration>,
    /// The client flags that a read gives back.
    pub flags: u32,
    /// Up to 16 tags, by which the item can be invalidated.
    pub tags: Vec<String>,
}

impl SetOptions {
    /// With this time to live, to the millisecond up to 30 days, beyond that to
    /// the second by this machine's clock.
    pub fn ttl(mut self, ttl: Duration) -> SetOptions {
        self.ttl = Some(ttl);
        self
    }

    /// With these client flags.
    pub fn flags(mut self, flags: u32) -> SetOptions {
        self.flags = flags;
        self
    }

    /// With one more tag.
    pub fn tag(mut self, tag: impl Into<String>) -> SetOptions {
        self.tags.push(tag.into());
        self
    }
}

/// How a number is counted up or down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CounterOptions {
    /// Create the number with this value if it is not there.
    pub initial: Option<u64>,
    /// Time to live of a number that is created; none: until it is evicted.
    pub ttl: Option<Duration>,
}

impl CounterOptions {
    /// Creates the number with this value if it is not there.
    pub fn initial(mut self, initial: u64) -> CounterOptions {
        self.initial = Some(initial);
        self
    }

    /// Time to live of a number that is created.
    pub fn ttl(mut self, ttl: Duration) -> CounterOptions {
        self.ttl = Some(ttl);
        self
    }
}

/// How [`Client::get_or_load`](crate::Client::get_or_load) loads and stores.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Time to live of what is loaded; none: until it is evicted.
    pub ttl: Option<Duration>,
    /// Client flags of what is loaded.
    pub flags: u32,
    /// Tags of what is loaded, besides those that the loader gives.
    pub tags: Vec<String>,
    /// How long a value may be served after its `ttl` while somebody refills it,
    /// rounded up to seconds. Also allows values that were marked stale.
    pub stale_for: Option<Duration>,
    /// Remember for this long that the origin has nothing; none: ask it each time.
    pub negative_ttl: Option<Duration>,
    /// Share of `ttl` that may be taken off at random, from 0 to 1, so that what
    /// was filled together does not expire together.
    pub ttl_jitter: f64,
    /// How long others wait for whoever refills before they may do it; 10 s.
    pub lease: Duration,
    /// Time for a load; as long as the default lease. Longer than the lease is
    /// in vain: somebody else loads by then.
    pub load_timeout: Duration,
    /// Report an error when the cache cannot be asked, instead of loading
    /// without it.
    pub needs_cache: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            ttl: None,
            flags: 0,
            tags: Vec::new(),
            stale_for: None,
            negative_ttl: None,
            ttl_jitter: 0.0,
            lease: Duration::from_secs(10),
            load_timeout: Duration::from_secs(10),
            needs_cache: false,
        }
    }
}

impl LoadOptions {
    /// With this time to live.
    pub fn ttl(mut self, ttl: Duration) -> LoadOptions {
        self.ttl = Some(ttl);
        self
    }

    /// With these client flags.
    pub fn flags(mut self, flags: u32) -> LoadOptions {
        self.flags = flags;
        self
    }

    /// With one more tag.
    pub fn tag(mut self, tag: impl Into<String>) -> LoadOptions {
        self.tags.push(tag.into());
        self
    }

    /// Serves values this long after their time to live while somebody refills.
    pub fn stale_for(mut self, time: Duration) -> LoadOptions {
        self.stale_for = Some(time);
        self
    }

    /// Remembers for this long that the origin has nothing.
    pub fn negative_ttl(mut self, ttl: Duration) -> LoadOptions {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Takes up to this share off each time to live, at random.
    pub fn ttl_jitter(mut self, share: f64) -> LoadOptions {
        self.ttl_jitter = share;
        self
    }

    /// Lets others wait this long for whoever refills.
    pub fn lease(mut self, lease: Duration) -> LoadOptions {
        self.lease = lease;
        self
    }

    /// With this time for a load.
    pub fn load_timeout(mut self, timeout: Duration) -> LoadOptions {
        self.load_timeout = timeout;
        self
    }

    /// Reports an error when the cache cannot be asked.
    pub fn needs_cache(mut self) -> LoadOptions {
        self.needs_cache = true;
        self
    }
}
