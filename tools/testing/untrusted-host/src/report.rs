// SPDX-License-Identifier: GPL-2.0

//! What the device has done and seen, for the line at its end.

use crate::chain::Buffer;
use memchr::memmem;
use serde::Serialize;
use std::collections::BTreeMap;
use vm_memory::{Bytes, GuestMemoryMmap};

/// The number of reports that are kept: more say nothing new.
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
    /// How often each word that was looked for was in a buffer that is for the device to fill.
    pub seen: BTreeMap<String, u64>,
    /// Descriptors, tables and rings that point outside shared memory, or make no sense.
    pub outside: u64,
    /// The first of them in words.
    pub reports: Vec<String>,
    /// Why the connection ended, unless QEMU closed it.
    pub error: Option<String>,
}

impl Report {
    /// Counts these words from now on.
    pub fn seek(&mut self, words: &[String]) {
        self.seen = words.iter().map(|word| (word.clone(), 0)).collect();
    }

    /// Looks for the words in buffers that the device was not meant to read.
    pub fn search(&mut self, buffers: &[Buffer], memory: &GuestMemoryMmap) {
        if self.seen.is_empty() {
            return;
        }
        for buffer in buffers {
            let mut data = vec![0; buffer.bytes as usize];
            let read = memory.read_slice(&mut data, buffer.address);
            read.expect("it was looked at");
            for (word, count) in &mut self.seen {
                *count += memmem::find_iter(&data, word).count() as u64;
            }
        }
    }

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
