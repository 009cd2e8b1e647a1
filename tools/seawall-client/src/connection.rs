//! One pipelined connection, owned by one task.
//!
//! Callers put a [`Call`] into a bounded queue and wait for its reply. The task
//! connects when the first call comes, writes requests as they come without
//! waiting for answers, and gives answers back in order. When the connection
//! ends, a call of which no byte was written is *not sent*; any other may have
//! been executed, and is *lost*.
//!
//! ```text
//! callers ─ queue (bounded) ─▶ output ─▶ socket ─▶ input ─▶ in flight (bounded) ─▶ callers
//! ```
//!
//! The task does not repeat anything and knows no other connection.

use crate::counters::{Counting, count};
use crate::options::ClientOptions;
use crate::protocol::{self, Answer, Request, Shape};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Bytes that wait to be written before no more calls are taken.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Room for what is read at a time, and when it is too little.
const INPUT_BYTES: usize = 64 << 10;
const INPUT_BYTES_MIN: usize = 8 << 10;
/// An address that failed is avoided for this long; it doubles up to `AVOIDED_MAX`.
const AVOIDED: Duration = Duration::from_millis(50);
const AVOIDED_MAX: Duration = Duration::from_secs(1);
/// Answers that are due and do not come for this long are a reason to look whether
/// the topology has changed: a cluster gives a node up after 300 ms.
const SUSPICIOUS: Duration = Duration::from_millis(250);
/// What a node at its limit of connections says before it closes, having read nothing.
const TOO_MANY: &[u8] = b"ERROR Too many open connections";

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Nothing of it left this process, or nobody read it.
    NotSent(String),
    /// It was sent, and the connection ended.
    Lost(String),
    /// Its time is over.
    Late {
        /// It was sent.
        sent: bool,
    },
    /// The answer is none of the protocol.
    Nonsense(String),
}

impl Failure {
    /// What happened, for a person.
    pub fn why(self) -> String {
        match self {
            Failure::NotSent(why) | Failure::Lost(why) => why,
            Failure::Late { .. } => "no answer in time".into(),
            Failure::Nonsense(what) => format!("a protocol violation: {what}"),
        }
    }

    /// It was surely not executed.
    pub fn is_not_executed(&self) -> bool {
        matches!(self, Failure::NotSent(_) | Failure::Late { sent: false })
    }
}

const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Requests that go together, one after the other.
#[derive(Debug)]
struct Call {
    requests: Vec<Request>,
    shape: Shape,
    /// `QUEUED`, `TAKEN` or `WITHDRAWN`: it is decided once whether it is sent.
    state: Arc<AtomicU8>,
    reply: oneshot::Sender<Result<Vec<Answer>, Failure>>,
}

impl Call {
    fn fail(self, failure: Failure) {
        // Whoever asked may be gone.
        let _ = self.reply.send(Err(failure));
    }

    fn take(&self) -> bool {
        !self.reply.is_closed()
            && self.state.compare_exchange(QUEUED, TAKEN, Relaxed, Relaxed).is_ok()
    }
}

/// A call whose answers will come.
#[derive(Debug)]
pub struct Pending {
    state: Arc<AtomicU8>,
    reply: oneshot::Receiver<Result<Vec<Answer>, Failure>>,
}

impl Pending {
    /// Its answers, one a request.
    pub async fn wait(self, until: Instant) -> Result<Vec<Answer>, Failure> {
        match timeout_at(until, self.reply).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Failure::Lost("the connection's task has ended".into())),
            Err(_) => {
                let withdrawn =
                    self.state.compare_exchange(QUEUED, WITHDRAWN, Relaxed, Relaxed).is_ok();
                Err(Failure::Late { sent: !withdrawn })
            }
        }
    }
}

/// Whether an address is worth trying.
#[derive(Debug)]
struct Health {
    since: Instant,
    failures: AtomicU32,
    /// Milliseconds after `since`.
    avoided_until: AtomicU64,
}

impl Health {
    fn well(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.avoided_until.store(0, Relaxed);
        }
    }

    fn ill(&self) {
        let failures = self.failures.fetch_add(1, Relaxed).min(10);
        let pause = (AVOIDED * (1 << failures)).min(AVOIDED_MAX);
        let until = (self.since.elapsed() + pause).as_millis() as u64;
        self.avoided_until.fetch_max(until, Relaxed);
    }

    fn is_well(&self) -> bool {
        let until = self.avoided_until.load(Relaxed);
        until == 0 || self.since.elapsed().as_millis() as u64 >= until
    }
}

/// What the connections to one address have in common.
#[derive(Debug)]
struct Common {
    address: String,
    options: Arc<ClientOptions>,
    counting: Arc<Counting>,
    /// Told when a connection ends, cannot be made, or is suspiciously quiet.
    alarm: Arc<Notify>,
    health: Health,
    /// Changes when the connections shall end.
    cut: watch::Sender<()>,
}

/// One address: a core's port, or a node's.
#[derive(Debug)]
pub struct Endpoint {
    common: Arc<Common>,
    /// One queue a connection, from the first call on: a client of a large
    /// cluster knows many more cores than it ever asks.
    queues: OnceLock<Vec<mpsc::Sender<Call>>>,
    next: AtomicU32,
}

impl Endpoint {
    /// Nothing is connected yet.
    pub fn new(
        address: &str,
        options: Arc<ClientOptions>,
        counting: Arc<Counting>,
        alarm: Arc<Notify>,
    ) -> Endpoint {
        let health = Health { since: Instant::now(), failures: 0.into(), avoided_until: 0.into() };
        let (cut, _) = watch::channel(());
        let address = address.into();
        let common = Arc::new(Common { address, options, counting, alarm, health, cut });
        Endpoint { common, queues: OnceLock::new(), next: 0.into() }
    }

    fn start(&self) -> Vec<mpsc::Sender<Call>> {
        let common = &self.common;
        let connection = |_| {
            let (queue, calls) = mpsc::channel(common.options.queue_max);
            tokio::spawn(run(common.clone(), calls));
            queue
        };
        (0..common.options.connections).map(connection).collect()
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.common.address
    }

    /// It has not failed a moment ago.
    pub fn is_well(&self) -> bool {
        self.common.health.is_well()
    }

    /// Leaves it alone for a moment.
    pub fn avoid(&self) {
        self.common.health.ill();
    }

    /// Ends the connections: the cluster has given the node up, and whoever waits
    /// for an answer shall not wait for it until his time is over.
    pub fn cut(&self) {
        self.common.cut.send_replace(());
    }

    /// Puts requests into the queue, waiting for room.
    pub async fn begin(
        &self,
        requests: Vec<Request>,
        shape: Shape,
        until: Instant,
    ) -> Result<Pending, Failure> {
        let (sender, reply) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let call = Call { requests, shape, state: state.clone(), reply: sender };
        let queues = self.queues.get_or_init(|| self.start());
        let queue = &queues[self.next.fetch_add(1, Relaxed) as usize % queues.len()];
        let outcome = match queue.try_send(call) {
            Err(mpsc::error::TrySendError::Full(call)) => {
                match timeout_at(until, queue.send(call)).await {
                    Ok(outcome) => outcome.map_err(|_| ()),
                    Err(_) => return Err(Failure::Late { sent: false }),
                }
            }
            outcome => outcome.map_err(|_| ()),
        };
        match outcome {
            Ok(()) => Ok(Pending { state, reply }),
            Err(()) => Err(Failure::NotSent("the connection's task has ended".into())),
        }
    }

    /// One request and its answer.
    pub async fn ask(
        &self,
        request: Request,
        shape: Shape,
        until: Instant,
    ) -> Result<Answer, Failure> {
        let mut answers = self.begin(vec![request], shape, until).await?.wait(until).await?;
        Ok(answers.pop().expect("there is an answer to each request"))
    }
}

/// The task: connects when there is something to send, until nobody can send.
async fn run(common: Arc<Common>, mut calls: mpsc::Receiver<Call>) {
    let mut again = false;
    while let Some(first) = calls.recv().await {
        if first.reply.is_closed() {
            continue;
        }
        match connect(&common).await {
            Ok(stream) => {
                count(&common.counting.connects);
                if again {
                    count(&common.counting.reconnects);
                }
                again = true;
                Serving::new(&common).run(stream, first, &mut calls).await;
                if !calls.is_closed() {
                    common.alarm.notify_one();
                }
            }
            Err(why) => {
                count(&common.counting.connect_failures);
                common.health.ill();
                common.alarm.notify_one();
                first.fail(Failure::NotSent(why.clone()));
                while let Ok(call) = calls.try_recv() {
                    call.fail(Failure::NotSent(why.clone()));
                }
            }
        }
    }
}

async fn connect(common: &Common) -> Result<TcpStream, String> {
    let (address, options) = (common.address.as_str(), &common.options);
    let connecting = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        if let Some((user, password)) = &options.login {
            login(&mut stream, user, password).await?;
        }
        Ok(stream)
    };
    match timeout(options.connect_timeout, connecting).await {
        Ok(outcome) => outcome.map_err(|error: String| format!("{address}: {error}")),
        Err(_) => Err(format!("{address}: no connection in {:?}", options.connect_timeout)),
    }
}

/// A node with `--auth-file` takes user and password as the value of a `set`.
async fn login(stream: &mut TcpStream, user: &str, password: &str) -> Result<(), String> {
    let value = format!("{user} {password}");
    let request = format!("set login 0 0 {}\r\n{value}\r\n", value.len());
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut input = BytesMut::new();
    loop {
        if let Some(answer) = protocol::take(&mut input, Shape::Text)? {
            return match &answer.line[..] {
                b"STORED" => Ok(()),
                _ => Err(format!("the login was refused: {}", answer.text())),
            };
        }
        if stream.read_buf(&mut input).await.map_err(|error| error.to_string())? == 0 {
            return Err("closed during the login".into());
        }
    }
}

/// A call that was taken: its answers so far.
#[derive(Debug)]
struct InFlight {
    wanted: usize,
    answers: Vec<Answer>,
    shape: Shape,
    /// Where it begins in all that was ever written.
    start: u64,
    reply: oneshot::Sender<Result<Vec<Answer>, Failure>>,
}

/// How a connection ended.
enum End {
    /// Nobody can send any more.
    Done,
    /// It broke.
    Broken(String),
    /// The server has read nothing of what was sent.
    Unread(String),
    /// It answers what cannot be understood.
    Nonsense(String),
}

/// A connection that is up.
struct Serving<'c> {
    common: &'c Common,
    input: BytesMut,
    output: BytesMut,
    in_flight: VecDeque<InFlight>,
    /// Answers that are due.
    due: usize,
    queued_bytes: u64,
    written_bytes: u64,
    /// When something came last, or became due.
    progress: Instant,
}

impl<'c> Serving<'c> {
    fn new(common: &'c Common) -> Serving<'c> {
        Serving {
            common,
            input: BytesMut::with_capacity(INPUT_BYTES),
            output: BytesMut::new(),
            in_flight: VecDeque::new(),
            due: 0,
            queued_bytes: 0,
            written_bytes: 0,
            progress: Instant::now(),
        }
    }

    async fn run(mut self, stream: TcpStream, first: Call, calls: &mut mpsc::Receiver<Call>) {
        self.begin(first);
        let end = self.serve(stream, calls).await;
        self.end(&end);
    }

    async fn serve(&mut self, mut stream: TcpStream, calls: &mut mpsc::Receiver<Call>) -> End {
        let (mut reader, mut writer) = stream.split();
        let address = &self.common.address;
        let stall = self.common.options.stall_timeout;
        let quiet = sleep_until(self.progress + SUSPICIOUS.min(stall));
        tokio::pin!(quiet);
        let mut cut = self.common.cut.subscribe();
        let mut open = true;
        loop {
            if !open && self.in_flight.is_empty() {
                return End::Done;
            }
            // By itself the buffer would grow by 64 bytes a read.
            if self.input.capacity() - self.input.len() < INPUT_BYTES_MIN {
                self.input.reserve(INPUT_BYTES);
            }
            tokio::select! {
                read = reader.read_buf(&mut self.input) => match read {
                    Ok(0) => return End::Broken(format!("{address} closed the connection")),
                    Ok(_) => if let Err(end) = self.answers() {
                        return end;
                    },
                    Err(error) => return End::Broken(format!("{address}: {error}")),
                },
                written = writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                    match written {
                        Ok(bytes) => self.written_bytes += bytes as u64,
                        Err(error) => return End::Broken(format!("{address}: {error}")),
                    }
                }
                call = calls.recv(), if open && self.has_room() => match call {
                    Some(call) => {
                        self.begin(call);
                        while self.has_room() && let Ok(call) = calls.try_recv() {
                            self.begin(call);
                        }
                    }
                    None => open = false,
                },
                Ok(()) = cut.changed() => {
                    return End::Broken(format!("{address} is down, as its cluster says"));
                }
                () = &mut quiet, if self.due > 0 => {
                    let since = self.progress.elapsed();
                    if since >= stall {
                        return End::Broken(format!("{address}: no answer for {stall:?}"));
                    }
                    let next = match since >= SUSPICIOUS {
                        true => {
                            self.common.alarm.notify_one();
                            Instant::now() + SUSPICIOUS
                        }
                        false => self.progress + SUSPICIOUS,
                    };
                    quiet.as_mut().reset(next.min(self.progress + stall));
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.due < self.common.options.in_flight_max && self.output.len() < OUTPUT_BYTES_MAX
    }

    fn begin(&mut self, call: Call) {
        if !call.take() {
            return;
        }
        if self.due == 0 {
            self.progress = Instant::now();
        }
        let (start, before) = (self.queued_bytes, self.output.len());
        for request in &call.requests {
            self.output.extend_from_slice(&request.line);
            if let Some(value) = &request.value {
                self.output.extend_from_slice(value);
                self.output.extend_from_slice(b"\r\n");
            }
        }
        self.queued_bytes += (self.output.len() - before) as u64;
        let wanted = call.requests.len();
        self.due += wanted;
        let answers = Vec::with_capacity(wanted);
        let (shape, reply) = (call.shape, call.reply);
        self.in_flight.push_back(InFlight { wanted, answers, shape, start, reply });
    }

    /// Gives the answers that are there to whoever asked.
    fn answers(&mut self) -> Result<(), End> {
        loop {
            let Some(front) = self.in_flight.front_mut() else {
                // A node at its limit says so without being asked.
                return match self.input.is_empty() {
                    true => Ok(()),
                    false if self.input.starts_with(TOO_MANY) => Err(self.too_many()),
                    false => Err(End::Nonsense("an answer that nobody asked for".into())),
                };
            };
            match protocol::take(&mut self.input, front.shape) {
                Ok(None) => {
                    // Pieces of a large value are progress, too.
                    self.progress = Instant::now();
                    return Ok(());
                }
                Ok(Some(answer)) if answer.line.starts_with(TOO_MANY) => {
                    return Err(self.too_many());
                }
                Ok(Some(answer)) => {
                    self.progress = Instant::now();
                    self.common.health.well();
                    self.due -= 1;
                    front.answers.push(answer);
                    if front.answers.len() == front.wanted
                        && let Some(done) = self.in_flight.pop_front()
                    {
                        // Whoever asked may be gone.
                        let _ = done.reply.send(Ok(done.answers));
                    }
                }
                Err(what) => return Err(End::Nonsense(what)),
            }
        }
    }

    fn too_many(&self) -> End {
        self.common.health.ill();
        End::Unread(format!("{} has too many connections", self.common.address))
    }

    /// Tells everybody whose answer will not come.
    fn end(self, end: &End) {
        for call in self.in_flight {
            let unsent = call.start >= self.written_bytes;
            let failure = match end {
                End::Unread(why) => Failure::NotSent(why.clone()),
                End::Broken(why) | End::Nonsense(why) if unsent => Failure::NotSent(why.clone()),
                End::Broken(why) => Failure::Lost(why.clone()),
                End::Nonsense(what) => Failure::Nonsense(what.clone()),
                End::Done => Failure::Lost("the client was closed".into()),
            };
            let _ = call.reply.send(Err(failure));
        }
    }
}
