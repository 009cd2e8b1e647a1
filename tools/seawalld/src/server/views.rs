//! What the admin API shows of the node: whether it is ready, its settings, its cores,
//! its hot keys, the topology, and the metrics.

use super::{PATIENCE, Server};
use crate::metrics::{self, Page, Stats, Type};
use crate::settings::value;
use anyhow::{Context, Result, ensure};
use engine::{KeyHash, ShardStats};
use net::control::{ControlAnswer, ControlOp};
use net::stats::{self, CoreStats, Kind};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A core that has not turned its loop for this long is not alive.
const LIVE_PATIENCE: Duration = Duration::from_secs(2);

/// Why clients should not be sent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The snapshot is still being loaded.
    Loading,
    /// The node is going away.
    Draining,
    /// The node is not part of its cluster yet, or has lost it.
    Cluster,
    /// The node is in another cluster than the one of `cluster.join`.
    OtherCluster(String),
    /// A core does not answer.
    Core(String),
}

impl std::fmt::Display for Unready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unready::Loading => f.write_str("the snapshot is being loaded"),
            Unready::Draining => f.write_str("the node is draining"),
            Unready::Cluster => f.write_str("the node has no lease from its cluster"),
            Unready::OtherCluster(what) | Unready::Core(what) => f.write_str(what),
        }
    }
}

/// One core's numbers.
struct CoreNumbers {
    shard: ShardStats,
    protocol: CoreStats,
}

impl Server {
    /// Fails if a core does not turn its loop.
    pub fn check_cores(&self) -> Result<()> {
        for core in 0..self.cores() {
            self.node.on_core(core, LIVE_PATIENCE, |_| ()).with_context(|| {
                format!("core {core} does not answer within {} s", LIVE_PATIENCE.as_secs())
            })?;
        }
        Ok(())
    }

    /// Why clients should not come; empty when they should.
    pub fn unready(&self) -> Vec<Unready> {
        let mut reasons = Vec::new();
        if self.loading.load(Ordering::Acquire) {
            reasons.push(Unready::Loading);
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push(Unready::Draining);
        }
        if let Some(cluster) = self.cluster.get() {
            if !cluster.shared().standing().0 {
                reasons.push(Unready::Cluster);
            }
            if let Some(other) = cluster.shared().health().other_cluster.filter(|it| it.alone) {
                reasons.push(Unready::OtherCluster(other.what));
            }
        }
        if let Err(error) = self.check_cores() {
            reasons.push(Unready::Core(format!("{error:#}")));
        }
        reasons
    }

    /// In a cluster: whether all partitions have all their copies, and whether beyond
    /// that nothing is planned.
    pub fn whole_and_settled(&self) -> Option<(bool, bool)> {
        Some(self.cluster.get()?.shared().whole_and_settled())
    }

    fn core_numbers(&self) -> Result<Vec<CoreNumbers>> {
        let numbers = |core: &mut net::core::Core| CoreNumbers {
            shard: core.shard.stats(),
            protocol: core.stats,
        };
        (0..self.cores()).map(|core| Ok(self.node.on_core(core, PATIENCE, numbers)?)).collect()
    }

    /// `GET /cores`.
    pub fn cores_json(&self) -> Result<Value> {
        let cores = self.core_numbers()?.into_iter().enumerate().map(|(core, numbers)| {
            let info = &self.node.cores()[core];
            let mut row = json!({
                "core": core,
                "processor": info.processor,
                "backend": info.backend.name(),
                "connections": self.node.connections(core as u32),
            });
            for (name, _, value) in metrics::core_fields(&numbers.shard, &numbers.protocol) {
                row[name] = value.into();
            }
            row
        });
        Ok(Value::Array(cores.collect()))
    }

    /// `GET /hot`.
    pub fn hot_json(&self) -> Result<Value> {
        let mut rows = Vec::new();
        let mut held = Vec::new();
        for core in 0..self.cores() {
            let (keys, placed) = self.node.on_core(core, PATIENCE, move |core| {
                let keys = core.shard.hot_keys(core.now);
                let hashes: Vec<KeyHash> = keys.iter().map(|hot| hot.hash).collect();
                let keys: Vec<_> = keys
                    .into_iter()
                    .map(|hot| (hot.key.to_vec(), hot.share, hot.per_second))
                    .collect();
                (keys, crate::cluster::placed(core, &hashes))
            })?;
            let mut places = Vec::new();
            if let Some((placed, of_others)) = placed {
                places.extend(placed.into_iter().map(Some));
                held.push(of_others);
            }
            places.resize_with(keys.len(), || None);
            for ((key, share, per_second), placed) in keys.into_iter().zip(places) {
                let (key, encoding) = match std::str::from_utf8(&key) {
                    Ok(text) => (text.to_owned(), "utf-8"),
                    Err(_) => {
                        let mut text = Vec::new();
                        net::proto::base64::encode(&key, &mut text);
                        (String::from_utf8_lossy(&text).into_owned(), "base64")
                    }
                };
                let row = json!({ "core": core, "key": key, "encoding": encoding, "share": share, "requests_per_second": per_second });
                rows.push((row, placed));
            }
        }
        let with_copies = |(mut row, placed): (Value, Option<crate::cluster::Placed>)| {
            if let (Some(placed), Some(cluster)) = (placed, self.cluster.get()) {
                row["copies"] = placed.json(&held, cluster.shared());
            }
            row
        };
        Ok(Value::Array(rows.into_iter().map(with_copies).collect()))
    }

    /// `GET /topology`: in a cluster what the `topology` command answers.
    pub fn topology_json(&self) -> Result<String> {
        if let Some(cluster) = self.cluster.get() {
            return Ok(cluster::view::json(&cluster.shared().topology()));
        }
        ensure!(!self.is_clustered(), "the node has not found its cluster yet");
        let settings = &self.node.shared().settings;
        let alone = json!({
            "revision": 1,
            "partitions": 1,
            "nodes": [{
                "name": settings.advertise_host,
                "address": format!("{}:{}", settings.advertise_host, settings.advertise_port),
                "zone": "",
                "cores": self.cores(),
                "core_ports": self.config.core_ports,
            }],
        });
        Ok(alone.to_string())
    }

    /// `GET /config`.
    pub fn config_json(&self) -> Value {
        let rows = self.effective.rows().map(|(setting, found, source)| {
            json!({
                "key": setting.key,
                "value": value::text(setting, found),
                "source": source.to_string(),
                "default": setting.default,
                "flag": format!("--{}", setting.long),
                "env": setting.env(),
                "help": setting.help,
            })
        });
        Value::Array(rows.collect())
    }

    /// `GET /ring`; none without a cluster.
    pub fn ring_json(&self) -> Option<Value> {
        self.cluster.get().map(|cluster| crate::cluster::ring(cluster.shared()))
    }

    /// `GET /metrics`.
    pub fn metrics(&self) -> Result<String> {
        let mut page = Page::default();
        let mut reports = Vec::new();
        for answer in self.node.broadcast(&ControlOp::Stats, PATIENCE)? {
            if let ControlAnswer::Stats(report) = answer {
                reports.push(*report);
            }
        }
        let now = self.node.clock().now();
        let stats = |kind| -> Stats {
            stats::collect(kind, &reports, Vec::new(), now, self.node.shared())
                .into_iter()
                .collect()
        };
        let (items, slabs) = (stats(Kind::Items), stats(Kind::Slabs));
        metrics::memcached(
            &mut page,
            &stats(Kind::General),
            &stats(Kind::Settings),
            &items,
            &slabs,
        );
        metrics::cores(&mut page, reports.iter().map(|report| (&report.shard, &report.core)));
        let info = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("backend", self.node.cores()[0].backend.name()),
        ];
        if let Some(cluster) = self.cluster.get() {
            crate::cluster::add_metrics(cluster.shared(), &mut page)?;
        }
        page.add("seawall_info", Type::Gauge, "What runs here.", &info, 1);
        Ok(page.finish())
    }
}
