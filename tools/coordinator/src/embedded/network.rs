//! Raft's messages over the control plane's transport.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

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
use super::types::{Envelope, Keeper, Transfer, Types, Vote, encode, kind};
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
    /// It makes no sense to try again at once.
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
        let answer = answer.map_err(NoAnswer::Unreachable)?;
        let answer: Result<A, String> = postcard::from_bytes(&answer)
            .map_err(|error| NoAnswer::Refused(std::io::Error::other(error)))?;
        answer.map_err(|why| {
            self.node.note_refusal(self.target, &format!("{address} refuses: {why}"));
            NoAnswer::Refused(std::io::Error::other(why))
        })
    }
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
        Ok(self.ask(kind::RAFT_VOTE, request, option.hard_ttl()).await?)
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
