//! Answers to other coordinators.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::Snapshot;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use serde::de::DeserializeOwned;

use super::node::{Engine, Node};
use super::types::{
    Ballot, Enrolled, Envelope, Forward, Forwarded, Introduce, Known, Transfer, Types, Voted,
    encode, kind,
};
use super::{election, join, put_here};
use crate::Role;
use crate::wire::{Boxed, Handler, PeerInfo};

/// One node's answers.
pub(super) struct Answers(pub Arc<Node>);

impl Handler for Answers {
    fn kinds(&self) -> RangeInclusive<u8> {
        kind::FIRST..=kind::LAST
    }

    fn handle<'a>(&'a self, _: &'a PeerInfo, kind: u8, body: Vec<u8>) -> Boxed<'a, Vec<u8>> {
        Box::pin(async move {
            match kind {
                kind::WHO => self.who(&body),
                kind::ENROL => self.enrol(&body).await,
                kind::APPEND => self.append(&body).await,
                kind::BALLOT => encode(&self.ballot(&body).await),
                kind::RAFT_APPEND => encode(&self.raft_append(&body).await),
                kind::RAFT_VOTE => encode(&self.raft_vote(&body).await),
                kind::RAFT_SNAPSHOT => encode(&self.raft_snapshot(&body).await),
                _ => Vec::new(),
            }
        })
    }
}

impl Answers {
    fn who(&self, body: &[u8]) -> Vec<u8> {
        let node = &self.0;
        if let Ok(asker) = postcard::from_bytes::<Introduce>(body)
            && asker.cluster != 0
            && asker.cluster == node.cluster()
        {
            node.note_address(asker.id, &asker.address);
        }
        let leader = match node.judge_role() {
            Role::Leader { .. } => Some(node.options.peer_address.clone()),
            Role::Follower { leader } => leader,
        };
        encode(&Known { node: node.introduce(), leader })
    }

    async fn enrol(&self, body: &[u8]) -> Vec<u8> {
        encode(&match postcard::from_bytes::<Introduce>(body) {
            Ok(newcomer) => join::enrol(&self.0, &newcomer).await,
            Err(_) => Enrolled::No("a request that is none".into()),
        })
    }

    async fn append(&self, body: &[u8]) -> Vec<u8> {
        encode(&match (postcard::from_bytes::<Forward>(body), self.0.engine()) {
            (Ok(Forward { command, within_ms }), Some(engine)) => {
                put_here(&engine, &command, Duration::from_millis(within_ms.into())).await
            }
            _ => Forwarded::NotLeader,
        })
    }

    async fn ballot(&self, body: &[u8]) -> Result<bool, String> {
        // An older node's question ends before its log: this says `None`.
        let body = [body, &[0]].concat();
        let (engine, _, ballot) = self.opened::<Ballot>(&body).await?;
        Ok(election::would_vote(&self.0, &engine, &ballot))
    }

    async fn raft_append(&self, body: &[u8]) -> Result<AppendEntriesResponse<u64>, String> {
        let (engine, leads, request) = self.opened::<AppendEntriesRequest<Types>>(body).await?;
        // The vote that is shown is never ahead of Raft's own: what Raft accepts gets here.
        if request.vote >= engine.raft.metrics().borrow().vote {
            self.0.note_followed(Instant::now());
            // The disk may make the answer wait, but the leader has been heard.
            if leads {
                self.0.hear();
            }
        }
        engine.raft.append_entries(request).await.map_err(|error| error.to_string())
    }

    async fn raft_vote(&self, body: &[u8]) -> Result<Voted, String> {
        let (engine, _, request) = self.opened::<VoteRequest<u64>>(body).await?;
        let answer = engine.raft.vote(request).await.map_err(|error| error.to_string())?;
        if answer.vote_granted {
            self.0.hear();
        }
        let silence_us = self.0.followed().elapsed().as_micros() as u64;
        Ok(Voted { answer, silence_us: Some(silence_us) })
    }

    async fn raft_snapshot(
        &self,
        body: &[u8],
    ) -> Result<openraft::raft::SnapshotResponse<u64>, String> {
        let (engine, leads, Transfer { vote, meta, bytes }) = self.opened(body).await?;
        self.0.note_followed(Instant::now());
        if leads {
            self.0.hear();
        }
        let snapshot = Snapshot { meta, snapshot: Box::new(bytes) };
        let installed = engine.raft.install_full_snapshot(vote, snapshot).await;
        installed.map_err(|error| error.to_string())
    }

    /// What is in an envelope, if it is for this node, and whether it comes from a leader.
    async fn opened<T: DeserializeOwned>(&self, body: &[u8]) -> Result<(Engine, bool, T), String> {
        let node = &self.0;
        let envelope: Envelope<T> =
            postcard::from_bytes(body).map_err(|_| "a message that is none".to_owned())?;
        if envelope.to != node.id() {
            return Err(format!("{} is here, not whom you look for", node.options.name));
        }
        let Some(engine) = node.engine() else {
            return Err(node.disk_error().unwrap_or_else(|| "it is stopping".into()));
        };
        match node.belong(&engine.disk, envelope.cluster).await {
            Ok(true) => Ok((engine, envelope.leads, envelope.content)),
            Ok(false) => Err(format!("{} belongs to another cluster", node.options.name)),
            Err(error) => Err(error.to_string()),
        }
    }
}
