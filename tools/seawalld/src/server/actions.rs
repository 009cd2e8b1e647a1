//! What the admin API does: to this node, or to every node of its cluster.

use super::{PATIENCE, Server};
use anyhow::Result;
use cluster::change::Command;
use cluster::topology::NodeIndex;
use net::control::{ControlAnswer, ControlOp};
use std::sync::Arc;

impl Server {
    /// Whether the node belongs to a cluster.
    pub fn is_clustered(&self) -> bool {
        self.config.cluster.is_some()
    }

    /// Does on every node of the cluster what concerns all, or says why not.
    pub async fn everywhere(&self, op: &ControlOp) -> Result<(), String> {
        let Some(cluster) = self.cluster.get() else {
            return Err("the node has not found its cluster yet".into());
        };
        match crate::cluster::run_everywhere(cluster.shared(), op).await {
            ControlAnswer::Failed(why) => Err(why),
            _ => Ok(()),
        }
    }

    /// Changes what the cluster does with a node, or says why not.
    pub async fn change_node(
        &self,
        name: &str,
        command: impl FnOnce(NodeIndex) -> Command,
    ) -> Result<(), String> {
        let Some(cluster) = self.cluster.get() else {
            return Err("this node belongs to no cluster".into());
        };
        cluster.shared().change_node(name, command).await
    }

    /// Whether a namespace of that name is configured.
    pub fn has_namespace(&self, name: &[u8]) -> bool {
        self.config.namespaces.iter().any(|known| known.as_bytes() == name)
    }

    /// Invalidates tags and namespaces on every core.
    pub fn invalidate(&self, tags: Vec<Vec<u8>>, namespaces: Vec<Vec<u8>>) -> Result<()> {
        let (tags, namespaces) = (Arc::new(tags), Arc::new(namespaces));
        for core in 0..self.cores() {
            let (tags, namespaces) = (tags.clone(), namespaces.clone());
            self.node.on_core(core, PATIENCE, move |core| {
                for tag in &*tags {
                    core.shard.invalidate_tag(engine::Tag::named(tag), core.now);
                }
                for name in &*namespaces {
                    core.shard.invalidate_namespace(name, core.now);
                }
            })?;
        }
        Ok(())
    }

    /// Invalidates everything.
    pub fn flush(&self) -> Result<()> {
        for core in 0..self.cores() {
            self.node.on_core(core, PATIENCE, |core| core.shard.flush(core.now, core.now))?;
        }
        Ok(())
    }
}
