// SPDX-License-Identifier: GPL-2.0

//! A block device for guests that do not trust it, in a process of its own.
//!
//! QEMU hands it, over vhost-user, the memory that has a file, and nothing else: in the emulated
//! confidential guest that is the shared memory. It counts what it does, reports all that it is
//! shown outside of that memory, and is hostile if it is told to.

mod chain;
mod device;
mod hostile;
mod random;
mod report;
mod request;
#[cfg(test)]
mod tests;

use clap::Parser;
use device::{Device, Memory, TIMER};
use hostile::Mode;
use std::fs::OpenOptions;
use std::io;
use std::panic;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex};
use vhost_user_backend::VhostUserDaemon;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

const FAILED: u8 = 1;
const NOT_STARTED: u8 = 2;

/// Serves a file as a vhost-user block device to one QEMU, and prints a line of JSON at its end.
///
/// The status is 0 if nothing outside shared memory was shown to it, 1 if something was or the
/// connection broke, 2 if it could not start.
#[derive(Parser)]
struct Options {
    /// Where QEMU connects to
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The content of the disk
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    /// In which way it is hostile, from the first request to the second half of the disk on
    #[arg(long, value_enum, default_value = "honest")]
    mode: Mode,
    /// Of all that is random
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Take only so much of the memory for shared: all requests that use more are reported
    #[arg(long, value_name = "BYTES", default_value_t = u64::MAX)]
    window: u64,
    /// Count how often buffers that are for the device to fill have these in them
    #[arg(long, value_name = "WORD,...", value_delimiter = ',')]
    seek: Vec<String>,
}

/// Serves until QEMU has gone. Returns whether all went well.
fn run(options: &Options) -> io::Result<bool> {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&options.file)?;
    let memory = Memory::new(GuestMemoryMmap::new());
    let window = options.window;
    let mut device = Device::new(options.mode, options.seed, disk, window, memory.clone())?;
    device.report.seek(&options.seek);
    let timer = device.timer();
    let device = Arc::new(Mutex::new(device));
    let name = "untrusted-host".to_string();
    let daemon = VhostUserDaemon::new(name, device.clone(), memory);
    let mut daemon = daemon.map_err(|error| io::Error::other(error.to_string()))?;
    for handler in daemon.get_epoll_handlers() {
        handler.register_listener(timer, EventSet::IN, TIMER)?;
    }
    let served = daemon.serve(&options.socket);
    let mut device = device
        .lock()
        .expect("a thread that panics ends the process");
    device.report.error = served.err().map(|error| error.to_string());
    println!("{}", serde_json::to_string(&device.report)?);
    Ok(!device.report.failed())
}

/// Makes a panic of any thread end the process. With `panic = "abort"`, all crates would have to be
/// built once more for the tests, which unwind.
fn abort_at_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        report(about);
        process::abort();
    }));
}

fn main() -> ExitCode {
    let options = Options::parse();
    abort_at_panic();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("untrusted-host: {error}");
            ExitCode::from(NOT_STARTED)
        }
    }
}
