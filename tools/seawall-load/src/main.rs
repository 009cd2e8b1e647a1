//! The command line of `seawall-load`: runs, shows progress, writes files.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use seawall_load::options::{Command, Options, RunOptions, SweepOptions};
use seawall_load::run::Progress;
use seawall_load::svg::{Plot, Scale, Series};
use seawall_load::{LoadError, Report, sweep, table};

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        None => lone(&options.run),
        Some(Command::Sweep(options)) => several(options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // Requests failed, or values were wrong: the report says which.
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("seawall-load: {error}");
            ExitCode::from(2)
        }
    }
}

/// A line on the terminal that the next one replaces; elsewhere lines follow
/// each other.
struct Live {
    on: bool,
    terminal: bool,
}

impl Live {
    fn new(quiet: bool) -> Live {
        Live { on: !quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Shows `line`. A passing one is shown on a terminal only.
    fn show(&self, line: &str, passing: bool) {
        let mut out = std::io::stderr().lock();
        // Without a standard error there is nobody to tell.
        let _ = match (self.on, self.terminal) {
            (true, true) => write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush()),
            (true, false) if !passing => writeln!(out, "{line}"),
            _ => Ok(()),
        };
    }

    fn end(&self) {
        if self.on && self.terminal {
            eprintln!();
        }
    }
}

fn lone(options: &RunOptions) -> Result<bool, LoadError> {
    let plan = options.plan();
    let live = Live::new(options.quiet);
    if !options.quiet {
        eprintln!("{}", table::describe(&plan));
    }
    let report = seawall_load::run(&plan, |progress| match progress {
        Progress::Preloading { done, of } => {
            let percent = 100.0 * done as f64 / of.max(1) as f64;
            live.show(
                &format!("preloading {percent:3.0}%  {} keys", table::grouped(done as f64)),
                done < of,
            );
        }
        Progress::Interval { at_seconds, seconds, warmup, tally } => {
            live.show(&table::progress(at_seconds, seconds, warmup, tally), false);
        }
    });
    live.end();
    let report = report?;
    let json_to_stdout = options.json.as_deref() == Some(Path::new("-"));
    if !options.quiet && !json_to_stdout {
        println!("\n{}", table::report(&report));
    }
    if let Some(file) = &options.json {
        write_json(file, &report)?;
    }
    if let Some(file) = &options.svg {
        write_file(file, percentiles(&report).to_svg().as_bytes())?;
    }
    Ok(report.is_clean())
}

fn several(options: &SweepOptions) -> Result<bool, LoadError> {
    let live = Live::new(options.quiet);
    let json_to_stdout = options.json.as_deref() == Some(Path::new("-"));
    let print = !options.quiet && !json_to_stdout;
    if print {
        println!("{}", sweep::heading());
    }
    let points = sweep::sweep(
        options,
        |peer, rate| {
            live.show(&format!("{peer} at {} requests/s ...", table::grouped(rate as f64)), true)
        },
        |point| {
            if live.terminal {
                live.show("", true);
            }
            if print {
                println!("{}", sweep::line(point));
            }
        },
    )?;
    if print && points.iter().any(|point| !point.report.warnings().is_empty()) {
        println!("\n* with warnings, such as:");
        for warning in points.iter().flat_map(|point| point.report.warnings()).take(3) {
            println!("  {warning}");
        }
    }
    if let Some(file) = &options.json {
        write_json(file, &points)?;
    }
    if let Some(file) = &options.svg {
        write_file(file, sweep::plot(options, &points).to_svg().as_bytes())?;
    }
    Ok(points.iter().all(|point| point.report.is_clean()))
}

/// The latency percentiles of one run.
fn percentiles(report: &Report) -> Plot {
    let mut series = Vec::new();
    for (name, latency) in
        [("all", &report.latency), ("gets", &report.latency_get), ("sets", &report.latency_set)]
    {
        let only_kind = latency.count == report.latency.count && name != "all";
        if latency.count > 0 && !only_kind {
            series.push(Series { name: name.into(), points: latency.curve.clone(), dashed: false });
        }
    }
    Plot {
        title: format!("Latency at {} requests/s", table::grouped(report.requests_per_second)),
        subtitle: table::describe(&report.plan).replace('\n', "; "),
        x_label: "percentile".into(),
        y_label: "latency in microseconds".into(),
        x_scale: Scale::Percentile,
        y_scale: Scale::Logarithmic,
        series,
    }
}

fn write_json(file: &Path, value: &impl serde::Serialize) -> Result<(), LoadError> {
    let mut json = serde_json::to_vec_pretty(value).map_err(|error| LoadError::System {
        what: "cannot write the report as JSON",
        error: error.into(),
    })?;
    json.push(b'\n');
    write_file(file, &json)
}

fn write_file(file: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    if file == Path::new("-") {
        return std::io::stdout()
            .write_all(bytes)
            .map_err(LoadError::system("cannot write to standard output"));
    }
    std::fs::write(file, bytes)
        .map_err(|error| LoadError::Plan(format!("cannot write {}: {error}", file.display())))
}
