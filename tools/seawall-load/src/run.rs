//! One whole run: starts the workers, has them preload and measure, and adds
//! up what they tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::Tally;
use crate::cpu::process_cpu_ns;
use crate::driver::{Driver, Epoll, Uring};
use crate::error::LoadError;
use crate::keys::{KeySpace, Values};
use crate::plan::{Io, Plan, Protocol};
use crate::report::{Measured, Preload, Report};
use crate::wire::{Binary, Book, Meta, Resp, Text};
use crate::worker::{Message, Summary, work};

/// What a run shows while it goes on.
#[derive(Debug)]
pub enum Progress<'a> {
    /// So many of the keys are written.
    Preloading {
        /// Written so far.
        done: u64,
        /// All keys.
        of: u64,
    },
    /// An interval is over.
    Interval {
        /// When it ended, in seconds since the run began.
        at_seconds: f64,
        /// How long it was, in seconds.
        seconds: f64,
        /// Whether it belongs to the warm-up.
        warmup: bool,
        /// What happened in it.
        tally: &'a Tally,
    },
}

/// Does what `plan` says. `progress` is called about once an interval.
pub fn run(plan: &Plan, mut progress: impl FnMut(Progress<'_>)) -> Result<Report, LoadError> {
    plan.check()?;
    let plan = Arc::new(plan.clone());
    let book = Arc::new(Book {
        keys: KeySpace::new(&plan).map_err(LoadError::Plan)?,
        values: Values::new(plan.value_bytes),
        ttl: plan.ttl,
    });
    let (io, body) = choose(&plan)?;
    let (words, heard) = mpsc::channel();
    let mut gang = Gang { go: Vec::new(), heard };
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let (go, gone) = mpsc::channel();
        gang.go.push(go);
        let (plan, book, words) = (plan.clone(), book.clone(), words.clone());
        let thread = thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || body(index, plan, book, words, gone))
            .map_err(LoadError::system("cannot start a thread"))?;
        threads.push(thread);
    }
    drop(words);
    let result = gang.conduct(&plan, io, &mut progress);
    // Without the other end of their channels the workers stop by themselves;
    // after a failure nobody waits for them.
    drop(gang);
    if result.is_ok() {
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
    result
}

type Body = fn(u32, Arc<Plan>, Arc<Book>, Sender<Message>, Receiver<Instant>);

/// The worker for this protocol and these system calls.
fn choose(plan: &Plan) -> Result<(Io, Body), LoadError> {
    let io = match plan.io {
        Io::Auto if Uring::new(1).is_ok() => Io::Uring,
        Io::Auto => Io::Epoll,
        Io::Uring => {
            Uring::new(1)
                .map_err(LoadError::system("io_uring is refused here; --io epoll works"))?;
            Io::Uring
        }
        Io::Epoll => Io::Epoll,
    };
    let body: Body = match (plan.protocol, io) {
        (Protocol::Text, Io::Epoll) => work::<Text, Epoll>,
        (Protocol::Meta, Io::Epoll) => work::<Meta, Epoll>,
        (Protocol::Binary, Io::Epoll) => work::<Binary, Epoll>,
        (Protocol::Resp, Io::Epoll) => work::<Resp, Epoll>,
        (Protocol::Text, _) => work::<Text, Uring>,
        (Protocol::Meta, _) => work::<Meta, Uring>,
        (Protocol::Binary, _) => work::<Binary, Uring>,
        (Protocol::Resp, _) => work::<Resp, Uring>,
    };
    Ok((io, body))
}

/// The workers, seen from outside.
struct Gang {
    go: Vec<Sender<Instant>>,
    heard: Receiver<Message>,
}

impl Gang {
    fn start(&self) -> Instant {
        let start = Instant::now();
        for go in &self.go {
            // A worker that is gone has said why; `hear` will come to it.
            let _ = go.send(start);
        }
        start
    }

    fn hear(&self, timeout: Duration) -> Result<Option<Message>, LoadError> {
        match self.heard.recv_timeout(timeout) {
            Ok(Message::Failed(error)) => Err(error),
            Ok(word) => Ok(Some(word)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(LoadError::System {
                what: "a worker thread died",
                error: std::io::ErrorKind::BrokenPipe.into(),
            }),
        }
    }

    /// Waits for one word of every worker, passing over the others.
    fn hear_all(&self, mut counts: impl FnMut(Message) -> bool) -> Result<(), LoadError> {
        let mut missing = self.go.len();
        while missing > 0 {
            if let Some(word) = self.hear(Duration::from_secs(3600))?
                && counts(word)
            {
                missing -= 1;
            }
        }
        Ok(())
    }

    fn conduct(
        &self,
        plan: &Plan,
        io: Io,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<Report, LoadError> {
        self.hear_all(|word| matches!(word, Message::Connected))?;
        let mut start = self.start();
        let mut preload = None;
        if plan.preload {
            let mut done = 0;
            let mut total = Tally::default();
            self.hear_all(|word| match word {
                Message::Preloading(more) => {
                    done += more;
                    progress(Progress::Preloading { done, of: plan.keys });
                    false
                }
                Message::Preloaded(tally) => {
                    total.add(&tally);
                    true
                }
                _ => false,
            })?;
            preload = Some(Preload {
                keys: plan.keys,
                seconds: start.elapsed().as_secs_f64(),
                errors: total.errors + total.not_stored,
                error_example: total.error_example,
            });
            start = self.start();
        }
        let measured = self.measure(plan, start, progress)?;
        Ok(Report::new(plan, io, preload, measured))
    }

    /// Gathers intervals until every worker is done.
    fn measure(
        &self,
        plan: &Plan,
        start: Instant,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<Measured, LoadError> {
        let warmup_ns = plan.warmup.as_nanos() as u64;
        let end_ns = match plan.requests {
            None => Some(warmup_ns + plan.duration.as_nanos() as u64),
            Some(_) => None,
        };
        let cpu = || plan.server_pid.and_then(process_cpu_ns);
        let mut cpu_start = if warmup_ns == 0 { cpu() } else { None };
        let mut cpu_end = None;
        let mut intervals: BTreeMap<u64, (usize, Tally)> = BTreeMap::new();
        let mut summaries: Vec<Summary> = Vec::new();
        let mut shown_ns = 0;
        while summaries.len() < self.go.len() {
            // The server's CPU time is read on time, not when a word comes.
            let now_ns = start.elapsed().as_nanos() as u64;
            let mut wait_ns = 200_000_000;
            if warmup_ns > 0 && cpu_start.is_none() && plan.server_pid.is_some() {
                if now_ns >= warmup_ns {
                    cpu_start = cpu();
                } else {
                    wait_ns = wait_ns.min(warmup_ns - now_ns);
                }
            }
            if let (Some(end_ns), None) = (end_ns, cpu_end) {
                if now_ns >= end_ns {
                    cpu_end = cpu();
                } else {
                    wait_ns = wait_ns.min(end_ns - now_ns);
                }
            }
            match self.hear(Duration::from_nanos(wait_ns))? {
                Some(Message::Interval { end_ns, tally }) => {
                    let entry = intervals.entry(end_ns).or_default();
                    entry.0 += 1;
                    entry.1.add(&tally);
                    if entry.0 == self.go.len() {
                        progress(Progress::Interval {
                            at_seconds: end_ns as f64 / 1e9,
                            seconds: (end_ns - shown_ns) as f64 / 1e9,
                            warmup: end_ns <= warmup_ns,
                            tally: &entry.1,
                        });
                        shown_ns = end_ns;
                    }
                }
                Some(Message::Done(summary)) => summaries.push(*summary),
                _ => {}
            }
        }
        if end_ns.is_none() {
            cpu_end = cpu();
        }
        let ended_ns = summaries.iter().map(|summary| summary.end_ns).max().unwrap_or(0);
        Ok(Measured {
            seconds: (end_ns.unwrap_or(ended_ns).saturating_sub(warmup_ns)) as f64 / 1e9,
            warmup_ns,
            intervals: intervals.into_iter().map(|(end_ns, (_, tally))| (end_ns, tally)).collect(),
            summaries,
            server_cpu_ns: cpu_start.zip(cpu_end).map(|(start, end)| end.saturating_sub(start)),
        })
    }
}
