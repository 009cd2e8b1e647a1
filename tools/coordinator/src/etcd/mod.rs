//! The order of commands, kept in etcd.
//!
//! ```text
//! /seawall/<cluster>/log/<20 digits>     a command; each is created once, after the one before
//!                    snapshot/meta       how many commands the snapshot stands for, and its parts
//!                    snapshot/<id>/<n>   a part of an encoded topology
//!                    leader              who leads; goes with a lease at last
//!                    term                grows from leader to leader
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `gateway` | requests to etcd |
//! | `log` | commands: putting them into the order, following it |
//! | `snapshot` | the topology in parts; the log before it goes |
//! | `leader` | who leads |
//!
//! A leader writes its record anew ten times a second, each time on condition
//! that nobody else has. Whoever sees it unchanged for long enough, by its own
//! clock, takes over on the same condition: no clocks are compared. This leaves
//! revisions behind, which the leader has etcd forget after some minutes, unless
//! told not to.

mod gateway;
mod leader;
mod log;
mod snapshot;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use cluster::topology::{Revision, Topology};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::applied::Applied;
use crate::wire::{Boxed, Tls};
use crate::{Confirmation, Coordinator, CoordinatorError, Health, Log as Lines, Role};
use gateway::Gateway;
use leader::Leadership;

/// Troubles with etcd are logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How a node takes part.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `host:port` of etcd's servers.
    pub endpoints: Vec<String>,
    /// User and password, if etcd wants to know.
    pub user: Option<(String, String)>,
    /// Certificates, if etcd is spoken to by TLS.
    pub tls: Option<Arc<Tls>>,
    /// Name of the cluster: several may share one etcd.
    pub cluster: String,
    /// Name of this node.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Its patience.
    pub timing: EtcdTiming,
    /// The log is cut behind a snapshot after so many commands.
    pub snapshot_every: u64,
    /// The leader has etcd forget its history now and then. Wrong only if others
    /// who share this etcd read what was there minutes ago.
    pub forget_history: bool,
    /// Where lines for the operator go.
    pub log: Lines,
}

/// Patience with etcd, and among the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTiming {
    /// The leader's record is written this often.
    pub refresh: Duration,
    /// A record that stays the same for so long is that of a dead leader. It must
    /// outlast an ordinary refresh; etcd's own elections (a second or so) stop
    /// all leaders anyway.
    pub takeover: Duration,
    /// After so long etcd itself removes the record of a leader that is gone,
    /// for those who look into it. At least 2 s.
    pub lease: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long an ordinary request may take.
    pub request_timeout: Duration,
    /// A watch without a word is looked after.
    pub silence_max: Duration,
    /// How long a command may take.
    pub append_timeout: Duration,
    /// etcd forgets what is older, roughly.
    pub history: Duration,
}

impl Default for EtcdTiming {
    fn default() -> EtcdTiming {
        EtcdTiming {
            refresh: Duration::from_millis(100),
            takeover: Duration::from_millis(250),
            lease: Duration::from_secs(5),
            connect_timeout: Duration::from_millis(200),
            request_timeout: Duration::from_secs(1),
            silence_max: Duration::from_secs(1),
            append_timeout: Duration::from_secs(3),
            history: Duration::from_secs(300),
        }
    }
}

impl EtcdOptions {
    /// The usual numbers, for `etcd://[user:password@]host:port,host:port`.
    pub fn new(
        url: &str,
        cluster: &str,
        name: &str,
        peer_address: &str,
        log: Lines,
    ) -> Result<EtcdOptions, String> {
        let (user, endpoints) = parse(url)?;
        Ok(EtcdOptions {
            endpoints,
            user,
            tls: None,
            cluster: cluster.into(),
            name: name.into(),
            peer_address: peer_address.into(),
            timing: EtcdTiming::default(),
            snapshot_every: 1000,
            forget_history: true,
            log,
        })
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("cluster", &self.cluster)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

type User = Option<(String, String)>;

fn parse(url: &str) -> Result<(User, Vec<String>), String> {
    let usual = "etcd://host:port,host:port";
    let rest = url.strip_prefix("etcd://").ok_or(format!("{url:?} is not like {usual}"))?;
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => {
            let user = user.split_once(':').ok_or("a user without a password before the @")?;
            (Some((user.0.to_owned(), user.1.to_owned())), rest)
        }
        None => (None, rest),
    };
    let endpoints: Vec<String> = rest.trim_end_matches('/').split(',').map(str::to_owned).collect();
    let good = |endpoint: &String| {
        endpoint
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match endpoints.iter().find(|endpoint| !good(endpoint)) {
        Some(bad) => Err(format!("{bad:?} in {url:?} is not host:port")),
        None => Ok((user, endpoints)),
    }
}

/// What the tasks of a node share.
struct Node {
    options: EtcdOptions,
    gateway: Arc<Gateway>,
    applied: Arc<Applied>,
    /// Commands applied here, those a snapshot stands for included.
    number: watch::Sender<u64>,
    /// Is held while topology and number change, or are read together.
    both: Mutex<()>,
    waiting: log::Waiting,
    /// Held by the one command of this node that is on its way to the end of the
    /// log: they would only be in each other's way.
    turn: tokio::sync::Mutex<()>,
    leadership: Leadership,
    role: watch::Sender<Role>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When etcd answered last.
    answered: Option<Instant>,
    trouble: Option<String>,
    /// Why the order cannot be followed, while it cannot.
    stuck: Option<String>,
    logged: Option<Instant>,
}

impl Node {
    fn key(&self, end: &str) -> String {
        format!("/seawall/{}/{end}", self.options.cluster)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn both(&self) -> MutexGuard<'_, ()> {
        self.both.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something worked.
    fn fine(&self) {
        let mut state = self.state();
        state.answered = Some(Instant::now());
        if state.trouble.take().is_some() {
            (self.options.log)("etcd answers");
        }
    }

    /// Something failed. The first of several troubles is worth a line, and one
    /// now and then while they last.
    fn trouble(&self, why: &str) {
        let mut state = self.state();
        let first = state.trouble.replace(why.to_owned()).is_none();
        let pause = if first { LOG_EVERY } else { 10 * LOG_EVERY };
        if state.logged.is_none_or(|at| at.elapsed() >= pause) {
            state.logged = Some(Instant::now());
            (self.options.log)(why);
        }
    }
}

/// A node's part in the order of commands in etcd.
pub struct Etcd {
    node: Arc<Node>,
    tasks: Mutex<JoinSet<()>>,
}

impl Etcd {
    /// Takes part from now on, as soon as etcd can be reached.
    pub fn start(options: EtcdOptions) -> Arc<Etcd> {
        let (number, _) = watch::channel(0);
        let (role, _) = watch::channel(Role::Follower { leader: None });
        let node = Arc::new(Node {
            gateway: Gateway::new(options.clone()),
            options,
            applied: Applied::new(Topology::default()),
            number,
            both: Mutex::default(),
            waiting: log::Waiting::default(),
            turn: tokio::sync::Mutex::default(),
            leadership: Leadership::default(),
            role,
            state: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(log::follow(node.clone()));
        tasks.spawn(leader::run(node.clone()));
        tasks.spawn(snapshot::run(node.clone()));
        Arc::new(Etcd { node, tasks: Mutex::new(tasks) })
    }

    /// Takes part no longer. A leader gives its place up; without that others
    /// would wait for it as for a dead one.
    pub async fn stop(&self) {
        self.abandon();
        leader::resign(&self.node).await;
    }

    /// Ends as if killed.
    pub fn abandon(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl Coordinator for Etcd {
    fn leave(&self) -> Boxed<'_, ()> {
        Box::pin(self.stop())
    }

    fn append(&self, command: Command) -> Boxed<'_, Result<Outcome, CoordinatorError>> {
        Box::pin(log::append(&self.node, command))
    }

    fn watch(&self) -> watch::Receiver<Arc<Topology>> {
        self.node.applied.watch()
    }

    fn commands_since(&self, revision: Revision) -> Option<Vec<Command>> {
        self.node.applied.commands_since(revision)
    }

    fn role(&self) -> watch::Receiver<Role> {
        self.node.role.subscribe()
    }

    fn confirm_leadership(&self) -> Boxed<'_, Result<Confirmation, CoordinatorError>> {
        Box::pin(leader::confirm(&self.node))
    }

    fn health(&self) -> Health {
        let node = &self.node;
        let role = node.role.borrow().clone();
        let state = node.state();
        let fresh = node.options.timing.silence_max + node.options.timing.takeover;
        Health {
            kind: "etcd",
            leads: matches!(role, Role::Leader { .. }),
            leader: match role {
                Role::Leader { .. } => Some(node.options.peer_address.clone()),
                Role::Follower { leader } => leader,
            },
            term: node.leadership.term(),
            quorum_reachable: state.answered.is_some_and(|at| at.elapsed() < fresh),
            keepers: node.options.endpoints.clone(),
            learners: Vec::new(),
            revision: node.applied.topology().revision().0,
            commands_applied: *node.number.borrow(),
            changed_ms_ago: node.applied.changed().map(|ago| ago.as_millis() as u64),
            disk_error: None,
            waits_for: state.stuck.clone().or_else(|| state.trouble.clone()),
            other_cluster: None,
        }
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Etcd").field("options", &self.node.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn addresses_are_read() {
        let (user, endpoints) = parse("etcd://a:2379,[::1]:2379").unwrap();
        assert_eq!((user, endpoints), (None, vec!["a:2379".into(), "[::1]:2379".into()]));
        let (user, endpoints) = parse("etcd://me:p@ss@a:1/").unwrap();
        assert_eq!(user, Some(("me".into(), "p@ss".into())));
        assert_eq!(endpoints, ["a:1"]);
        for (url, part) in [
            ("a:1", "is not like"),
            ("etcd://a", "\"a\""),
            ("etcd://a:1,", "\"\""),
            ("etcd://x@a:1", "user"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
