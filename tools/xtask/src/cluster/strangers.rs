//! What should not speak to a cluster's port: a node of another cluster, one of
//! another version, and something that is no node at all. Each is refused, said so in
//! the log, on both sides where there are two, and shown by `seawallctl ring`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::node::Node;
use super::scene::Scene;

/// Refusals are logged once a second.
const BETWEEN: Duration = Duration::from_millis(1_100);
const PATIENCE: Duration = Duration::from_secs(10);

pub fn round(scene: &mut Scene) -> Result<()> {
    // No node: somebody's browser, say.
    comes(scene, "a browser")?;
    let why = "does not speak Seawall's peer protocol";
    speak(scene, b"GET / HTTP/1.1\r\nHost: seawall\r\n\r\n")?;
    shown(scene, why)?;

    // A later version: this preface, and a greeting that cannot be read here.
    comes(scene, "a later version")?;
    let why = "speaks version 99 of the peer protocol";
    let answer = speak(scene, b"SWL\x63C\0\0\0\x03\0\0\0abc")?;
    ensure!(answer.contains(why), "another version is answered {answer:?}");
    shown(scene, why)?;

    // Another cluster's node, with this one's addresses.
    comes(scene, "another cluster's node")?;
    let why = "belongs to cluster \"ebb\"";
    let stranger = scene.add_stranger(&["--cluster-name", "ebb"])?;
    shown(scene, why)?;
    let deadline = Instant::now() + PATIENCE;
    while !says(scene, &stranger, why)? {
        if Instant::now() > deadline {
            bail!("the node of another cluster does not say why:\n{}", stranger.said()?);
        }
        sleep(Duration::from_millis(50));
    }
    drop(stranger);
    // None of it disturbs anybody.
    scene.wait_until_whole()?;
    scene.notes.push("garbage, another version and another cluster refused".into());
    Ok(())
}

/// What the first node's port for peers answers to some bytes.
fn speak(scene: &Scene, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(scene.nodes[0].peers())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    // Perhaps a reset, for what was not read.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The next refusal will be logged, and what was said before is not looked at.
fn comes(scene: &Scene, what: &str) -> Result<()> {
    sleep(BETWEEN);
    scene.nodes.iter().try_for_each(|node| node.note(what))
}

/// A node has it in its log, and `seawallctl` shows it.
fn says(scene: &Scene, node: &Node, why: &str) -> Result<bool> {
    Ok(node.said()?.contains(why) && scene.control_of(node, &["ring"])?.contains(why))
}

/// Some node says so.
fn shown(scene: &Scene, why: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for node in &scene.nodes {
            if says(scene, node, why)? {
                return Ok(());
            }
        }
        ensure!(Instant::now() < deadline, "no node says {why:?}");
        sleep(Duration::from_millis(50));
    }
}
