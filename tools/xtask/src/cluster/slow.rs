//! A slow and lossy cable: the kernel queues packets here, and most of them go on
//! a little later.
//!
//! The kernels of many test machines have no `netem`; a queue of the packet filter
//! they have.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nfq::{Message, Queue, Verdict};

use super::network::shell;
use crate::process;

const DELAY: Duration = Duration::from_millis(20);
/// One of so many packets is lost.
const LOST_OF: u64 = 50;
/// Packets that wait here; what the kernel has beyond them it drops.
const PACKETS_MAX: u32 = 4096;

const QUEUE: u16 = 7;

/// Packets from and to a host are delayed while this lives.
#[derive(Debug)]
pub struct SlowCable {
    host_pid: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SlowCable {
    /// Of the host whose network this process is in.
    pub fn new(host_pid: u32, seed: u64) -> Result<SlowCable> {
        let (opened, open) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let queue = queue_of(host_pid);
            let _ = opened.send(queue.is_ok());
            run(&mut queue?, seed, &seen)
        });
        let cable = SlowCable { host_pid, stop, thread: Some(thread) };
        ensure!(open.recv() == Ok(true), "cannot open a packet queue");
        for (chain, device) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            cable.filter(&format!("-A {chain} {device} eth0 -j NFQUEUE --queue-num {QUEUE}"))?;
        }
        Ok(cable)
    }

    fn filter(&self, what: &str) -> Result<()> {
        shell(&format!("nsenter -t {} -n iptables -w {what}", self.host_pid))
    }
}

impl Drop for SlowCable {
    fn drop(&mut self) {
        // First the rules: a queue that nobody serves loses everything.
        let flushed = self.filter("-F");
        std::thread::sleep(2 * DELAY);
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Err(error), _) | (_, Some(Ok(Err(error)))) = (flushed, ended) {
            println!("   the slow cable broke: {error:#}");
        }
    }
}

fn queue_of(host_pid: u32) -> Result<Queue> {
    process::enter_network(host_pid)?;
    let mut queue = Queue::open()?;
    queue.bind(QUEUE)?;
    queue.set_queue_max_len(QUEUE, PACKETS_MAX)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

fn run(queue: &mut Queue, mut seed: u64, stop: &AtomicBool) -> Result<()> {
    let mut waiting: VecDeque<(Instant, Message)> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        loop {
            match queue.recv() {
                Ok(packet) => waiting.push_back((now + DELAY, packet)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot take a packet"),
            }
        }
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, mut packet)) = waiting.pop_front() else { break };
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let lost = (seed >> 33).is_multiple_of(LOST_OF);
            packet.set_verdict(if lost { Verdict::Drop } else { Verdict::Accept });
            queue.verdict(packet)?;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
