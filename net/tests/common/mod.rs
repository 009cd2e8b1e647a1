//! A node without sockets: cores in one thread, messages carried by hand.

#![allow(dead_code)]

use engine::{Arena, HashSeed, Now, Shard, ShardConfig};
use seawall_net::allowance::Crowding;
use seawall_net::auth::Users;
use seawall_net::conn::{Conn, Next};
use seawall_net::control::{self, ConnSummary, Connections};
use seawall_net::core::{Core, Settings, Shared};
use seawall_net::hop::{self, ConnToken, Message};
use seawall_net::peering::Home;
use std::sync::Arc;

/// When every test starts.
pub const START: Now = Now(1_800_000_000_000);

/// A client: what the reactor keeps of it.
pub struct Client {
    pub core: usize,
    pub conn: Conn,
    pub backlog: Vec<u8>,
    pub out: Vec<u8>,
    pub closed: bool,
    /// Most bytes that `out` ever held.
    pub out_bytes_max: usize,
    yielded: bool,
}

/// Cores and clients.
pub struct Node {
    pub cores: Vec<Core>,
    pub clients: Vec<Client>,
    pub shared: Arc<Shared>,
}

struct Table<'a>(&'a [Client], usize);

impl Connections for Table<'_> {
    fn each(&self, each: &mut dyn FnMut(ConnSummary<'_>)) {
        for (index, client) in self.0.iter().enumerate().filter(|(_, client)| client.core == self.1)
        {
            each(ConnSummary {
                number: index as u64,
                address: "tcp:127.0.0.1:1",
                listen_address: Some("tcp:127.0.0.1:2"),
                state: client.conn.state(),
                last_command: client.conn.last_command(),
            });
        }
    }
}

impl Node {
    pub fn new(cores: u32) -> Node {
        Node::with(cores, Settings::default(), |_| {})
    }

    pub fn with(cores: u32, settings: Settings, adjust: impl Fn(&mut ShardConfig)) -> Node {
        let users = Users::parse(b"user:pass\nanna:secret\n").unwrap();
        let memory = settings.memory_bytes_max as usize / cores as usize;
        let versions = settings.cas;
        let value_bytes_max = settings.value_bytes_max;
        let shared = Arc::new(Shared::new(settings, cores, users, START));
        let seed = HashSeed::new(42);
        let cores = (0..cores)
            .map(|id| {
                let mut config = ShardConfig {
                    value_bytes_max,
                    versions,
                    namespaces: vec!["user".into(), "page".into()],
                    tag_generations_max: 1000,
                    ..ShardConfig::new(seed.clone(), memory)
                };
                adjust(&mut config);
                let shard = Shard::new(config, Arena::heap(memory));
                Core::new(id, cores, shard, seed.clone(), Arc::clone(&shared))
            })
            .collect();
        Node { cores, clients: Vec::new(), shared }
    }

    /// A client of core `core`; its index.
    pub fn connect(&mut self, core: usize) -> usize {
        let index = self.clients.len();
        let token = ConnToken { index: index as u32, generation: 1 };
        let conn = Conn::new(token, &self.cores[core]);
        self.clients.push(Client {
            core,
            conn,
            backlog: Vec::new(),
            out: Vec::new(),
            closed: false,
            out_bytes_max: 0,
            yielded: false,
        });
        index
    }

    pub fn advance(&mut self, ms: u64) {
        for core in &mut self.cores {
            core.now.0 += ms;
            core.shard.maintain(core.now);
        }
    }

    /// Bytes arrive.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        let client = &mut self.clients[client];
        client.backlog.extend_from_slice(bytes);
        client.step(&mut self.cores);
    }

    /// Carries messages and offers backlogs until nothing moves. Nobody reads.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for client in &mut self.clients {
                if !client.closed && (client.yielded || client.conn.is_ready()) {
                    client.step(&mut self.cores);
                    moved = true;
                }
            }
            for from in 0..self.cores.len() {
                for to in 0..self.cores.len() {
                    while let Some(message) = self.cores[from].outbox.take(to as u32) {
                        self.deliver(to, message);
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// What the first core does for its peers in a turn.
    pub fn serve_peers(&mut self) {
        let Some(mut peers) = self.cores[0].peers.take() else { return };
        peers.retry(&mut self.cores[0]);
        peers.complete(&mut self.cores[0]);
        peers.retry(&mut self.cores[0]);
        let finished = peers.finished();
        self.cores[0].peers = Some(peers);
        for finished in finished {
            self.deliver(finished.batch.from as usize, Message::Answers(finished.batch));
        }
    }

    fn deliver(&mut self, to: usize, message: Message) {
        match message {
            Message::Requests(batch) if self.cores[to].peers.is_some() => {
                let mut peers = self.cores[to].peers.take().unwrap();
                let home = batch.from as usize;
                peers.execute(batch, Home::Core(home as u32), &mut self.cores[to]);
                let finished = peers.finished();
                self.cores[to].peers = Some(peers);
                for finished in finished {
                    self.deliver(home, Message::Answers(finished.batch));
                }
            }
            Message::Requests(mut batch) => {
                hop::execute_batch(&mut batch, &mut self.cores[to]);
                let home = batch.from as usize;
                self.deliver(home, Message::Answers(batch));
            }
            Message::Answers(mut batch) => {
                while let Some(answer) = batch.next_answer() {
                    let client = &mut self.clients[answer.conn.index as usize];
                    assert_eq!(client.core, to);
                    if client.closed {
                        hop::discard(answer, &mut self.cores[to]);
                    } else {
                        client.conn.on_answer(answer, &mut self.cores[to], &mut client.out);
                        client.out_bytes_max = client.out_bytes_max.max(client.out.len());
                    }
                }
                self.cores[to].outbox.recycle(batch);
            }
            Message::Control(mut call) => {
                call.answer =
                    control::execute(&call.op, &mut self.cores[to], &Table(&self.clients, to));
                let home = call.from as usize;
                self.deliver(home, Message::ControlDone(call));
            }
            Message::ControlDone(call) => {
                let Some(conn) = call.conn else { return };
                let client = &mut self.clients[conn.index as usize];
                if !client.closed {
                    client.conn.on_control(call, &mut self.cores[to], &mut client.out);
                    client.out_bytes_max = client.out_bytes_max.max(client.out.len());
                }
            }
            Message::Log(chunk) => {
                let client = &mut self.clients[chunk.conn.index as usize];
                if !client.closed {
                    client.conn.on_log(&chunk, &mut self.cores[to], &mut client.out);
                }
            }
        }
    }

    /// Settles, and reads up to `len` bytes of what there is to read.
    pub fn receive_some(&mut self, client: usize, len: usize) -> Vec<u8> {
        self.settle();
        let client = &mut self.clients[client];
        let len = len.min(client.out.len());
        let bytes: Vec<u8> = client.out.drain(..len).collect();
        client.conn.on_drained(&mut self.cores[client.core], &mut client.out);
        client.out_bytes_max = client.out_bytes_max.max(client.out.len());
        bytes
    }

    /// Reads all answers.
    pub fn receive(&mut self, client: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            for core in &mut self.cores {
                core.post_logs();
            }
            let bytes = self.receive_some(client, usize::MAX);
            self.settle();
            let idle = bytes.is_empty() && self.clients[client].out.is_empty();
            all.extend(bytes);
            if idle {
                return all;
            }
        }
    }

    /// Sends, and reads the whole answer.
    pub fn ask(&mut self, client: usize, bytes: &[u8]) -> String {
        self.send(client, bytes);
        let answer = self.receive(client);
        answer.escape_ascii().to_string().replace("\\r\\n", "\n")
    }

    /// The socket is gone.
    pub fn close(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.closed = true;
        client.conn.on_closed(&mut self.cores[client.core]);
    }
}

impl Client {
    fn step(&mut self, cores: &mut [Core]) {
        if self.closed {
            return;
        }
        cores[self.core].begin_turn(Crowding::Calm, usize::MAX);
        self.yielded = false;
        let progress = self.conn.on_bytes(&mut cores[self.core], &self.backlog, &mut self.out);
        self.out_bytes_max = self.out_bytes_max.max(self.out.len());
        assert!(progress.consumed <= self.backlog.len());
        self.backlog.drain(..progress.consumed);
        match progress.next {
            Next::Read { need } => assert!(need > 0),
            Next::Yield | Next::Later => self.yielded = true,
            Next::Blocked => {}
            Next::Close => {
                self.closed = true;
                self.conn.on_closed(&mut cores[self.core]);
            }
        }
    }
}
