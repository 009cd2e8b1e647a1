//! What a run found, as plain numbers that serialise to JSON.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::connection::Tally;
use crate::plan::{Io, Plan};
use crate::worker::Summary;

/// A run's result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// What was asked for.
    pub plan: Plan,
    /// Which system calls carried the bytes.
    pub io: Io,
    /// How the keys were written first.
    pub preload: Option<Preload>,
    /// Seconds measured, without the warm-up.
    pub seconds: f64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered a second.
    pub requests_per_second: f64,
    /// Keys read or written a second: more than requests with multigets.
    pub keys_per_second: f64,
    /// Bytes of answers a second.
    pub received_bytes_per_second: f64,
    /// Gets answered.
    pub gets: u64,
    /// Sets answered.
    pub sets: u64,
    /// Keys found.
    pub hits: u64,
    /// Keys not found.
    pub misses: u64,
    /// Found keys among those read.
    pub hit_ratio: Option<f64>,
    /// Sets declined without an error.
    pub not_stored: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The first failure's text.
    pub error_example: Option<String>,
    /// Values that were not what had been written (`--verify`).
    pub corrupt: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Requests without an answer some seconds after the end.
    pub unanswered: u64,
    /// Requests that were due but found every connection full.
    pub unsent: u64,
    /// Latencies of all requests.
    pub latency: Latency,
    /// Latencies of gets.
    pub latency_get: Latency,
    /// Latencies of sets.
    pub latency_set: Latency,
    /// The server's CPU time.
    pub server_cpu: Option<ServerCpu>,
    /// The generator's own state.
    pub generator: Generator,
    /// One entry an interval of the measured time.
    pub intervals: Vec<Interval>,
}

/// How the keys were written first.
#[derive(Clone, Debug, Serialize)]
pub struct Preload {
    /// Keys written.
    pub keys: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Sets that failed.
    pub errors: u64,
    /// The first failure's text.
    pub error_example: Option<String>,
}

/// A latency distribution, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// How many requests.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// The shortest.
    pub min_us: f64,
    /// Half were faster.
    pub p50_us: f64,
    /// 90% were faster.
    pub p90_us: f64,
    /// 99% were faster.
    pub p99_us: f64,
    /// 99.9% were faster.
    pub p999_us: f64,
    /// 99.99% were faster.
    pub p9999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Points `(percentile, us)` of the whole curve.
    pub curve: Vec<(f64, f64)>,
}

/// What the requests cost the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerCpu {
    /// Nanoseconds of CPU time for one request.
    pub ns_per_request: f64,
    /// Nanoseconds of CPU time for one key.
    pub ns_per_key: f64,
    /// CPUs kept busy.
    pub cpus: f64,
}

/// Whether the generator itself was the bottleneck.
#[derive(Clone, Debug, Serialize)]
pub struct Generator {
    /// The share of the time in which the busiest worker ran.
    pub busy_max: f64,
    /// How late requests were sent that were due and had a free connection.
    pub lateness_p99_us: f64,
}

/// One interval.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// When it ended, in seconds since the measuring began.
    pub at_seconds: f64,
    /// Requests answered a second.
    pub requests_per_second: f64,
    /// Found keys among those read.
    pub hit_ratio: Option<f64>,
    /// Requests that failed.
    pub errors: u64,
    /// Half were faster.
    pub p50_us: f64,
    /// 99% were faster.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// What the workers measured, before it becomes a report.
#[derive(Debug)]
pub struct Measured {
    /// Seconds measured.
    pub seconds: f64,
    /// When the warm-up ended, in nanoseconds since the run began.
    pub warmup_ns: u64,
    /// Every interval with its end in nanoseconds, warm-up included.
    pub intervals: Vec<(u64, Tally)>,
    /// The workers' last words.
    pub summaries: Vec<Summary>,
    /// CPU time of the server while measuring.
    pub server_cpu_ns: Option<u64>,
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// All latencies of a tally.
pub fn all_ns(tally: &Tally) -> Histogram<u64> {
    let mut all = tally.get_ns.clone();
    all.add(&tally.set_ns).expect("both histograms have the same bounds");
    all
}

impl Latency {
    /// Reads the usual points off a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        if histogram.is_empty() {
            return Latency::default();
        }
        let at = |percentile| us(histogram.value_at_percentile(percentile));
        // Points ever closer to 100%, as far as there are samples to tell.
        let mut curve = vec![(0.0, us(histogram.min()))];
        let mut tail = 100.0;
        let mut last = -1.0;
        while tail * histogram.len() as f64 >= 100.0 && tail > 1e-7 {
            for step in [1.0, 0.75, 0.5, 0.35, 0.2, 0.15] {
                let percentile: f64 = 100.0 - tail * step;
                if percentile > last && percentile > 0.0 {
                    curve.push((percentile, at(percentile)));
                    last = percentile;
                }
            }
            tail /= 10.0;
        }
        curve.push((100.0, us(histogram.max())));
        Latency {
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            min_us: us(histogram.min()),
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            p9999_us: at(99.99),
            max_us: us(histogram.max()),
            curve,
        }
    }
}

impl Report {
    /// Adds up.
    pub fn new(plan: &Plan, io: Io, preload: Option<Preload>, measured: Measured) -> Report {
        // Answers within the measured time make the throughput; answers that
        // came after it belong to the latencies all the same.
        let mut inside = Tally::default();
        let mut rest = Tally::default();
        let mut intervals = Vec::new();
        let mut last_ns = measured.warmup_ns;
        for (end_ns, tally) in measured.intervals {
            if end_ns <= measured.warmup_ns {
                continue;
            }
            inside.add(&tally);
            let all = all_ns(&tally);
            let seconds = (end_ns - last_ns) as f64 / 1e9;
            intervals.push(Interval {
                at_seconds: (end_ns - measured.warmup_ns) as f64 / 1e9,
                requests_per_second: tally.requests() as f64 / seconds,
                hit_ratio: tally.hit_ratio(),
                errors: tally.errors,
                p50_us: us(all.value_at_percentile(50.0)),
                p99_us: us(all.value_at_percentile(99.0)),
                max_us: us(all.max()),
            });
            last_ns = end_ns;
        }
        for summary in &measured.summaries {
            let into = if plan.requests.is_some() { &mut inside } else { &mut rest };
            into.add(&summary.rest);
        }
        let mut total = inside.clone();
        total.add(&rest);
        let per_second = |count: u64| count as f64 / measured.seconds.max(1e-9);
        let per = |ns: u64, count: u64| ns as f64 / count.max(1) as f64;
        Report {
            version: env!("CARGO_PKG_VERSION"),
            plan: plan.clone(),
            io,
            preload,
            seconds: measured.seconds,
            requests: inside.requests(),
            requests_per_second: per_second(inside.requests()),
            keys_per_second: per_second(inside.keys()),
            received_bytes_per_second: per_second(inside.received_bytes),
            gets: inside.gets,
            sets: inside.sets,
            hits: inside.hits,
            misses: inside.misses,
            hit_ratio: inside.hit_ratio(),
            not_stored: total.not_stored,
            errors: total.errors,
            error_example: total.error_example.clone(),
            corrupt: total.corrupt,
            disconnects: total.disconnects,
            unanswered: measured.summaries.iter().map(|summary| summary.unanswered).sum(),
            unsent: measured.summaries.iter().map(|summary| summary.unsent).sum(),
            latency: Latency::of(&all_ns(&total)),
            latency_get: Latency::of(&total.get_ns),
            latency_set: Latency::of(&total.set_ns),
            server_cpu: measured.server_cpu_ns.map(|ns| ServerCpu {
                ns_per_request: per(ns, inside.requests()),
                ns_per_key: per(ns, inside.keys()),
                cpus: ns as f64 / 1e9 / measured.seconds.max(1e-9),
            }),
            generator: Generator {
                busy_max: measured.summaries.iter().map(|summary| summary.busy).fold(0.0, f64::max),
                lateness_p99_us: us(total.lateness_ns.value_at_percentile(99.0)),
            },
            intervals,
        }
    }

    /// Whether everything that was asked was answered as it should be.
    pub fn is_clean(&self) -> bool {
        self.errors == 0
            && self.corrupt == 0
            && self.unanswered == 0
            && self.preload.as_ref().is_none_or(|preload| preload.errors == 0)
    }

    /// What a reader must know before trusting the figures.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(preload) = self.preload.as_ref().filter(|preload| preload.errors > 0) {
            let example = preload.error_example.as_deref().unwrap_or("no text");
            warnings.push(format!("{} keys could not be preloaded: {example}", preload.errors));
        }
        if self.errors > 0 {
            let example = self.error_example.as_deref().unwrap_or("no text");
            warnings.push(format!("{} requests failed; the first: {example}", self.errors));
        }
        if self.corrupt > 0 {
            warnings.push(format!("{} answers held a WRONG value", self.corrupt));
        }
        if self.unanswered > 0 {
            warnings.push(format!("{} requests were never answered", self.unanswered));
        }
        if let Some(rate) = self.plan.rate
            && self.requests_per_second < 0.98 * rate
            && self.plan.requests.is_none()
        {
            warnings.push(format!(
                "the server did not keep up: {rate:.0} requests/s offered, {:.0} answered, {} never \
                 sent; true latencies are longer",
                self.requests_per_second, self.unsent
            ));
        }
        if self.plan.rate.is_some() && self.generator.lateness_p99_us > 0.5 * self.latency.p99_us {
            warnings.push(format!(
                "the generator was late itself (p99 {:.0} us): more --threads or --cpus would help",
                self.generator.lateness_p99_us
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_read_in_microseconds() {
        let mut tally = Tally::default();
        for us in 1..=10_000u64 {
            tally.get_ns.saturating_record(us * 1000);
        }
        let latency = Latency::of(&tally.get_ns);
        assert_eq!(latency.count, 10_000);
        for (found, expected) in [
            (latency.p50_us, 5000.0),
            (latency.p99_us, 9900.0),
            (latency.p999_us, 9990.0),
            (latency.max_us, 10_000.0),
        ] {
            assert!((found / expected - 1.0f64).abs() < 0.002, "{found} for {expected}");
        }
        assert!(latency.curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{:?}", latency.curve);
        assert_eq!(Latency::of(&Tally::default().get_ns).count, 0);
    }

    #[test]
    fn the_warm_up_and_the_late_do_not_count_as_throughput() {
        let tally = |gets: u64| {
            let mut tally = Tally { gets, hits: gets, ..Tally::default() };
            (0..gets).for_each(|_| tally.get_ns.saturating_record(1000));
            tally
        };
        let measured = Measured {
            seconds: 2.0,
            warmup_ns: 1_000_000_000,
            intervals: vec![
                (1_000_000_000, tally(7)),
                (2_000_000_000, tally(10)),
                (3_000_000_000, tally(20)),
            ],
            summaries: vec![Summary {
                rest: tally(3),
                end_ns: 0,
                unanswered: 1,
                unsent: 2,
                busy: 0.5,
            }],
            server_cpu_ns: Some(60_000),
        };
        let report = Report::new(&Plan::default(), Io::Epoll, None, measured);
        assert_eq!((report.requests, report.latency.count), (30, 33));
        assert_eq!(report.requests_per_second, 15.0);
        assert_eq!(report.intervals.len(), 2);
        assert_eq!(report.server_cpu.map(|cpu| cpu.ns_per_request), Some(2000.0));
        assert!(!report.is_clean());
    }
}
