//! Raft's messages over the control plane's transport.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::time::at_least_us;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::node::Node;
use super::types::{Envelope, Keeper, Transfer, Types, Vote, Voted, encode, kind};
use crate::wire::CallError;

type Refused = RPCError<u64, Keeper, RaftError<u64>>;

/// Makes lines to other keepers.
pub(super) struct Lines(pub Arc<Node>);

/// The line to one of them.
pub(super) struct Line {
    node: Arc<Node>,
    target: u64,
    address: String,
}

impl RaftNetworkFactory<Types> for Lines {
    type Network = Line;

    async fn new_client(&mut self, target: u64, keeper: &Keeper) -> Line {
        Line { node: self.0.clone(), target, address: keeper.address.clone() }
    }
}

/// Why there is no answer.
enum NoAnswer {
    /// Trying again at once would not help.
    Unreachable(CallError),
    /// The other side answered something else.
    Refused(std::io::Error),
}

impl Line {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: u8,
        content: Q,
        within: Duration,
    ) -> Result<A, NoAnswer> {
        let (cluster, leads) = (self.node.cluster(), self.node.leads());
        let body = encode(&Envelope { cluster, to: self.target, leads, content });
        // It may have moved since the membership was written.
        let address = self.node.address_of(self.target).unwrap_or_else(|| self.address.clone());
        let answer = self.node.peers.call(&address, kind, body, within).await;
        let mut answer = answer.map_err(NoAnswer::Unreachable)?;
        // An older node's answer may lack an optional field at its end: this says `None`.
        answer.push(0);
        let answer: Result<A, String> = postcard::from_bytes(&answer)
            .map_err(|error| NoAnswer::Refused(std::io::Error::other(error)))?;
        answer.map_err(|why| {
            self.node.note_refusal(self.target, &format!("{address} refuses: {why}"));
            NoAnswer::Refused(std::io::Error::other(why))
        })
    }
}

/// The latest moment at which a voter followed a leader, if its answer came at `now`.
fn followed_by(now: Instant, silence_us: Option<u64>) -> Instant {
    let silence = Duration::from_micros(at_least_us(silence_us.unwrap_or(0)));
    now.checked_sub(silence).unwrap_or(now)
}

impl From<NoAnswer> for Refused {
    fn from(error: NoAnswer) -> Refused {
        match error {
            NoAnswer::Unreachable(error) => RPCError::Unreachable(Unreachable::new(&error)),
            NoAnswer::Refused(error) => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Refused> {
        Ok(self.ask(kind::RAFT_APPEND, request, option.hard_ttl()).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Refused> {
        let term = request.vote.leader_id.term;
        let voted: Voted = self.ask(kind::RAFT_VOTE, request, option.hard_ttl()).await?;
        if voted.answer.vote_granted {
            self.node.note_voter_followed(term, followed_by(Instant::now(), voted.silence_us));
        }
        Ok(voted.answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let transfer = Transfer { vote, meta: snapshot.meta, bytes: *snapshot.snapshot };
        let sending = self.ask(kind::RAFT_SNAPSHOT, transfer, option.hard_ttl());
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sending => answer.map_err(|error| match error {
                NoAnswer::Unreachable(error) => {
                    StreamingError::Unreachable(Unreachable::new(&error))
                }
                NoAnswer::Refused(error) => StreamingError::Network(NetworkError::new(&error)),
            }),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.node.peers.settings().retry_every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_that_does_not_tell_its_silence_followed_a_leader_a_moment_ago() {
        let now = Instant::now();
        assert_eq!(followed_by(now, None), now);
        let silence = |ms: u64| followed_by(now, Some(ms * 1_000));
        // Its clock may be fast.
        assert_eq!(now - silence(128), Duration::from_millis(126));
    }
}
