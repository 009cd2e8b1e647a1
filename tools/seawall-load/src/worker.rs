//! One thread of the generator: its connections, what it sends next, and the
//! loop that keeps them going.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use crate::connection::{Connection, Pending, ReadContext, Request, Tally};
use crate::cpu::thread_cpu_ns;
use crate::distribution::{Draw, Rng, mix};
use crate::driver::{Driver, Input};
use crate::error::LoadError;
use crate::plan::Plan;
use crate::schedule::Schedule;
use crate::target::Target;
use crate::wire::{Book, Wire};

/// Quiet sets before a fence while preloading.
const PRELOAD_BATCH: u64 = 64;
/// Bytes of one such series; large values make it shorter.
const PRELOAD_BATCH_BYTES: u64 = 64 * 1024;
/// Series that a connection has outstanding while preloading.
const PRELOAD_SERIES: usize = 2;
/// How long answers may take to come in after the end.
const DRAIN: Duration = Duration::from_secs(2);
/// Silence after which a run that waits for a count gives up.
const STALL: Duration = Duration::from_secs(10);
/// Pause before a broken connection is tried again.
const RECONNECT_NS: u64 = 100_000_000;
/// Longest sleep.
const SLEEP_NS_MAX: u64 = 100_000_000;

/// What a worker tells the thread that gathers.
#[derive(Debug)]
pub enum Message {
    /// All connections stand.
    Connected,
    /// So many keys have been written since the last word.
    Preloading(u64),
    /// This worker's part is written.
    Preloaded(Box<Tally>),
    /// One interval, which ended at `end_ns`.
    Interval {
        /// Nanoseconds since the run began.
        end_ns: u64,
        /// What happened in it.
        tally: Box<Tally>,
    },
    /// The worker is done.
    Done(Box<Summary>),
    /// The worker gave up.
    Failed(LoadError),
}

/// A worker's last word.
#[derive(Debug)]
pub struct Summary {
    /// What came after the last interval: the answers to requests sent before
    /// the end, and in a run of so many requests the last partial interval.
    pub rest: Tally,
    /// When the worker ended, in nanoseconds since the run began.
    pub end_ns: u64,
    /// Requests that never got an answer.
    pub unanswered: u64,
    /// Requests that were due and never sent, all connections being full.
    pub unsent: u64,
    /// The share of the measured time in which the thread ran.
    pub busy: f64,
}

/// What to send next.
#[derive(Debug)]
struct Source {
    plan: Arc<Plan>,
    book: Arc<Book>,
    rng: Rng,
    draw: Draw,
    numbers: Vec<u64>,
    mode: Mode,
    /// The request that waits for a free connection (open loop, `--core-ports`).
    held: Option<Request>,
    seed: engine::HashSeed,
    key: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Keep every connection's pipeline full; so many requests are left.
    Closed { left: u64 },
    /// Requests come from the schedule.
    Open,
    /// Write the keys `next..end`.
    Preload { next: u64, end: u64 },
    /// Send nothing more.
    Stopped,
}

impl Source {
    /// Fills a connection after answers have come.
    #[inline]
    fn refill<W: Wire>(&mut self, connection: &mut Connection<W>, index: usize, now_ns: u64) {
        while let Some(number) = connection.missed.pop() {
            if !matches!(self.mode, Mode::Stopped) {
                self.write(Request::Set(number), connection, now_ns);
            }
        }
        match self.mode {
            Mode::Closed { .. } if self.plan.batch && !connection.pending.is_empty() => {}
            Mode::Closed { mut left } => {
                while left > 0 && connection.pending.len() < self.plan.pipeline as usize {
                    let request = self.request(Some(index));
                    self.write(request, connection, now_ns);
                    left -= 1;
                }
                self.mode = Mode::Closed { left };
            }
            Mode::Preload { mut next, end } => {
                while next < end && connection.pending.len() < PRELOAD_SERIES {
                    let count = self.preload_batch().min(end - next);
                    for number in next..next + count {
                        W::write_set(&self.book, number, true, &mut connection.out);
                    }
                    W::write_fence(&mut connection.out);
                    let request = Request::QuietSets(count as u32);
                    connection.pending.push_back(Pending { request, due_ns: now_ns });
                    next += count;
                }
                self.mode = Mode::Preload { next, end };
            }
            Mode::Open | Mode::Stopped => {}
        }
    }

    fn preload_batch(&self) -> u64 {
        let set_bytes = u64::from(self.plan.value_bytes.max) + u64::from(self.plan.key_bytes) + 40;
        (PRELOAD_BATCH_BYTES / set_bytes).clamp(1, PRELOAD_BATCH)
    }

    /// Draws the next request; with `--core-ports`, one for connection `index`.
    #[inline]
    fn request(&mut self, index: Option<usize>) -> Request {
        let ratio = self.plan.ratio;
        let is_set = ratio.sets > 0
            && self.rng.below(u64::from(ratio.gets) + u64::from(ratio.sets))
                < u64::from(ratio.sets);
        if !is_set && self.plan.multiget > 1 {
            return Request::Multiget(self.plan.multiget);
        }
        let number = loop {
            let number = self.draw.next(&mut self.rng);
            match index {
                Some(index) if !self.owns(index, number) => {}
                _ => break number,
            }
        };
        if is_set { Request::Set(number) } else { Request::Get(number) }
    }

    /// Whether connection `index` leads to the core of key `number`.
    #[inline]
    fn owns(&mut self, index: usize, number: u64) -> bool {
        let Some(core_ports) = self.plan.core_ports else { return true };
        self.key.clear();
        self.book.keys.write(number, &mut self.key);
        let core = engine::KeyHash::of(&self.key, &self.seed).core(core_ports.cores);
        core as usize == index % core_ports.cores as usize
    }

    #[inline]
    fn write<W: Wire>(&mut self, request: Request, connection: &mut Connection<W>, due_ns: u64) {
        match request {
            Request::Get(number) => W::write_get(&self.book, number, &mut connection.out),
            Request::Set(number) => W::write_set(&self.book, number, false, &mut connection.out),
            Request::Multiget(keys) => {
                self.numbers.clear();
                for _ in 0..keys {
                    let number = self.draw.next(&mut self.rng);
                    self.numbers.push(number);
                }
                W::write_multiget(&self.book, &self.numbers, &mut connection.out);
                if self.plan.verify && !W::MULTIGET_NAMES_KEYS {
                    connection.asked.extend(&self.numbers);
                }
            }
            Request::QuietSets(_) => unreachable!("only preloading writes quiet sets"),
        }
        connection.pending.push_back(Pending { request, due_ns });
    }

    /// Writes requests that are due to connections with room, in turn. False
    /// when one is due and no connection has room for it.
    fn issue<W: Wire>(
        &mut self,
        schedule: &mut Schedule,
        connections: &mut [Connection<W>],
        turn: &mut usize,
        dirty: &mut Vec<usize>,
        now_ns: u64,
        until_ns: u64,
        lateness: &mut impl FnMut(u64),
    ) -> bool {
        while schedule.next_ns() <= now_ns && schedule.next_ns() < until_ns {
            let request = match self.held.take() {
                Some(request) => request,
                None => self.request(None),
            };
            let free = (0..connections.len()).map(|step| {
                let index = *turn + step;
                if index >= connections.len() { index - connections.len() } else { index }
            });
            let mut found = None;
            for index in free {
                let connection = &connections[index];
                if connection.open && connection.pending.len() < self.plan.pipeline as usize {
                    let suits = match request {
                        Request::Get(number) | Request::Set(number) => self.owns(index, number),
                        Request::Multiget(_) | Request::QuietSets(_) => true,
                    };
                    if suits {
                        found = Some(index);
                        break;
                    }
                }
            }
            let Some(index) = found else {
                self.held = Some(request);
                return false;
            };
            *turn = if index + 1 == connections.len() { 0 } else { index + 1 };
            let connection = &mut connections[index];
            self.write(request, connection, schedule.next_ns());
            if !connection.dirty {
                connection.dirty = true;
                dirty.push(index);
            }
            lateness(now_ns - schedule.next_ns());
            schedule.advance();
        }
        true
    }
}

/// One thread's state.
pub struct Worker<W, D> {
    index: u32,
    plan: Arc<Plan>,
    book: Arc<Book>,
    driver: D,
    connections: Vec<Connection<W>>,
    targets: Vec<Target>,
    source: Source,
    tally: Box<Tally>,
    words: Sender<Message>,
    start: Instant,
    last_answer_ns: u64,
    /// Connections without a socket, and when to try again.
    broken: Vec<(usize, u64)>,
}

/// The loop's results that end it early.
type Outcome = Result<(), LoadError>;

/// Runs worker `index` to its end. `go` says when preloading and measuring
/// begin; when the other side has gone, so does the worker.
pub fn work<W: Wire, D: Driver>(
    index: u32,
    plan: Arc<Plan>,
    book: Arc<Book>,
    words: Sender<Message>,
    go: Receiver<Instant>,
) {
    let result = (|| -> Outcome {
        prepare_thread(index, &plan)?;
        let mut worker = Worker::<W, D>::connect(index, plan, book, words.clone())?;
        // The gathering thread outlives the workers; should it be gone, nobody
        // listens and there is nothing left to do.
        let _ = words.send(Message::Connected);
        let Ok(start) = go.recv() else { return Ok(()) };
        worker.start = start;
        if worker.plan.preload {
            worker.preload()?;
            let Ok(start) = go.recv() else { return Ok(()) };
            worker.start = start;
        }
        let summary = worker.measure()?;
        let _ = words.send(Message::Done(Box::new(summary)));
        Ok(())
    })();
    if let Err(error) = result {
        let _ = words.send(Message::Failed(error));
    }
}

fn prepare_thread(index: u32, plan: &Plan) -> Outcome {
    if !plan.cpus.is_empty() {
        let cpu = plan.cpus[index as usize % plan.cpus.len()];
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu as usize);
        rustix::thread::sched_setaffinity(None, &set).map_err(|error| {
            LoadError::Plan(format!("cannot pin a worker to CPU {cpu}: {error}"))
        })?;
    }
    // Sleeps end on time, not up to 50 us later. If the kernel refuses, the
    // reported lateness shows it.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    Ok(())
}

impl<W: Wire, D: Driver> Worker<W, D> {
    fn connect(
        index: u32,
        plan: Arc<Plan>,
        book: Arc<Book>,
        words: Sender<Message>,
    ) -> Result<Self, LoadError> {
        let share = |total: u32| {
            let of = |index: u32| u64::from(total) * u64::from(index) / u64::from(plan.threads);
            (of(index + 1) - of(index)) as usize
        };
        let count = share(plan.connections);
        let targets = match plan.core_ports {
            Some(core_ports) => (0..core_ports.cores)
                .map(|core| plan.target.with_port(core_ports.base + core as u16))
                .collect(),
            None => vec![plan.target.clone()],
        };
        let seed = mix(plan.seed ^ mix(index.into()));
        let source = Source {
            rng: Rng::new(seed),
            draw: Draw::new(plan.distribution, plan.keys, index, plan.threads),
            numbers: Vec::new(),
            mode: Mode::Stopped,
            held: None,
            seed: engine::HashSeed::new(plan.core_ports.map_or(0, |core_ports| core_ports.seed)),
            key: Vec::new(),
            plan: plan.clone(),
            book: book.clone(),
        };
        let mut worker = Worker {
            index,
            driver: D::new(count).map_err(LoadError::system("cannot set up the socket loop"))?,
            connections: (0..count).map(|_| Connection::new(plan.pipeline as usize)).collect(),
            targets,
            source,
            tally: Box::default(),
            words,
            start: Instant::now(),
            last_answer_ns: 0,
            broken: Vec::new(),
            plan,
            book,
        };
        for index in 0..count {
            worker.open(index)?;
        }
        Ok(worker)
    }

    fn open(&mut self, index: usize) -> Outcome {
        let target = &self.targets[index % self.targets.len()];
        let refused = |error| LoadError::Connect { target: target.to_string(), error };
        let socket = target.connect().map_err(refused)?;
        self.driver.add(index, socket).map_err(LoadError::system("cannot watch a socket"))?;
        self.connections[index].open = true;
        Ok(())
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn outstanding(&self) -> u64 {
        self.connections.iter().map(|connection| connection.pending.len() as u64).sum()
    }

    /// Offers every connection to the source and the driver.
    fn refill_all(&mut self) {
        let now_ns = self.now_ns();
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if connection.open {
                self.source.refill(connection, index, now_ns);
                self.driver.send(index, &mut connection.out);
            }
        }
    }

    /// Sleeps at most for `sleep_ns`, then takes everything that has come.
    #[inline]
    fn pump(&mut self, sleep_ns: u64) -> Outcome {
        self.driver
            .wait(Duration::from_nanos(sleep_ns))
            .map_err(LoadError::system("the socket loop failed"))?;
        while let Some((index, input)) = self.driver.next() {
            let connection = &mut self.connections[index];
            match input {
                Input::Bytes(bytes) => {
                    let now_ns = self.start.elapsed().as_nanos() as u64;
                    self.last_answer_ns = now_ns;
                    let context = ReadContext {
                        book: &self.book,
                        verify: self.plan.verify,
                        fill: self.plan.fill,
                        now_ns,
                        tally: &mut self.tally,
                    };
                    if connection.read(bytes, context).is_err() {
                        return Err(LoadError::Garbage {
                            target: self.targets[index % self.targets.len()].to_string(),
                            protocol: W::NAME,
                            bytes: connection.unread(bytes).to_vec(),
                        });
                    }
                    self.source.refill(connection, index, now_ns);
                    self.driver.send(index, &mut connection.out);
                }
                Input::Writable => self.driver.send(index, &mut connection.out),
                Input::Closed(error) => {
                    let lost = connection.pending.len() as u64;
                    // A server that accepts only to close would be stormed.
                    let pause_ns = if connection.answered { 0 } else { RECONNECT_NS };
                    connection.reset();
                    self.tally.disconnects += 1;
                    self.tally.errors += lost;
                    if self.tally.error_example.is_none() {
                        self.tally.error_example = Some(match error {
                            Some(error) => format!("connection lost: {error}"),
                            None => "the server closed the connection".into(),
                        });
                    }
                    self.broken.push((index, self.now_ns() + pause_ns));
                }
            }
        }
        Ok(())
    }

    /// Tries broken connections again whose pause is over.
    fn mend(&mut self) {
        let now_ns = self.now_ns();
        let mut at = 0;
        while at < self.broken.len() {
            let (index, retry_ns) = self.broken[at];
            if retry_ns > now_ns {
                at += 1;
                continue;
            }
            if self.open(index).is_ok() {
                self.broken.swap_remove(at);
                let connection = &mut self.connections[index];
                self.source.refill(connection, index, now_ns);
                self.driver.send(index, &mut connection.out);
            } else {
                self.broken[at].1 = now_ns + RECONNECT_NS;
                at += 1;
            }
        }
    }

    fn check_stall(&self) -> Outcome {
        if self.now_ns().saturating_sub(self.last_answer_ns) > STALL.as_nanos() as u64 {
            return Err(LoadError::Stalled {
                target: self.plan.target.to_string(),
                seconds: STALL.as_secs(),
                outstanding: self.outstanding(),
            });
        }
        Ok(())
    }

    /// Writes this worker's part of the keys.
    fn preload(&mut self) -> Outcome {
        let part = |index: u32| {
            (u128::from(self.plan.keys) * u128::from(index) / u128::from(self.plan.threads)) as u64
        };
        self.source.mode = Mode::Preload { next: part(self.index), end: part(self.index + 1) };
        self.last_answer_ns = self.now_ns();
        self.refill_all();
        let mut told = 0;
        let mut tell_ns = 0;
        loop {
            let exhausted = matches!(self.source.mode, Mode::Preload { next, end } if next == end);
            if exhausted && self.outstanding() == 0 {
                break;
            }
            self.pump(SLEEP_NS_MAX)?;
            if !self.broken.is_empty() {
                // The sets of a lost series would be missing without a trace.
                let error = std::io::Error::new(
                    std::io::ErrorKind::ConnectionAborted,
                    self.tally.error_example.clone().unwrap_or_default(),
                );
                return Err(LoadError::Connect { target: self.plan.target.to_string(), error });
            }
            self.check_stall()?;
            if self.now_ns() >= tell_ns {
                tell_ns = self.now_ns() + SLEEP_NS_MAX;
                let _ = self.words.send(Message::Preloading(self.tally.sets - told));
                told = self.tally.sets;
            }
        }
        self.source.mode = Mode::Stopped;
        let _ = self.words.send(Message::Preloading(self.tally.sets - told));
        let _ = self.words.send(Message::Preloaded(std::mem::take(&mut self.tally)));
        Ok(())
    }

    /// Warms up, measures, and waits for the last answers.
    fn measure(&mut self) -> Result<Summary, LoadError> {
        let plan = self.plan.clone();
        let warmup_ns = plan.warmup.as_nanos() as u64;
        let every_ns = plan.report_every.as_nanos() as u64;
        // A run of so many requests has no end in time.
        let end_ns = match plan.requests {
            None => warmup_ns + plan.duration.as_nanos() as u64,
            Some(_) => u64::MAX,
        };
        // How many this worker sends; in the warm-up there is no limit.
        let mut quota = plan.requests.map(|requests| {
            let of = |index: u32| {
                (u128::from(requests) * u128::from(index) / u128::from(plan.threads)) as u64
            };
            of(self.index + 1) - of(self.index)
        });
        let mut schedule = plan.rate.map(|rate| {
            let seed = mix(plan.seed ^ mix(u64::from(self.index) + 1_000));
            Schedule::new(rate, plan.arrivals, self.index, plan.threads, seed)
        });
        self.source.mode =
            if schedule.is_some() { Mode::Open } else { Mode::Closed { left: u64::MAX } };
        if warmup_ns == 0 {
            self.begin_quota(&mut quota, &schedule);
        }
        self.last_answer_ns = 0;
        self.refill_all();

        let mut cut_ns = if warmup_ns > 0 { every_ns.min(warmup_ns) } else { every_ns.min(end_ns) };
        let mut cpu_start_ns = thread_cpu_ns();
        let mut turn = 0;
        let mut dirty = Vec::new();
        let mut sent = 0u64;
        let mut blocked_ns = 0;
        loop {
            let mut now_ns = self.now_ns();
            if now_ns >= cut_ns {
                let tally = std::mem::take(&mut self.tally);
                let _ = self.words.send(Message::Interval { end_ns: cut_ns, tally });
                if cut_ns == warmup_ns {
                    cpu_start_ns = thread_cpu_ns();
                    self.begin_quota(&mut quota, &schedule);
                    sent = 0;
                    self.refill_all();
                }
                if now_ns >= end_ns {
                    break;
                }
                // A worker that was held up skips the intervals it missed, but
                // never the end of the warm-up nor the end.
                loop {
                    let limit = if cut_ns < warmup_ns { warmup_ns } else { end_ns };
                    cut_ns = cut_ns.saturating_add(every_ns).min(limit);
                    if cut_ns > now_ns || cut_ns == warmup_ns || cut_ns == end_ns {
                        break;
                    }
                }
                now_ns = self.now_ns();
            }
            if !self.broken.is_empty() {
                self.mend();
            }
            let mut wake_ns = cut_ns.min(now_ns + SLEEP_NS_MAX);
            if let Some(schedule) = &mut schedule {
                let limit = match quota {
                    Some(quota) if now_ns >= warmup_ns && sent >= quota => 0,
                    _ => end_ns,
                };
                let tally = &mut self.tally;
                let has_room = self.source.issue(
                    schedule,
                    &mut self.connections,
                    &mut turn,
                    &mut dirty,
                    now_ns,
                    limit,
                    &mut |late_ns| {
                        sent += 1;
                        // What waited for a full connection is not our delay.
                        if now_ns - late_ns >= blocked_ns {
                            tally.lateness_ns.saturating_record(late_ns.max(1));
                        }
                    },
                );
                for index in dirty.drain(..) {
                    let connection = &mut self.connections[index];
                    connection.dirty = false;
                    self.driver.send(index, &mut connection.out);
                }
                if has_room {
                    wake_ns = wake_ns.min(schedule.next_ns().max(now_ns));
                } else {
                    blocked_ns = now_ns;
                }
                if limit == 0 && self.outstanding() == 0 {
                    break;
                }
            } else if plan.requests.is_some()
                && matches!(self.source.mode, Mode::Closed { left: 0 })
                && self.outstanding() == 0
            {
                break;
            }
            self.pump(wake_ns - now_ns)?;
            if plan.requests.is_some() {
                self.check_stall()?;
            }
        }
        let measured_ns = self.now_ns() - warmup_ns.min(self.now_ns());
        let busy = (thread_cpu_ns() - cpu_start_ns) as f64 / measured_ns.max(1) as f64;
        let ended_ns = self.now_ns();
        self.drain()?;
        Ok(Summary {
            rest: std::mem::take(&mut self.tally),
            end_ns: ended_ns,
            unanswered: self.outstanding(),
            unsent: match (&mut schedule, plan.requests) {
                (Some(schedule), None) => schedule.overdue(end_ns),
                _ => 0,
            },
            busy,
        })
    }

    /// From here on requests count against the quota of a counted run.
    fn begin_quota(&mut self, quota: &mut Option<u64>, schedule: &Option<Schedule>) {
        if let (Some(quota), None) = (quota, schedule) {
            self.source.mode = Mode::Closed { left: *quota };
        }
    }

    /// Takes the answers that are still to come.
    fn drain(&mut self) -> Outcome {
        self.source.mode = Mode::Stopped;
        let until_ns = self.now_ns() + DRAIN.as_nanos() as u64;
        while self.outstanding() > 0 && self.now_ns() < until_ns {
            self.pump(SLEEP_NS_MAX)?;
        }
        Ok(())
    }
}
