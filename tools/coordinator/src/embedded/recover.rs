//! A cluster begun anew, after the directories of most keepers were lost.
//!
//! What is left of a majority cannot decide anything: a command that the lost keepers
//! had put into the order without this one would be undone. So nothing of the old
//! order is taken over. The node that recovers begins a new cluster, under a new
//! number, and is its only keeper; every message of Raft carries that number, so old
//! keepers are not listened to. It remembers which cluster it took the place of: nodes
//! of the old one that ask it get the answer to forget it, and to be started once more, so
//! that nobody holds items of the old cluster in the new one.
//!
//! What cannot be prevented here: keepers that were declared lost, are not, and never
//! meet a node of the new cluster. So this refuses while any of them answers, and has
//! the operator name each one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use redb::{ReadableDatabase, ReadableTable};
use tokio::task::JoinSet;

use super::EmbeddedOptions;
use super::disk::{self, Disk, DiskError, FILE, LOG, read_meta};
use super::log::{decode, meta};
use super::machine::Machine;
use super::types::{Beginning, Entry, Former, Introduce, Keeper, Known, encode, kind};
use crate::wire::Peers;

/// How long a node has to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Former clusters that are remembered.
const FORMER_MAX: usize = 16;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The old file, under its new name.
    pub kept: PathBuf,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoverError {
    /// The file cannot be read or written.
    Disk(DiskError),
    /// It would not be safe, or not needed.
    Refused(String),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Disk(DiskError::InUse { path }) => {
                write!(out, "this node runs ({} is in use): stop it first", path.display())
            }
            RecoverError::Disk(error) => write!(out, "{error}"),
            RecoverError::Refused(why) => write!(out, "{why}"),
        }
    }
}

impl std::error::Error for RecoverError {}

impl From<DiskError> for RecoverError {
    fn from(error: DiskError) -> RecoverError {
        RecoverError::Disk(error)
    }
}

/// What the file of this node remembers.
#[derive(Clone, Debug, Default)]
struct Memory {
    id: u64,
    cluster: u64,
    former: Former,
    voters: BTreeMap<u64, Keeper>,
    learners: BTreeMap<u64, Keeper>,
}

/// Begins the cluster anew with this node as its only keeper. It must not run. `lost`
/// names the keepers that will never come back with what they remembered.
pub async fn recover(
    options: &EmbeddedOptions,
    peers: &Arc<Peers>,
    lost: &[String],
) -> Result<Recovered, RecoverError> {
    let path = options.directory.join(FILE);
    if !path.exists() {
        return Err(RecoverError::Refused(format!(
            "there is no {}: this node remembers no cluster; start it, and it joins or begins one",
            path.display()
        )));
    }
    let disk = Disk::open(&options.directory, 0, options.on_disk_thread).await?;
    let memory = remember(&disk).await;
    disk.close().await;
    let memory = memory?;
    if let Some(why) = refusal(&memory, lost) {
        return Err(RecoverError::Refused(why));
    }
    let answers = ask(options, peers, &memory).await;
    if let Some(why) = contradiction(&memory, lost, &answers) {
        return Err(RecoverError::Refused(why));
    }
    Ok(Recovered { kept: begin_anew(options, &memory)? })
}

async fn remember(disk: &Disk) -> Result<Memory, DiskError> {
    let snapshot = Machine::stored_membership(disk).await?;
    disk.run(move |database| {
        let number = |name: &str| -> Result<u64, redb::Error> {
            let bytes = read_meta(database, name)?.and_then(|bytes| bytes.try_into().ok());
            Ok(bytes.map_or(0, u64::from_le_bytes))
        };
        let mut memory = Memory {
            id: number("id")?,
            cluster: number("cluster")?,
            former: meta(database, "former")?.unwrap_or_default(),
            ..Memory::default()
        };
        let mut membership = snapshot.map(|stored| stored.membership().clone());
        let reading = database.begin_read()?;
        for entry in reading.open_table(LOG)?.iter()? {
            let (_, entry) = entry?;
            if let EntryPayload::Membership(later) = decode::<Entry>(entry.value())?.payload {
                membership = Some(later);
            }
        }
        match membership {
            Some(membership) => {
                let voters: Vec<u64> = membership.voter_ids().collect();
                for (id, keeper) in membership.nodes() {
                    let among = match voters.contains(id) {
                        true => &mut memory.voters,
                        false => &mut memory.learners,
                    };
                    among.insert(*id, keeper.clone());
                }
            }
            None => {
                let beginning = meta::<Beginning>(database, "beginning")?;
                memory.voters = beginning.map(|beginning| beginning.keepers).unwrap_or_default();
            }
        }
        Ok(memory)
    })
    .await
}

/// Why this must not be, as far as the file and the operator say.
fn refusal(memory: &Memory, lost: &[String]) -> Option<String> {
    if memory.cluster == 0 {
        return Some(
            "this node belongs to no cluster; start it, and it joins or begins one".into(),
        );
    }
    let names = || memory.voters.values().map(|keeper| &*keeper.name).collect::<Vec<_>>();
    if let Some(unknown) = lost.iter().find(|name| !names().contains(&name.as_str())) {
        let names = names().join(", ");
        return Some(format!("{unknown} is no keeper of this cluster; the keepers are {names}"));
    }
    let staying: Vec<&str> = memory
        .voters
        .iter()
        .filter(|(id, keeper)| **id == memory.id || !lost.contains(&keeper.name))
        .map(|(_, keeper)| &*keeper.name)
        .collect();
    let needed = memory.voters.len() / 2 + 1;
    (!memory.voters.is_empty() && staying.len() >= needed).then(|| {
        format!(
            "{needed} of {} keepers are enough, and these are not lost: {}. Start them with their directories, and the cluster goes on; name those that are lost for good: --cluster-recover NAME,NAME",
            memory.voters.len(),
            staying.join(", ")
        )
    })
}

/// Everybody whom the file names, and who answered from there.
async fn ask(
    options: &EmbeddedOptions,
    peers: &Arc<Peers>,
    memory: &Memory,
) -> Vec<(u64, Option<Known>)> {
    let own = Introduce {
        id: memory.id,
        name: options.name.clone(),
        address: options.peer_address.clone(),
        cluster: memory.cluster,
    };
    let mut asking = JoinSet::new();
    let members = memory.voters.iter().chain(&memory.learners);
    for (id, keeper) in members.filter(|(id, _)| **id != memory.id) {
        let (id, address) = (*id, keeper.address.clone());
        let (peers, body) = (peers.clone(), encode(&own));
        asking.spawn(async move {
            let answer = peers.call(&address, kind::WHO, body, CALL_TIMEOUT).await;
            (id, answer.ok().and_then(|bytes| postcard::from_bytes(&bytes).ok()))
        });
    }
    asking.join_all().await
}

/// Why what others answer speaks against it.
fn contradiction(
    memory: &Memory,
    lost: &[String],
    answers: &[(u64, Option<Known>)],
) -> Option<String> {
    for (id, known) in answers {
        let Some(Known { node, leader }) = known else { continue };
        let (name, address) = (&node.name, &node.address);
        if node.cluster != 0 && node.cluster != memory.cluster {
            return Some(format!(
                "{name} at {address} belongs to another cluster by now, which may have been begun anew already: start this node, and it says what it finds"
            ));
        }
        if node.cluster == memory.cluster
            && let Some(leader) = leader
        {
            return Some(format!("the cluster is alive: {name} says that {leader} leads it"));
        }
        if node.id == *id && lost.contains(name) {
            return Some(format!(
                "{name} is not lost: it answers at {address} and remembers the cluster"
            ));
        }
    }
    None
}

/// Puts the file of a new cluster in the place of the old one, which is kept.
fn begin_anew(options: &EmbeddedOptions, memory: &Memory) -> Result<PathBuf, DiskError> {
    let id = crate::draw();
    let keeper =
        Keeper { name: options.name.clone(), address: options.peer_address.clone(), enrolled: 0 };
    let cluster = crate::draw() | 1;
    let beginning = Beginning { cluster, keepers: BTreeMap::from([(id, keeper)]) };
    let mut former: Former = vec![memory.cluster];
    former.extend(&memory.former);
    former.truncate(FORMER_MAX);
    let more = [
        ("cluster", cluster.to_le_bytes().to_vec()),
        ("beginning", encode(&beginning)),
        ("former", encode(&former)),
    ];
    let path = options.directory.join(FILE);
    let kept = disk::copy(&path, memory.cluster)?;
    disk::create(&path, id, &more)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let keeper = |name: &str| Keeper { name: name.into(), ..Keeper::default() };
        Memory {
            id: 1,
            cluster: 7,
            voters: [(1, keeper("a")), (2, keeper("b")), (3, keeper("c"))].into(),
            learners: [(4, keeper("d"))].into(),
            ..Memory::default()
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_is_refused_while_a_majority_may_come_back() {
        for lost in [&["b"][..], &[], &["a"], &["a", "b"]] {
            let why = refusal(&memory(), &names(lost)).unwrap();
            assert!(why.starts_with("2 of 3 keepers are enough"), "{lost:?}: {why}");
        }
        let why = refusal(&memory(), &names(&["b", "d"])).unwrap();
        assert_eq!(why, "d is no keeper of this cluster; the keepers are a, b, c");
        assert_eq!(refusal(&memory(), &names(&["b", "c"])), None);
        // A node that was no keeper may be what is left.
        let learner = Memory { id: 4, ..memory() };
        assert!(refusal(&learner, &names(&["b"])).is_some());
        assert_eq!(refusal(&learner, &names(&["a", "b", "c"])), None);
        assert!(refusal(&Memory::default(), &[]).is_some());
    }

    #[test]
    fn it_is_refused_when_others_know_better() {
        let lost = names(&["b", "c"]);
        let known = |id, name: &str, cluster, leader: Option<&str>| Known {
            node: Introduce { id, name: name.into(), address: "x:1".into(), cluster },
            leader: leader.map(str::to_owned),
        };
        let judge = |answers: &[(u64, Option<Known>)]| contradiction(&memory(), &lost, answers);
        assert_eq!(judge(&[(2, None), (3, Some(known(9, "c", 0, None)))]), None);
        // One that was taken in by what is left, and remembers nothing of before.
        assert_eq!(judge(&[(3, Some(known(9, "c", 7, None)))]), None);
        assert!(judge(&[(3, Some(known(3, "c", 7, None)))]).unwrap().contains("is not lost"));
        let alive = judge(&[(4, Some(known(4, "d", 7, Some("y:1"))))]).unwrap();
        assert!(alive.contains("y:1 leads it"), "{alive}");
        assert!(judge(&[(3, Some(known(9, "c", 8, None)))]).unwrap().contains("another cluster"));
    }
}
