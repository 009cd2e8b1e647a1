//! `--cluster-recover`: the cluster begun anew on this node, which does not run.

use super::control::wire_settings;
use crate::server::say;
use crate::settings::{ClusterConfig, Coordinator};
use anyhow::{Result, anyhow, bail};
use cluster::topology::Incarnation;
use coordinator::embedded::EmbeddedOptions;
use coordinator::embedded::recover::{Recovered, recover as begin_anew};
use coordinator::wire::Peers;

/// Does it, or says why not, or why it is not needed.
pub async fn recover(config: &ClusterConfig, lost: &[String]) -> Result<()> {
    if config.coordinator != Coordinator::Embedded {
        bail!("the topology is in etcd, which has its own way to recover; the nodes keep nothing");
    }
    // It asks others, and is asked by nobody.
    let peers = Peers::new(wire_settings(config, Incarnation(0))?);
    let options = EmbeddedOptions::new(
        config.directory.clone(),
        &config.node,
        &config.advertise,
        &config.join,
    );
    let done = begin_anew(&options, &peers, lost).await;
    let Recovered { kept } = done.map_err(|why| anyhow!("cannot begin the cluster anew: {why}"))?;
    say(&format!(
        "the cluster {:?} begins anew, empty, with {} as its first keeper\n  \
         the old file is kept:  {}\n  \
         now:                   start this node, then the others; those that remember the old cluster forget it and end once, to be started again",
        config.name,
        config.node,
        kept.display()
    ));
    Ok(())
}
