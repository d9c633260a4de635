// SPDX-License-Identifier: GPL-2.0

//! What the device has done and seen, for the line at its end.

use serde::Serialize;

/// More reports say nothing new.
const REPORTS: usize = 8;

#[derive(Default, Serialize)]
pub struct Report {
    pub mode: String,
    pub seed: u64,
    /// Memory that was handed over: guest-physical address and bytes of each region.
    pub regions: Vec<(u64, u64)>,
    pub requests: u64,
    /// Payload that was written to the disk, and read from it.
    pub written_bytes: u64,
    pub read_bytes: u64,
    pub hostile_events: u64,
    /// Requests that were not completed.
    pub held: u64,
    /// Descriptors, tables and rings that point outside shared memory, or make no sense.
    pub outside: u64,
    /// The first of them in words.
    pub reports: Vec<String>,
    /// Why the connection ended, unless QEMU closed it.
    pub error: Option<String>,
}

impl Report {
    /// Notes something that the device must never be shown.
    pub fn outside(&mut self, what: String) {
        self.outside += 1;
        if self.reports.len() < REPORTS {
            self.reports.push(what);
        }
    }

    pub fn failed(&self) -> bool {
        self.outside > 0 || self.error.is_some()
    }
}
