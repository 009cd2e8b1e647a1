//! What travels over the mesh: batches of requests and of answers, control
//! calls, log lines, connections.
//!
//! Inbound comes first in every turn and never waits for outbound, so two cores
//! that are full toward each other still drain. What a peer's queue has no room
//! for goes back to the outbox and is tried again next turn.

use std::os::fd::RawFd;

use super::Reactor;
use super::table::Table;
use crate::control::{self, ConnSummary, Connections, ControlCall};
use crate::hop::{self, Batch, ConnToken, Message};
use crate::listener::ListenAddress;
use crate::mesh::{Life, NodeCall, Parcel};
use crate::reactor::ListenerInfo;
use crate::sys::{Backend, Slot, socket};
use crate::watch::connection_number;

/// Parcels taken from one peer in one turn; the rest waits for the next.
const PARCELS_PER_TURN: usize = 16;
/// Control calls to this very core, and of the control thread, in one turn.
const CALLS_PER_TURN: usize = 16;

impl<B: Backend> Reactor<B> {
    pub(super) fn take_mail(&mut self) {
        for peer in 0..self.core.cores {
            for _ in 0..PARCELS_PER_TURN {
                let Some(parcel) = self.post.pop(peer) else { break };
                self.busy = true;
                match parcel {
                    Parcel::Message(message) => self.on_message(peer, message),
                    Parcel::Socket { socket, listener } => {
                        if self.post.doors().life() == Life::Running {
                            self.admit(listener, socket);
                        } else {
                            self.count_out();
                        }
                    }
                }
            }
        }
        for _ in 0..CALLS_PER_TURN {
            let Some(call) = self.post.pop_call() else { break };
            self.busy = true;
            match call {
                NodeCall::Op { op, reply } => reply(self.execute_control(&op)),
                NodeCall::Task(task) => task(&mut self.core),
                NodeCall::Answered(call) => self.on_control_done(call),
                NodeCall::Link { socket, peer, end, cipher } => {
                    self.admit_link(socket, peer, end, cipher);
                }
            }
        }
    }

    fn on_message(&mut self, peer: u32, message: Message) {
        match message {
            Message::Requests(batch) if self.core.peers.is_some() => {
                self.execute_in_cluster(batch, peer);
            }
            Message::Requests(mut batch) => {
                hop::execute_batch(&mut batch, &mut self.core);
                self.send_message(peer, Message::Answers(batch));
            }
            Message::Answers(batch) => self.on_answers(batch),
            Message::Control(mut call) => {
                call.answer = self.execute_control(&call.op);
                self.send_message(peer, Message::ControlDone(call));
            }
            Message::ControlDone(call) => self.on_control_done(call),
            Message::Log(chunk) => {
                let token = chunk.conn;
                if let Some(connection) = self.table.by_token(token) {
                    connection.prepare_out(&mut self.buffers);
                    connection.conn.on_log(&chunk, &mut self.core, &mut connection.out);
                    self.settle(token.index);
                }
            }
        }
    }

    pub(super) fn on_answers(&mut self, mut batch: Box<Batch>) {
        // Answers of one connection mostly follow each other: what it does next
        // is looked at once for all of them.
        let mut last = None;
        while let Some(answer) = batch.next_answer() {
            let token = answer.conn;
            if last.is_some_and(|last| last != token) {
                self.settle_token(last.take());
            }
            match self.table.by_token(token) {
                Some(connection) => {
                    connection.prepare_out(&mut self.buffers);
                    connection.conn.on_answer(answer, &mut self.core, &mut connection.out);
                    last = Some(token);
                }
                None => hop::discard(answer, &mut self.core),
            }
        }
        self.settle_token(last);
        self.core.outbox.recycle(batch);
        // There is room toward that peer again.
        let mut list = std::mem::take(&mut self.stalled);
        for slot in list.drain(..) {
            if let Some(connection) = self.table.get(slot) {
                connection.stalled = false;
                if connection.blocked && !connection.ready {
                    connection.ready = true;
                    self.ready.push(slot);
                }
            }
        }
        self.stalled = list;
    }

    fn settle_token(&mut self, token: Option<ConnToken>) {
        if let Some(token) = token {
            self.settle(token.index);
        }
    }

    fn on_control_done(&mut self, call: Box<ControlCall>) {
        let Some(token) = call.conn else { return };
        if let Some(connection) = self.table.by_token(token) {
            connection.prepare_out(&mut self.buffers);
            connection.conn.on_control(call, &mut self.core, &mut connection.out);
            self.settle(token.index);
        }
    }

    fn execute_control(&mut self, op: &control::ControlOp) -> control::ControlAnswer {
        self.core.stats.connections = self.table.open_count() as u64;
        self.core.stats.connection_bytes = self.connection_bytes() as u64;
        self.core.stats.buffer_bytes =
            (self.buffers.spare_bytes() + self.backend.memory_bytes()) as u64;
        let view = View {
            table: &self.table,
            listeners: &self.listeners,
            core: self.core.id,
            cores: self.core.cores,
            first_connection: self.core.watch.first_connection,
            now: self.core.now,
            started: self.core.shared.started,
            descriptor: &|slot| self.backend.descriptor(slot),
        };
        control::execute(op, &mut self.core, &view)
    }

    /// Sends now, or with the next turn if the queue is full.
    pub(super) fn send_message(&mut self, peer: u32, message: Message) {
        match self.post.push(peer, Parcel::Message(message)) {
            Ok(()) | Err(Parcel::Socket { .. }) => {}
            Err(Parcel::Message(message)) => self.core.outbox.put_back(peer, message),
        }
    }

    /// Everything that this turn has for other cores, and one wake-up each.
    pub(super) fn post_mail(&mut self) {
        let own = self.core.id;
        self.core.post_logs();
        for _ in 0..CALLS_PER_TURN {
            match self.core.outbox.take(own) {
                None => break,
                Some(Message::Control(mut call)) => {
                    call.answer = self.execute_control(&call.op);
                    self.on_control_done(call);
                }
                Some(other) => self.on_message(own, other),
            }
        }
        for peer in 0..self.core.cores {
            if peer == own {
                continue;
            }
            while let Some(message) = self.core.outbox.take(peer) {
                if let Err(Parcel::Message(message)) =
                    self.post.push(peer, Parcel::Message(message))
                {
                    self.core.outbox.put_back(peer, message);
                    break;
                }
            }
        }
        self.post.wake_touched();
    }

    pub(super) fn outbox_has_own_mail(&self) -> bool {
        self.core.outbox.has_mail(self.core.id)
    }

    /// Whether something could not be posted in this turn.
    pub(super) fn waits_for_room(&self) -> bool {
        (0..self.core.cores).any(|peer| self.core.outbox.has_mail(peer))
    }
}

/// The connections as `stats conns` shows them. Addresses are asked of the
/// kernel only now, so that they cost nothing otherwise.
struct View<'a> {
    table: &'a Table,
    listeners: &'a [ListenerInfo],
    core: u32,
    cores: u32,
    first_connection: u64,
    now: engine::Now,
    started: engine::Now,
    descriptor: &'a dyn Fn(Slot) -> Option<RawFd>,
}

impl View<'_> {
    /// The listeners have the first numbers, and the first core shows them.
    fn each_listener(&self, each: &mut dyn FnMut(ConnSummary<'_>)) {
        for (number, listener) in self.listeners.iter().enumerate() {
            let address = match &listener.address {
                ListenAddress::Unix { path, .. } => format!("unix:{}", path.display()),
                ListenAddress::Tcp(address) => shown(*address),
            };
            each(ConnSummary {
                number: number as u64,
                address: &address,
                listen_address: None,
                state: "conn_listening",
                last_command: self.started,
            });
        }
    }
}

/// A TCP address as `stats conns` writes it.
fn shown(address: std::net::SocketAddr) -> String {
    match address {
        std::net::SocketAddr::V4(address) => format!("tcp:{address}"),
        std::net::SocketAddr::V6(address) => format!("tcp6:{address}"),
    }
}

impl Connections for View<'_> {
    fn each(&self, each: &mut dyn FnMut(ConnSummary<'_>)) {
        if self.core == 0 {
            self.each_listener(each);
        }
        for (slot, connection) in self.table.iter() {
            if !connection.conn.is_client() {
                continue;
            }
            let listener = self.listeners.get(connection.listener as usize);
            let (address, listen_address) = match listener.map(|listener| &listener.address) {
                Some(ListenAddress::Unix { path, .. }) => {
                    let path = format!("unix:{}", path.display());
                    (path.clone(), path)
                }
                _ => {
                    let descriptor = (self.descriptor)(slot).unwrap_or(-1);
                    let text = |address: std::io::Result<std::net::SocketAddr>| {
                        address.map_or_else(|_| "<gone>".into(), shown)
                    };
                    (text(socket::peer_address(descriptor)), text(socket::own_address(descriptor)))
                }
            };
            each(ConnSummary {
                number: connection_number(self.first_connection, self.cores, self.core, slot),
                address: &address,
                listen_address: Some(&listen_address),
                state: connection.conn.state(),
                last_command: connection.conn.last_command(self.now),
            });
        }
    }
}
