//! Latency against load: every rate against every server, in turn, so that
//! whatever else the machine does falls on all of them alike.

use serde::Serialize;

use crate::error::LoadError;
use crate::options::{Peer, SweepOptions};
use crate::report::Report;
use crate::run::{Progress, run};
use crate::svg::{Plot, Scale, Series};
use crate::table::{duration, grouped};

/// One server at one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The server's name.
    pub peer: String,
    /// Requests offered a second.
    pub rate: u64,
    /// The round in which it was measured, from 0.
    pub round: u32,
    /// What was found.
    pub report: Report,
}

/// Runs all points. `begin` hears each before it starts, `end` its result.
pub fn sweep(
    options: &SweepOptions,
    mut begin: impl FnMut(&str, u64),
    mut end: impl FnMut(&Point),
) -> Result<Vec<Point>, LoadError> {
    let mut points = Vec::new();
    for round in 0..options.rounds.max(1) {
        for (step, rate) in options.rates.iter().enumerate() {
            for peer in &options.peers {
                begin(&peer.name, *rate);
                let preload = options.workload.preload && round == 0 && step == 0;
                let report = run(&options.plan(peer, *rate, preload), |_: Progress<'_>| ())?;
                let point = Point { peer: peer.name.clone(), rate: *rate, round, report };
                end(&point);
                points.push(point);
            }
        }
    }
    Ok(points)
}

/// One line of the table.
pub fn line(point: &Point) -> String {
    let latency = &point.report.latency;
    format!(
        "{:<14}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{}",
        point.peer,
        grouped(point.rate as f64),
        grouped(point.report.requests_per_second),
        duration(latency.p50_us),
        duration(latency.p99_us),
        duration(latency.p999_us),
        duration(latency.max_us),
        if point.report.warnings().is_empty() { "" } else { "  *" },
    )
}

/// The heads of [`line`]'s columns.
pub fn heading() -> String {
    format!(
        "{:<14}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "server", "offered/s", "answered/s", "p50", "p99", "p99.9", "max"
    )
}

/// The plot: p99 in full lines, p50 in dashes, the median of the rounds.
pub fn plot(options: &SweepOptions, points: &[Point]) -> Plot {
    let mut series = Vec::new();
    for Peer { name: peer, .. } in &options.peers {
        let curve = |read: fn(&Report) -> f64| {
            let at_rate = |rate: &u64| {
                let mut found: Vec<f64> = points
                    .iter()
                    .filter(|point| point.peer == *peer && point.rate == *rate)
                    .map(|point| read(&point.report))
                    .collect();
                found.sort_by(f64::total_cmp);
                found.get(found.len() / 2).map(|median| (*rate as f64, *median))
            };
            let mut curve: Vec<(f64, f64)> = options.rates.iter().filter_map(at_rate).collect();
            curve.sort_by(|a, b| a.0.total_cmp(&b.0));
            curve
        };
        let p99 = curve(|report| report.latency.p99_us);
        let p50 = curve(|report| report.latency.p50_us);
        series.push(Series { name: format!("{peer} p99"), points: p99, dashed: false });
        series.push(Series { name: format!("{peer} p50"), points: p50, dashed: true });
    }
    Plot {
        title: "Latency against load".into(),
        subtitle: format!(
            "{} protocol, {} connections, open loop; {} rounds in turn",
            options.workload.protocol.name(),
            options.connections.connections,
            options.rounds.max(1)
        ),
        x_label: "requests offered a second".into(),
        y_label: "latency in microseconds".into(),
        x_scale: Scale::Linear,
        y_scale: Scale::Logarithmic,
        series,
    }
}
