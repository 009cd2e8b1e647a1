//! What copies cost a write, and another node's answer a read; what copies of a hot
//! key are worth.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::page::Page;
use super::speed::{Figure, load, median};
use super::{Options, PROFILE};
use crate::server::{Program, Server, Setup, free_port};
use crate::{build, paths};

const NODES: usize = 3;
/// In which a cluster must take writes, and then to be left alone for.
const PATIENCE: Duration = Duration::from_secs(20);
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// Name, the generator's arguments.
const SHAPES: &[(&str, &[&str])] = &[
    ("SET, lone", &["--ratio", "0:1"]),
    ("SET, 16 deep", &["--ratio", "0:1", "--pipeline", "16"]),
    ("GET, lone", &["--ratio", "1:0"]),
    ("GET, 16 deep", &["--ratio", "1:0", "--pipeline", "16"]),
];

/// A node alone, or three with copies. Dropped, they end.
struct Group {
    name: String,
    nodes: Vec<Server>,
    folder: Option<PathBuf>,
    figures: Vec<Figure>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

const FILL: &[&str] = &["--ratio", "1:0", "--preload", "--requests", "1000"];
const FLAGS: &[&str] = &["-t", "1", "-m", "256", "-c", "4096", "--pin-cores", "no"];

fn alone(seawalld: &Program) -> Result<Group> {
    let nodes = vec![Setup::new(seawalld, FLAGS).start()?];
    Ok(Group { name: "no cluster".into(), nodes, folder: None, figures: Vec::new() })
}

fn cluster(seawalld: &Program, name: &str, copies: usize, flags: &[&str]) -> Result<Group> {
    let memory = PathBuf::from("/dev/shm");
    let root = if memory.is_dir() { memory } else { paths::target().join("xtask") };
    let folder = root.join(format!("seawall-{}-{name}", std::process::id()).replace(' ', "-"));
    let mut peers = Vec::new();
    for _ in 0..NODES {
        peers.push(format!("127.0.0.1:{}", free_port()?));
    }
    let (name, nodes) = (name.to_owned(), Vec::new());
    let mut group = Group { name, nodes, folder: Some(folder.clone()), figures: Vec::new() };
    for (at, own) in peers.iter().enumerate() {
        let (name, directory) = (format!("n{at}"), folder.join(format!("n{at}")));
        let (join, copies) = (peers.join(","), copies.to_string());
        let directory = directory.to_string_lossy();
        let own = [
            FLAGS,
            &["--cluster-listen", own, "--join", &join, "--node-name", &name],
            &["--cluster-directory", &directory, "--replicas", &copies],
            flags,
        ];
        group.nodes.push(Setup::new(seawalld, &own.concat()).start()?);
    }
    let deadline = Instant::now() + PATIENCE;
    for node in &group.nodes {
        while !takes_writes(node)? {
            ensure!(Instant::now() < deadline, "no writes yet:\n{}", node.log_tail());
        }
    }
    // Until the last node has its share.
    std::thread::sleep(SETTLED_AFTER);
    Ok(group)
}

fn takes_writes(node: &Server) -> Result<bool> {
    let mut stream = BufReader::new(TcpStream::connect(node.address)?);
    stream.get_mut().write_all(b"set replication:begins 0 0 1\r\n1\r\n")?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    Ok(answer.starts_with("STORED"))
}

/// One node without a cluster, and three with 1, 2 and 3 copies.
pub fn table(options: &Options, page: &mut Page) -> Result<u64> {
    let seawalld = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let mut groups = vec![alone(&seawalld)?];
    for (copies, name) in (1..).zip(["1 copy", "2 copies", "3 copies"]) {
        groups.push(cluster(&seawalld, name, copies, &[])?);
    }
    for group in &groups {
        load(&group.nodes[0], options, FILL)?;
    }
    page.say(&format!(
        "Requests a second and p99 in microseconds over 50 connections to one node, {} keys of 30 B with",
        options.keys
    ));
    page.say(&format!(
        "values of 100 B, medians of {} interleaved rounds. A cluster is three nodes of one core; these, the",
        options.rounds
    ));
    page.say("generator and the idle groups share two CPUs, so a cluster does the work of three on what is");
    page.say(
        "left of them. With 1 copy two requests of three go to another node; with 3 every read is",
    );
    page.say("answered by the node that is asked, and every write waits for two replicas.\n");
    let mut columns = vec![String::new()];
    columns.extend(groups.iter().flat_map(|group| [group.name.clone(), "p99".into()]));
    page.head(&columns.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, shape) in SHAPES {
        groups.iter_mut().for_each(|group| group.figures.clear());
        for _ in 0..options.rounds {
            for group in &mut groups {
                let figure = load(&group.nodes[0], options, shape)?;
                group.figures.push(figure);
            }
        }
        let mut row = vec![(*name).to_owned()];
        for group in &groups {
            let speeds = group.figures.iter().map(|figure| figure.keys_per_second).collect();
            let p99: Result<Vec<f64>> =
                group.figures.iter().map(|figure| figure.latency_us("p99_us")).collect();
            row.push(format!("{:.0}k", median(speeds) / 1000.0));
            row.push(format!("{:.0}", median(p99?)));
        }
        page.row(row);
    }
    Ok(SHAPES.len() as u64)
}

/// Name, the generator's arguments.
const READS: &[(&str, &[&str])] = &[
    ("one key, lone", &["--keys", "1"]),
    ("one key, 16 deep", &["--keys", "1", "--pipeline", "16"]),
    ("Zipf 1.2, lone", &["--distribution", "zipf:1.2"]),
    ("Zipf 1.2, 16 deep", &["--distribution", "zipf:1.2", "--pipeline", "16"]),
    ("all keys alike, 16 deep", &["--pipeline", "16"]),
];

/// Three nodes with one copy of each partition, with and without copies of hot keys.
pub fn hot(options: &Options, page: &mut Page) -> Result<u64> {
    let seawalld = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    let groups = [
        cluster(&seawalld, "hot keys are copied", 1, &[])?,
        cluster(&seawalld, "they are not", 1, &["--hot-copies", "0"])?,
    ];
    for group in &groups {
        load(&group.nodes[0], options, FILL)?;
        load(&group.nodes[0], options, &[FILL, &["--keys", "1"]].concat())?;
    }
    page.say(&format!(
        "Reads a second over 50 connections to each of three nodes in turn, {} keys of 30 B with values of",
        options.keys
    ));
    page.say(&format!(
        "100 B, 1 copy of each partition: medians of {} interleaved rounds. The ratio is that of each round.",
        options.rounds
    ));
    page.say("The nodes have one core each and share two CPUs with the generator.\n");
    page.head(&["reads", &groups[0].name, &groups[1].name, "ratio"]);
    for (name, shape) in READS {
        let reads = [&["--ratio", "1:0"][..], shape].concat();
        let (mut speeds, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..options.rounds {
            let mut round = [0.0; 2];
            for (group, speed) in groups.iter().zip(&mut round) {
                for node in &group.nodes {
                    *speed += load(node, options, &reads)?.keys_per_second / NODES as f64;
                }
            }
            ratios.push(round[0] / round[1]);
            speeds.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
        }
        let speeds = speeds.map(|all| format!("{:.0}k", median(all) / 1000.0));
        let ratio = format!("{:.2}", median(ratios));
        page.row([(*name).to_owned(), speeds[0].clone(), speeds[1].clone(), ratio]);
    }
    Ok(READS.len() as u64)
}
