//! A cluster of three nodes with clients on it, for the faults to happen to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::clients::{Clients, Seen};
use super::network::{End, Network};
use super::node::Node;
use crate::{install, process};

const NODES: usize = 3;
/// The host beside them and a node that joins later, for etcd.
const ETCD_HOST: usize = NODES + 1;
/// In which a cluster must be whole again after any fault.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
const CONTROL_PATIENCE: Duration = Duration::from_secs(60);

/// Who keeps the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinator {
    Embedded,
    Etcd,
}

impl Coordinator {
    pub fn name(self) -> &'static str {
        match self {
            Coordinator::Embedded => "embedded",
            Coordinator::Etcd => "etcd",
        }
    }

    /// The file of what was measured with it: the embedded one is the usual.
    pub fn page(self, name: &str) -> String {
        match self {
            Coordinator::Embedded => name.to_owned(),
            Coordinator::Etcd => format!("{name}-etcd"),
        }
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Programs {
    pub seawalld: PathBuf,
    pub seawallctl: PathBuf,
    pub checker: PathBuf,
    pub python: PathBuf,
}

/// Everything of one case. Dropped, nothing of it runs.
#[derive(Debug)]
pub struct Scene {
    clients: Option<Clients>,
    pub nodes: Vec<Node>,
    etcd: Option<Child>,
    pub network: Network,
    pub programs: Programs,
    flags: Vec<String>,
    folder: PathBuf,
    /// Milliseconds until every key could be written again, of every round.
    pub writable_ms: Vec<f64>,
    /// What else rounds found.
    pub notes: Vec<String>,
}

impl Scene {
    /// Starts a cluster and, when it is whole, its clients.
    pub fn new(
        programs: &Programs,
        coordinator: Coordinator,
        settings: &[&str],
        folder: &Path,
    ) -> Result<Scene> {
        let mut scene = Scene::without_clients(programs, coordinator, settings, folder)?;
        scene.clients = Some(Clients::start(&scene.programs.python, &scene.nodes, folder)?);
        Ok(scene)
    }

    /// Starts a cluster, and waits until it is whole.
    pub fn without_clients(
        programs: &Programs,
        coordinator: Coordinator,
        settings: &[&str],
        folder: &Path,
    ) -> Result<Scene> {
        std::fs::create_dir_all(folder)?;
        if coordinator == Coordinator::Etcd {
            install::apt(&["etcd-server"], &["etcd"])?;
        }
        // From here on the Internet is out of reach.
        let network = Network::new(ETCD_HOST + 1)?;
        let nodes = (0..NODES).map(|host| Node::new(host, folder)).collect();
        let settings = settings.iter().map(|setting| (*setting).to_owned());
        let (mut etcd, mut flags) = (None, settings.collect::<Vec<_>>());
        if coordinator == Coordinator::Etcd {
            etcd = Some(start_etcd(&network, folder)?);
            let url = format!("etcd://{}:2379", End::Host(ETCD_HOST).address());
            flags.extend(["--coordinator".to_owned(), url]);
        }
        let programs = programs.clone();
        let mut scene = Scene {
            clients: None,
            nodes,
            etcd,
            network,
            programs,
            flags,
            folder: folder.to_owned(),
            writable_ms: Vec::new(),
            notes: Vec::new(),
        };
        for at in 0..NODES {
            scene.restart(at)?;
        }
        scene.wait_until_whole()?;
        Ok(scene)
    }

    /// Starts a node that ended.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        self.nodes[at].start(&self.network, &self.programs.seawalld, &self.flags)
    }

    /// Starts one node more; it joins by itself.
    pub fn add_node(&mut self) -> Result<()> {
        let host = self.nodes.len();
        ensure!(host < ETCD_HOST, "there is no host for a node more");
        self.nodes.push(Node::new(host, &self.folder));
        self.restart(host)
    }

    /// Ends the node that was added last, which must be empty, and has it forgotten.
    pub fn remove_node(&mut self) -> Result<()> {
        let mut node = self.nodes.pop().context("no node")?;
        node.terminate()?;
        self.control(&["forget", &node.name])?;
        // Another one of its name begins anew.
        let _ = std::fs::remove_dir_all(self.folder.join(&node.name));
        Ok(())
    }

    /// Starts a node that does not belong to the others and knows no coordinator but
    /// them; dropped, it is killed.
    pub fn add_stranger(&self, flags: &[&str]) -> Result<Node> {
        let mut node = Node::new(self.nodes.len(), &self.folder);
        node.note("starts as a stranger")?;
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        node.start(&self.network, &self.programs.seawalld, &flags)?;
        Ok(node)
    }

    /// What `seawallctl` says when it asks the first node.
    pub fn control(&self, words: &[&str]) -> Result<String> {
        self.control_of(&self.nodes[0], words)
    }

    /// The same of another node.
    pub fn control_of(&self, node: &Node, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.seawallctl);
        command.args(["--admin", &node.admin().to_string()]).args(words);
        let (good, text) = process::capture(&mut command, CONTROL_PATIENCE)?;
        ensure!(good, "seawallctl {}:\n{text}", words.join(" "));
        Ok(text)
    }

    /// The clients.
    pub fn clients(&mut self) -> &mut Clients {
        self.clients.as_mut().expect("they run until the judgement")
    }

    /// The nodes but one.
    pub fn others(&self, at: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != at).collect()
    }

    /// Measures from a moment until every key can be written through these nodes.
    pub fn measure(&mut self, since_ns: u64, through: &[usize]) -> Result<()> {
        let milliseconds = self.clients().writable(since_ns, through)?;
        self.writable_ms.push(milliseconds);
        Ok(())
    }

    /// The node that leads the coordinator.
    pub fn leader(&self) -> Result<usize> {
        let leads =
            |node: &Node| node.ring().is_ok_and(|ring| ring["coordinator"]["leads"] == true);
        self.nodes.iter().position(leads).context("no node leads the coordinator")
    }

    /// The node with the most primaries that does not lead.
    pub fn busiest_follower(&self) -> Result<usize> {
        let leader = self.leader()?;
        let ring = self.nodes[leader].ring()?;
        let primaries = |at: &usize| member(&ring, &self.nodes[*at].name)["primaries"].as_u64();
        let found = self.others(leader).into_iter().max_by_key(primaries);
        let found = found.context("no node")?;
        ensure!(primaries(&found) > Some(0), "{} has no primary", self.nodes[found].name);
        Ok(found)
    }

    /// Waits until every node is up and every partition has all its copies.
    pub fn wait_until_whole(&mut self) -> Result<()> {
        self.wait_until("whole", is_whole)
    }

    /// Waits until beside that nothing is planned.
    pub fn wait_until_settled(&mut self) -> Result<()> {
        let is_settled = |ring: &Value, count| ring["settled"] == true && is_whole(ring, count);
        self.wait_until("settled", is_settled)
    }

    fn wait_until(&mut self, what: &str, is_so: fn(&Value, usize) -> bool) -> Result<()> {
        let deadline = Instant::now() + WHOLE_WITHIN;
        let nodes = self.nodes.len();
        let mut rings: Vec<Result<Value>>;
        loop {
            for node in &mut self.nodes {
                ensure!(node.is_running(), "{} ended by itself", node.name);
            }
            rings = self.nodes.iter().map(Node::ring).collect();
            if rings.iter().all(|ring| ring.as_ref().is_ok_and(|ring| is_so(ring, nodes))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said = rings.iter().map(|ring| match ring {
                    Ok(ring) => format!("{ring}"),
                    Err(error) => format!("{error:#}"),
                });
                let said: Vec<_> = said.collect();
                bail!("not {what} within {} s:\n{}", WHOLE_WITHIN.as_secs(), said.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the clients and judges what they saw.
    pub fn judge(&mut self) -> Result<Seen> {
        let clients = self.clients.take().context("judged twice")?;
        clients.judge(&self.programs.checker)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(etcd) = &mut self.etcd {
            let _ = etcd.kill();
            let _ = etcd.wait();
        }
    }
}

fn is_whole(ring: &Value, count: usize) -> bool {
    let partitions = &ring["partitions"];
    let up = |node: &Value| node["up"] == true && node["filling"] == 0 && node["in_sync"] != 0;
    let nodes = ring["nodes"].as_array();
    ring["leased"] == true
        && partitions["all"] != 0
        && partitions["whole"] == partitions["all"]
        && nodes.is_some_and(|nodes| nodes.len() == count && nodes.iter().all(up))
}

pub fn member<'a>(ring: &'a Value, name: &str) -> &'a Value {
    let nodes = ring["nodes"].as_array();
    let found = nodes.and_then(|nodes| nodes.iter().find(|node| node["name"] == name));
    found.unwrap_or(&Value::Null)
}

fn start_etcd(network: &Network, folder: &Path) -> Result<Child> {
    let url = format!("http://{}:2379", End::Host(ETCD_HOST).address());
    let mut command = network.command(ETCD_HOST, "etcd");
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
    let log = std::fs::File::create(folder.join("etcd.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    process::bind_to_parent(&mut command).spawn().context("cannot start etcd")
}
