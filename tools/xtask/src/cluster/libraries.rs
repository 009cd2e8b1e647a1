//! Client libraries keep in step with a healthy node while another one dies.
//!
//! Each asks one node for many keys at a time. Some of these are led by a node that
//! is killed, so that gets come in which one key can be answered and the next cannot.
//! Whatever fails: a value is that of its key, and no library meets with anything but
//! a miss or the server's own error.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::scene::Scene;
use crate::{paths, process, suites};

const ROUNDS: usize = 3;
/// How long they go on after the last fault.
const CALM: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

/// Running libraries.
struct Libraries {
    child: Child,
    /// They end when this does.
    until: ChildStdin,
}

impl Libraries {
    fn start(command: &mut Command) -> Result<Libraries> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process::bind_to_parent(command).spawn().context("no clients")?;
        let until = child.stdin.take().context("a pipe was asked for")?;
        Ok(Libraries { child, until })
    }

    /// What each of them saw.
    fn end(self) -> Result<Vec<Value>> {
        let Libraries { mut child, until } = self;
        drop(until);
        let ended = process::wait_until(&mut child, Instant::now() + PATIENCE)?;
        if ended.is_none() {
            child.kill()?;
        }
        let mut text = String::new();
        child.stdout.take().context("a pipe was asked for")?.read_to_string(&mut text)?;
        ensure!(ended.is_some_and(|status| status.success()), "the clients broke: {text}");
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

/// One node dies and comes back, a few times; the libraries ask another one.
pub fn round(scene: &mut Scene) -> Result<()> {
    suites::node()?;
    let asked = scene.leader()?;
    let address = scene.nodes[asked].clients();
    let place = [address.ip().to_string(), address.port().to_string()];
    let mut python = Command::new(&scene.programs.python);
    python.arg(paths::xtask().join("clients/cluster/libraries.py")).args(&place);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    let mut node = Command::new("node");
    node.current_dir(suites::node_folder()).arg("libraries.mjs").args(&place);
    let running = [Libraries::start(&mut python)?, Libraries::start(&mut node)?];
    for victim in scene.others(asked).into_iter().cycle().take(ROUNDS) {
        std::thread::sleep(CALM);
        let at_ns = process::monotonic_ns();
        scene.nodes[victim].kill()?;
        scene.measure(at_ns, &scene.others(victim))?;
        scene.restart(victim)?;
        scene.wait_until_whole()?;
    }
    std::thread::sleep(CALM);
    let mut wrong = Vec::new();
    for libraries in running {
        for seen in libraries.end()? {
            match judge(&seen) {
                Ok(note) => scene.notes.push(note),
                Err(error) => wrong.push(error.to_string()),
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// `pymemcache 4711 gets`, or what is wrong.
fn judge(seen: &Value) -> Result<String> {
    let name = seen["name"].as_str().context("a name")?;
    let wrong = seen["wrong"].as_array().context("wrong answers")?;
    ensure!(wrong.is_empty(), "{name} got values of other keys: {}", Value::from(wrong.clone()));
    let errors = seen["errors"].as_object().context("errors")?;
    let is_ours = |error: &&String| is_of_the_server(name, error);
    let others: Vec<_> = errors.keys().filter(|error| !is_ours(error)).collect();
    ensure!(others.is_empty(), "{name} met with {others:?}");
    for what in ["gets", "hits", "sets"] {
        ensure!(seen[what].as_u64() > Some(0), "{name}: no {what}: {seen}");
    }
    let count: u64 = errors.values().filter_map(Value::as_u64).sum();
    Ok(format!("{name}: {} gets, {count} errors", seen["gets"]))
}

/// What a write is answered with when the node that executes it dies.
const TEXTS: &[&str] = &["the outcome is unknown", "no node takes this key now"];

/// The same in the words of libraries that do not pass the text on.
///
/// libmemcached numbers a `SERVER_ERROR` 10, and over the binary protocol every status
/// that it does not know 7 (`binary_read_one_response`), memcached's own "temporary
/// failure" among them. After either it closes the connection, and says that the server
/// has failed until its `retry_timeout` is over. Node's memcached asks nobody for a
/// while after a `SERVER_ERROR`.
const SPELLINGS: &[(&str, &str)] = &[
    ("pylibmc, text", "error 10 from memcached_set: SERVER ERROR"),
    ("pylibmc, binary", "error 7 from memcached_set: UNKNOWN READ FAILURE"),
    ("pylibmc", "SERVER HAS FAILED AND IS DISABLED UNTIL TIMED RETRY"),
    ("memjs", "Temporary failure"),
    ("node memcached", "not available"),
];

/// Whether a library passes on an error that the server answered with.
fn is_of_the_server(library: &str, error: &str) -> bool {
    let spelled = |(name, text): &(&str, &str)| library.starts_with(name) && error.contains(text);
    TEXTS.iter().any(|text| error.contains(text)) || SPELLINGS.iter().any(spelled)
}
