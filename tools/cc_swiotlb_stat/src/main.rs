// SPDX-License-Identifier: GPL-2.0

//! Shows the state of cc_swiotlb: live, once, as JSON, to Prometheus, into a log, from a log; says
//! what is wrong and which parameters to set.

mod advise;
mod live;
mod problems;
mod prom;
mod sample;
mod screen;
mod text;

use clap::Parser;
use sample::Sample;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// The exit status if nothing could be shown, as monitoring plugins have it.
const FAILED: u8 = 3;

/// Shows the state of cc_swiotlb, the bounce buffers of a confidential guest.
///
/// Without an option that says how, it is a live view where there is a terminal, and else --once.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Show it once
    #[arg(long, group = "how")]
    once: bool,
    /// Print one line of JSON
    #[arg(long, group = "how")]
    json: bool,
    /// Print the text format of Prometheus
    #[arg(long, group = "how")]
    prom: bool,
    /// Append a line of JSON to this file every --interval until stopped
    #[arg(long, group = "how", value_name = "FILE", conflicts_with = "replay")]
    log: Option<PathBuf>,
    /// Print the parameters that would have avoided every fallback and refusal
    #[arg(long, group = "how")]
    advise: bool,
    /// Print one line for a monitor, after one --interval; status 0, 1 (warning), 2 (critical), 3
    #[arg(long, group = "how")]
    check: bool,
    /// Read this log instead of the running guest
    #[arg(long, value_name = "FILE", conflicts_with = "sysfs")]
    replay: Option<PathBuf>,
    /// Time between two samples, in seconds, 0.1 to 86400
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Folder of the allocator
    #[arg(long, value_name = "DIR", default_value = "/sys/kernel/mm/cc_swiotlb")]
    sysfs: PathBuf,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0.1..=86400.0) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it is seconds from 0.1 to 86400".to_string()),
    }
}

fn json(sample: &Sample) -> String {
    serde_json::to_string(sample).expect("numbers and words are JSON") + "\n"
}

/// The line for a monitor, and its status.
fn check(samples: &[Sample]) -> (String, u8) {
    let found = problems::problems(samples);
    let Some(worst) = found.first() else {
        return ("CC_SWIOTLB OK: nothing is wrong\n".to_string(), 0);
    };
    let status = worst.severity as u8;
    let word = ["OK", "WARNING", "CRITICAL"][usize::from(status)];
    let (what, helps) = (&worst.what, worst.helps);
    (format!("CC_SWIOTLB {word}: {what}: {helps}\n"), status)
}

/// Appends samples to a log, each in one write, until there is an error.
fn log(to: &Path, next: &live::Next<'_>, interval: Duration) -> Result<u8, String> {
    let said = |error| format!("{}: {error}", to.display());
    let file = OpenOptions::new().append(true).create(true).open(to);
    let mut file = file.map_err(said)?;
    loop {
        file.write_all(json(&next()?).as_bytes()).map_err(said)?;
        // Samples that are missed while the machine is busy are not made up for.
        thread::sleep(interval);
    }
}

/// Does what the options say. Returns the exit status, or a text for the user.
fn run(options: &Options) -> Result<u8, String> {
    let next = || Sample::read(&options.sysfs);
    let mut samples = match &options.replay {
        Some(log) => Sample::read_log(log)?,
        None => vec![next()?],
    };
    if let Some(to) = &options.log {
        return log(to, &next, options.interval);
    }
    if options.check && options.replay.is_none() {
        thread::sleep(options.interval);
        samples.push(next()?);
    }
    let now = &samples[samples.len() - 1];
    let (text, status) = if options.json {
        (json(now), 0)
    } else if options.prom {
        (prom::prom(now), 0)
    } else if options.advise {
        (advise::advise(&samples), 0)
    } else if options.check {
        check(&samples)
    } else if options.once || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let lines = screen::screen(&samples, 80);
        let lines: Vec<_> = lines.iter().map(|line| format!("{line}\n")).collect();
        (lines.concat(), 0)
    } else {
        let next = options.replay.is_none().then_some(&next as &live::Next<'_>);
        let shown = live::live(samples, next, options.interval);
        return shown.map(|()| 0).map_err(|error| error.to_string());
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has closed the pipe has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("output: {error}")),
        _ => Ok(status),
    }
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    match run(&options) {
        Ok(status) => return ExitCode::from(status),
        Err(text) if options.check => println!("CC_SWIOTLB UNKNOWN: {}", text.replace('\n', " ")),
        Err(text) => eprintln!("cc_swiotlb_stat: {text}"),
    }
    ExitCode::from(FAILED)
}
