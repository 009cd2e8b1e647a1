//! A report as lines for a person.

use std::fmt::Write;

use crate::connection::Tally;
use crate::plan::{Distribution, Plan};
use crate::report::{Latency, Report, all_ns};

/// `1234567.8` as `1,234,568`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

/// Microseconds with a unit and three or four digits.
pub fn duration(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1} us"),
        us if us < 10_000.0 => format!("{us:.0} us"),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{:.2}%", ratio * 100.0))
}

fn plural(count: u32, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count.into()), if count == 1 { "" } else { "s" })
}

/// One line about what the run does.
pub fn describe(plan: &Plan) -> String {
    let what = match (plan.ratio.gets, plan.ratio.sets) {
        (_, 0) => "gets".into(),
        (0, _) => "sets".into(),
        (gets, sets) => format!("gets:sets {gets}:{sets}"),
    };
    let multiget =
        if plan.multiget > 1 { format!(" of {} keys", plan.multiget) } else { String::new() };
    let distribution = match plan.distribution {
        Distribution::Uniform => "uniform".into(),
        Distribution::Zipf(theta) => format!("zipf {theta}"),
        Distribution::Sequential => "sequential".into(),
    };
    let value = if plan.value_bytes.min == plan.value_bytes.max {
        plan.value_bytes.min.to_string()
    } else {
        format!("{}-{}", plan.value_bytes.min, plan.value_bytes.max)
    };
    let pace = match plan.rate {
        Some(rate) => format!("{} requests/s offered", grouped(rate)),
        None => "as fast as answers come".into(),
    };
    format!(
        "{} {}: {what}{multiget}, {} {distribution} keys of {} B, values of {value} B\n\
         {} on {}, {} deep, {pace}",
        plan.target,
        plan.protocol.name(),
        grouped(plan.keys as f64),
        plan.key_bytes,
        plural(plan.connections, "connection"),
        plural(plan.threads, "thread"),
        plan.pipeline,
    )
}

/// The progress line of one interval.
pub fn progress(at_seconds: f64, seconds: f64, warmup: bool, tally: &Tally) -> String {
    let all = all_ns(tally);
    let at = |percentile| duration(all.value_at_percentile(percentile) as f64 / 1000.0);
    let errors = match tally.errors + tally.corrupt {
        0 => String::new(),
        errors => format!("  {} errors", grouped(errors as f64)),
    };
    format!(
        "{at_seconds:6.1} s  {:>11} req/s  hits {:>7}  p50 {:>8}  p99 {:>8}  max {:>8}{errors}{}",
        grouped(tally.requests() as f64 / seconds.max(1e-9)),
        percent(tally.hit_ratio()),
        at(50.0),
        at(99.0),
        at(100.0),
        if warmup { "  (warm-up)" } else { "" },
    )
}

/// The final table.
pub fn report(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<16}{value}");
    };
    if let Some(preload) = &report.preload {
        let rate = grouped(preload.keys as f64 / preload.seconds.max(1e-9));
        line(
            "preload",
            format!("{} keys in {:.2} s, {rate}/s", grouped(preload.keys as f64), preload.seconds),
        );
    }
    line(
        "throughput",
        format!(
            "{} requests/s  ({} in {:.2} s)",
            grouped(report.requests_per_second),
            grouped(report.requests as f64),
            report.seconds
        ),
    );
    if report.plan.multiget > 1 {
        line("keys", format!("{} keys/s", grouped(report.keys_per_second)));
    }
    line("received", format!("{:.1} MB/s", report.received_bytes_per_second / 1e6));
    line(
        "gets",
        format!(
            "{}  hits {}  misses {}  hit ratio {}",
            grouped(report.gets as f64),
            grouped(report.hits as f64),
            grouped(report.misses as f64),
            percent(report.hit_ratio)
        ),
    );
    let not_stored = match report.not_stored {
        0 => String::new(),
        count => format!("  not stored {}", grouped(count as f64)),
    };
    line("sets", format!("{}{not_stored}", grouped(report.sets as f64)));
    line(
        "errors",
        format!(
            "{}  wrong values {}  lost connections {}",
            grouped(report.errors as f64),
            if report.plan.verify { grouped(report.corrupt as f64) } else { "not checked".into() },
            grouped(report.disconnects as f64)
        ),
    );
    if let Some(cpu) = report.server_cpu {
        let keys = if report.plan.multiget > 1 {
            format!("  {} ns/key", grouped(cpu.ns_per_key))
        } else {
            String::new()
        };
        line(
            "server CPU",
            format!("{} ns/request{keys}  {:.2} CPUs busy", grouped(cpu.ns_per_request), cpu.cpus),
        );
    }
    let lateness = match report.plan.rate {
        Some(_) => format!("  own lateness p99 {}", duration(report.generator.lateness_p99_us)),
        None => String::new(),
    };
    line(
        "generator",
        format!("busiest thread {:.0}%{lateness}", report.generator.busy_max * 100.0),
    );
    text.push('\n');
    let _ = writeln!(
        text,
        "{:<16}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "latency", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    );
    let mut row = |name: &str, latency: &Latency| {
        if latency.count == 0 {
            return;
        }
        let _ = write!(text, "{name:<16}");
        for us in [
            latency.mean_us,
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p999_us,
            latency.p9999_us,
            latency.max_us,
        ] {
            let _ = write!(text, "{:>10}", duration(us));
        }
        text.push('\n');
    };
    row("  all", &report.latency);
    if report.latency_get.count > 0 && report.latency_set.count > 0 {
        row("  gets", &report.latency_get);
        row("  sets", &report.latency_set);
    }
    for warning in report.warnings() {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (1234567.8, "1,234,568"),
            (-1500.0, "-1,500"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn durations_have_units() {
        for (us, text) in
            [(1.25, "1.2 us"), (350.0, "350 us"), (12_300.0, "12.3 ms"), (2_500_000.0, "2.50 s")]
        {
            assert_eq!(duration(us), text);
        }
    }

    #[test]
    fn a_plan_is_described() {
        let text = describe(&Plan { rate: Some(50_000.0), ..Plan::default() });
        assert!(text.contains("gets:sets 90:10, 1,000,000 uniform keys of 30 B"), "{text}");
        assert!(text.contains("50,000 requests/s offered"), "{text}");
    }
}
