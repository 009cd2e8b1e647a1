//! Where a request goes, and what is tried again.
//!
//! A read is tried until the time is over. A write is tried again only while it
//! surely was not executed: nobody took the connection, or a node says that it
//! did nothing. Otherwise its outcome is unknown, and that is what the caller
//! is told.

use crate::connection::{Endpoint, Failure, Pending};
use crate::counters::{Counting, count};
use crate::follow;
use crate::load::Flights;
use crate::options::ClientOptions;
use crate::pool::Pool;
use crate::protocol::{self, Answer, Code, Request, Shape};
use crate::routing::Topology;
use crate::{Counters, Error};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// The pause between retries doubles this often.
const BACKOFF_DOUBLINGS: u32 = 4;
/// Keys of a large get that travel as one.
const BATCH_MAX: usize = 64;

/// A client; clones share its connections. It must be used within the tokio
/// runtime that it was made in.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones share.
#[derive(Debug)]
pub struct Inner {
    pub options: Arc<ClientOptions>,
    pub counting: Arc<Counting>,
    pub pool: Pool,
    pub flights: Flights,
    alarm: Arc<Notify>,
    follower: std::sync::OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

/// Whether a request changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may be executed any number of times.
    Read,
    /// It may be executed once.
    Write,
    /// It waits for every node of a cluster, and may be repeated or not.
    Sweep {
        /// It may.
        again: bool,
    },
}

impl Kind {
    fn may_repeat(self) -> bool {
        matches!(self, Kind::Read | Kind::Sweep { again: true })
    }
}

impl Client {
    /// Asks the servers for the topology, the first one that answers counts.
    ///
    /// Fails if none does within the time for a request, or if several servers
    /// are given and they are no cluster: a key would have several homes.
    pub async fn connect(options: ClientOptions) -> Result<Client, Error> {
        check(&options)?;
        let options = Arc::new(options);
        let (counting, alarm) = (Arc::new(Counting::default()), Arc::new(Notify::new()));
        let pool = Pool::new(options.clone(), counting.clone(), alarm.clone());
        let flights = Flights::new(options.loads_max);
        let follower = std::sync::OnceLock::new();
        let inner =
            Arc::new(Inner { options, counting, pool, flights, alarm: alarm.clone(), follower });
        let topology = first_topology(&inner).await?;
        if topology == Topology::Single && inner.options.servers.len() > 1 {
            return Err(Error::client(
                "several servers that are no cluster: give one, or a client for each",
            ));
        }
        inner.pool.install(topology);
        let interval = inner.options.poll_interval;
        let task = tokio::spawn(follow::follow(Arc::downgrade(&inner), alarm, interval));
        let _ = inner.follower.set(task.abort_handle());
        Ok(Client { inner })
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.inner.counting.read()
    }

    /// The revision of the topology that requests go by; none for a node alone.
    pub fn topology_revision(&self) -> Option<u64> {
        self.inner.pool.routing().revision().map(|(revision, _)| revision)
    }

    /// Where requests for `key` go now: `HOST:PORT` of the owning core, or of
    /// whoever stands in for it.
    pub fn address_of(&self, key: impl AsRef<[u8]>) -> String {
        self.inner.pool.routing().pick(Some(key.as_ref()), 0).0.address().to_owned()
    }

    /// One request, with everything that may be tried.
    pub(crate) async fn ask(
        &self,
        key: Option<&[u8]>,
        request: Request,
        shape: Shape,
        kind: Kind,
    ) -> Result<Answer, Error> {
        count(&self.inner.counting.requests);
        let options = &self.inner.options;
        let time = match kind {
            Kind::Read | Kind::Write => options.request_timeout,
            Kind::Sweep { .. } => options.sweep_timeout,
        };
        let mut trial = Trial::new(&self.inner, time, options.retries_max);
        loop {
            let endpoint = trial.endpoint(key);
            let until = trial.until(kind);
            let outcome = endpoint.ask(request.clone(), shape, until).await;
            match trial.judge(outcome, &endpoint, kind) {
                Ok(answer) => return Ok(answer),
                Err(error) => trial.again(error).await?,
            }
        }
    }

    /// Many reads at once: those of one core travel together.
    pub(crate) async fn ask_many(
        &self,
        requests: Vec<(&[u8], Request)>,
    ) -> Vec<Result<Answer, Error>> {
        for _ in &requests {
            count(&self.inner.counting.requests);
        }
        let mut outcomes: Vec<Option<Result<Answer, Error>>> = vec![None; requests.len()];
        let mut missing: Vec<usize> = (0..requests.len()).collect();
        let options = &self.inner.options;
        let mut trial = Trial::new(&self.inner, options.request_timeout, options.retries_max);
        while !missing.is_empty() {
            let mut failed = Vec::new();
            for (endpoint, places, pending) in self.scatter(&requests, &missing, &mut trial).await {
                gather(&trial, &endpoint, &places, pending, &mut outcomes, &mut failed).await;
            }
            let Some((_, error)) = failed.first() else { break };
            if trial.again(error.clone()).await.is_err() {
                for (place, error) in failed {
                    outcomes[place] = Some(Err(trial.last(error)));
                }
                break;
            }
            missing = failed.into_iter().map(|(place, _)| place).collect();
        }
        outcomes.into_iter().map(|outcome| outcome.expect("each has an outcome")).collect()
    }

    /// Puts batches into the queues of the cores that own their keys.
    async fn scatter(
        &self,
        requests: &[(&[u8], Request)],
        places: &[usize],
        trial: &mut Trial<'_>,
    ) -> Vec<(Arc<Endpoint>, Vec<usize>, Result<Pending, Failure>)> {
        let mut batches: Vec<(Arc<Endpoint>, Vec<usize>)> = Vec::new();
        let mut open: HashMap<*const Endpoint, usize> = HashMap::new();
        for place in places {
            let endpoint = trial.endpoint(Some(requests[*place].0));
            let at = *open.entry(Arc::as_ptr(&endpoint)).or_insert(batches.len());
            match batches.get_mut(at).filter(|(_, batch)| batch.len() < BATCH_MAX) {
                Some((_, batch)) => batch.push(*place),
                None => {
                    open.insert(Arc::as_ptr(&endpoint), batches.len());
                    batches.push((endpoint, vec![*place]));
                }
            }
        }
        let until = trial.until(Kind::Read);
        let mut sent = Vec::with_capacity(batches.len());
        for (endpoint, places) in batches {
            let batch = places.iter().map(|place| requests[*place].1.clone()).collect();
            let pending = endpoint.begin(batch, Shape::Meta, until).await;
            sent.push((endpoint, places, pending));
        }
        sent
    }
}

/// Waits for a batch.
async fn gather(
    trial: &Trial<'_>,
    endpoint: &Arc<Endpoint>,
    places: &[usize],
    pending: Result<Pending, Failure>,
    outcomes: &mut [Option<Result<Answer, Error>>],
    failed: &mut Vec<(usize, Error)>,
) {
    let answers = match pending {
        Ok(pending) => pending.wait(trial.until(Kind::Read)).await,
        Err(failure) => Err(failure),
    };
    let answers: Vec<Result<Answer, Failure>> = match answers {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(failure) => vec![Err(failure); places.len()],
    };
    for (place, answer) in places.iter().zip(answers) {
        match trial.judge(answer, endpoint, Kind::Read) {
            Ok(answer) => outcomes[*place] = Some(Ok(answer)),
            Err(Verdict::Final(error)) => outcomes[*place] = Some(Err(error)),
            Err(Verdict::Again(error)) => failed.push((*place, error)),
        }
    }
}

fn check(options: &ClientOptions) -> Result<(), Error> {
    if options.servers.is_empty() {
        return Err(Error::client("no server is given"));
    }
    for (name, number) in [
        ("connections", options.connections),
        ("in_flight_max", options.in_flight_max),
        ("queue_max", options.queue_max),
        ("loads_max", options.loads_max),
    ] {
        if number == 0 {
            return Err(Error::client(format!("{name} is 0; 1 is the least")));
        }
    }
    Ok(())
}

async fn first_topology(inner: &Inner) -> Result<Topology, Error> {
    // A cluster that is being started has some seconds: time is the only bound.
    let mut trial = Trial::new(inner, inner.options.request_timeout, u32::MAX);
    loop {
        let endpoint = trial.endpoint(None);
        let why = match follow::topology(&endpoint, inner.options.attempt_timeout).await {
            Ok(Topology::NotBegun) => {
                format!("{}: its cluster has not begun", endpoint.address())
            }
            Ok(topology) => return Ok(topology),
            Err(why) => why,
        };
        trial.again(Verdict::Again(Error::Refused { why })).await?;
    }
}

/// What to do about a failure.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Try it again, if there is time.
    Again(Error),
    /// Tell the caller.
    Final(Error),
}

impl From<Error> for Verdict {
    fn from(error: Error) -> Verdict {
        Verdict::Again(error)
    }
}

/// One request's attempts.
struct Trial<'i> {
    inner: &'i Inner,
    began: Instant,
    time: Duration,
    attempt: u32,
    retries_max: u32,
}

impl<'i> Trial<'i> {
    fn new(inner: &'i Inner, time: Duration, retries_max: u32) -> Trial<'i> {
        Trial { inner, began: Instant::now(), time, attempt: 0, retries_max }
    }

    fn endpoint(&self, key: Option<&[u8]>) -> Arc<Endpoint> {
        let routing = self.inner.pool.routing();
        let (endpoint, detour) = routing.pick(key, self.attempt);
        if detour {
            count(&self.inner.counting.detours);
        }
        endpoint.clone()
    }

    fn deadline(&self) -> Instant {
        self.began + self.time
    }

    /// When this attempt is over: a read can be asked for elsewhere.
    fn until(&self, kind: Kind) -> Instant {
        match kind {
            Kind::Read => self.deadline().min(Instant::now() + self.inner.options.attempt_timeout),
            Kind::Write | Kind::Sweep { .. } => self.deadline(),
        }
    }

    /// An answer for the caller, or what to do.
    fn judge(
        &self,
        outcome: Result<Answer, Failure>,
        endpoint: &Endpoint,
        kind: Kind,
    ) -> Result<Answer, Verdict> {
        match outcome {
            Ok(answer) if !matches!(answer.code, Code::ServerError | Code::ClientError) => {
                Ok(answer)
            }
            Ok(answer) => Err(self.on_error(&answer, endpoint, kind)),
            Err(failure) => {
                if matches!(failure, Failure::Late { sent: true }) {
                    endpoint.avoid();
                    self.inner.alarm.notify_one();
                }
                let again = kind.may_repeat() || failure.is_not_executed();
                let error = self.error(failure, kind);
                Err(if again { Verdict::Again(error) } else { Verdict::Final(error) })
            }
        }
    }

    fn on_error(&self, answer: &Answer, endpoint: &Endpoint, kind: Kind) -> Verdict {
        let error = protocol::error_of(answer);
        if !protocol::is_passing(answer) {
            return Verdict::Final(error);
        }
        // A node has changed, or is about to.
        self.inner.alarm.notify_one();
        if kind.may_repeat() || error.is_retry_safe() {
            endpoint.avoid();
            return Verdict::Again(error);
        }
        Verdict::Final(match answer.text() {
            text if text.contains("the outcome is unknown") => Error::Unknown { why: text },
            _ => error,
        })
    }

    fn error(&self, failure: Failure, kind: Kind) -> Error {
        let writes = !kind.may_repeat();
        match failure {
            Failure::NotSent(why) => Error::Refused { why },
            Failure::Lost(why) if writes => Error::Unknown { why },
            Failure::Lost(why) => Error::Refused { why },
            Failure::Late { sent } => {
                let after = self.began.elapsed();
                Error::Timeout { after, maybe_executed: sent && writes }
            }
            Failure::Nonsense(message) => Error::Protocol { message, maybe_executed: writes },
        }
    }

    /// Waits for the next attempt, or gives the caller the error.
    async fn again(&mut self, verdict: impl Into<Verdict>) -> Result<(), Error> {
        let error = match verdict.into() {
            Verdict::Again(error) => error,
            Verdict::Final(error) => return Err(self.last(error)),
        };
        let pause = self.pause();
        if self.attempt >= self.retries_max || Instant::now() + pause >= self.deadline() {
            return Err(self.last(error));
        }
        self.attempt += 1;
        count(&self.inner.counting.retries);
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok(())
    }

    fn last(&self, error: Error) -> Error {
        if matches!(error, Error::Timeout { .. }) {
            count(&self.inner.counting.timeouts);
        }
        error
    }

    /// Nothing before the first retry; then more and more, by half at random, so
    /// that many callers do not come back together.
    fn pause(&self) -> Duration {
        if self.attempt == 0 {
            return Duration::ZERO;
        }
        let doublings = (self.attempt - 1).min(BACKOFF_DOUBLINGS);
        let most = self.inner.options.backoff * (1 << doublings);
        most.mul_f64(0.5 + 0.5 * random())
    }
}

/// A number from 0 to 1, good enough to spread things: the standard library
/// seeds its hashers at random.
pub fn random() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}
