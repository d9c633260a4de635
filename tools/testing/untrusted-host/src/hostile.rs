// SPDX-License-Identifier: GPL-2.0

//! The ways in which the device is hostile, and the memory that it overwrites.

use crate::random::Random;
use crate::request::Request;
use clap::ValueEnum;
use std::fmt;
use std::mem::size_of;
use std::num::Wrapping;
use std::ops::Range;
use std::sync::atomic::Ordering;
use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_NEXT;
use virtio_queue::{Descriptor, Queue, QueueT};
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion,
};
use vmm_sys_util::seek_hole::SeekHole;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Mode {
    /// As a device should be
    Honest,
    /// Complete requests after up to 20 ms, in any order
    Late,
    /// Report requests as done up to 20 ms before they are
    Early,
    /// Never complete a request
    Never,
    /// Complete each request twice
    Twice,
    /// Report requests that do not exist, or a number of them that cannot be
    Index,
    /// Report any length as written
    Length,
    /// Write a part of what is read, and report all of it
    Short,
    /// Answer with any status
    Status,
    /// Change payload and descriptors that the guest has written
    Change,
    /// Overwrite all that a request shows: its buffers, its descriptors; and the ring's flags
    Scribble,
    /// Overwrite random bytes of all shared memory
    ScribbleAll,
    /// Overwrite all of shared memory with a pattern
    FillAll,
    /// Chain all of the queue's descriptors, which Linux followed for ever before patch 6
    Chain,
}

impl Mode {
    /// Whether the driver cannot use the queue any longer once it has seen this.
    pub fn breaks_queue(self) -> bool {
        matches!(
            self,
            Self::Twice | Self::Index | Self::ScribbleAll | Self::FillAll | Self::Chain
        )
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        to.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// How many random places are overwritten at a time.
const SCRIBBLES: u64 = 256;
const SCRIBBLE_BYTES: u64 = 64;
const PATTERNS: [u8; 4] = [0, 0x5a, 0xa5, 0xff];

const RING_INDEX: u64 = 2;
const RING_HEADER: u64 = 4;
const USED_BYTES: u64 = 8;
/// The offset of the flags in a descriptor.
const DESCRIPTOR_FLAGS: u64 = 12;
const AVAILABLE_BYTES: u64 = size_of::<u16>() as u64;

/// An entry of the used ring.
#[derive(Clone, Copy)]
pub struct Used {
    id: u32,
    length: u32,
}

impl Used {
    pub fn new(id: u32, length: u32) -> Self {
        Self { id, length }
    }
}

/// Memory of the guest that the device can reach, and random numbers.
pub struct Vandal<'a> {
    pub memory: &'a GuestMemoryMmap,
    pub random: &'a mut Random,
}

impl Vandal<'_> {
    /// Overwrites a few bytes of a range.
    fn scribble(&mut self, range: &Range<u64>) {
        let start = self.random.within(range.clone());
        let bytes = self
            .random
            .within(1..SCRIBBLE_BYTES + 1)
            .min(range.end - start);
        let data = self.random.bytes(bytes as usize);
        self.write(start, &data);
    }

    fn write(&self, address: u64, data: &[u8]) {
        // All ranges are of memory that was handed over.
        let written = self.memory.write_slice(data, GuestAddress(address));
        written.expect("memory does not go away");
    }

    /// Overwrites what the driver has written for a request: header, payload, descriptors.
    pub fn change(&mut self, request: &Request) -> u64 {
        let buffers = request.readable.iter();
        let payload = buffers.map(|each| (each.address, u64::from(each.bytes)));
        let all = request.readable.iter().chain(&request.data);
        let descriptors = all.map(|each| (each.descriptor, size_of::<Descriptor>() as u64));
        let ranges: Vec<_> = payload.chain(descriptors).collect();
        for (at, bytes) in &ranges {
            let data = self.random.bytes(*bytes as usize);
            self.write(at.raw_value(), &data);
        }
        ranges.len() as u64
    }

    /// Overwrites at random the memory that a request has shown, and the fields of the ring that
    /// tell the driver when to notify the device.
    pub fn scribble_request(&mut self, request: &Request, queue: &Queue) -> u64 {
        let used = queue.used_ring();
        let event = used + RING_HEADER + u64::from(queue.size()) * USED_BYTES;
        let mut ranges = vec![used..used + RING_INDEX, event..event + AVAILABLE_BYTES];
        for each in request.readable.iter().chain(&request.data) {
            let (buffer, descriptor) = (each.address.raw_value(), each.descriptor.raw_value());
            ranges.push(buffer..buffer + u64::from(each.bytes));
            ranges.push(descriptor..descriptor + size_of::<Descriptor>() as u64);
        }
        ranges.retain(|each| !each.is_empty());
        for _ in 0..SCRIBBLES {
            let index = self.random.within(0..ranges.len() as u64) as usize;
            self.scribble(&ranges[index].clone());
        }
        SCRIBBLES
    }

    /// All memory that is or was shared, except for the ring by which the driver hands over
    /// requests: the driver never reads it, and the device needs it.
    fn everything(&self, queue: &Queue) -> Vec<Range<u64>> {
        let ring = queue.avail_ring();
        let ring_bytes = RING_HEADER + (u64::from(queue.size()) + 1) * AVAILABLE_BYTES;
        let spared = ring..ring + ring_bytes;
        let mut found = Vec::new();
        for region in self.memory.iter() {
            let Some(file) = region.file_offset() else {
                continue;
            };
            let base = region.start_addr().raw_value();
            for extent in extents(file, region.len()) {
                let (start, end) = (base + extent.start, base + extent.end);
                found.push(start..end.min(spared.start));
                found.push(start.max(spared.end)..end);
            }
        }
        found.retain(|each| !each.is_empty());
        found
    }

    /// Overwrites random places of all shared memory.
    pub fn scribble_all(&mut self, queue: &Queue) -> u64 {
        let ranges = self.everything(queue);
        for _ in 0..SCRIBBLES {
            // Choose by size, so that each byte is as likely as any other.
            let all = ranges.iter().map(|each| each.end - each.start).sum();
            let mut at = self.random.within(0..all);
            let hit = ranges.iter().find(|each| {
                let bytes = each.end - each.start;
                let here = at < bytes;
                at = if here { at } else { at - bytes };
                here
            });
            let range = hit.expect("there are so many bytes");
            self.scribble(&(range.start + at..range.end));
        }
        SCRIBBLES
    }

    /// Overwrites all shared memory at once.
    pub fn fill_all(&mut self, queue: &Queue) -> u64 {
        let pattern = vec![self.random.pick(&PATTERNS); 1 << 20];
        for range in self.everything(queue) {
            for start in range.clone().step_by(pattern.len()) {
                let bytes = (range.end - start).min(pattern.len() as u64);
                self.write(start, &pattern[..bytes as usize]);
            }
        }
        1
    }

    /// Makes each descriptor of the queue say that another one follows.
    pub fn chain(&mut self, queue: &Queue) -> u64 {
        let flags = (VRING_DESC_F_NEXT as u16).to_le_bytes();
        for start in (0..table_bytes(queue)).step_by(size_of::<Descriptor>()) {
            self.write(queue.desc_table() + start + DESCRIPTOR_FLAGS, &flags);
        }
        u64::from(queue.size())
    }

    /// The false reports besides a request that is done: entries of the used ring, and how many
    /// more the ring's index claims.
    pub fn lies(&mut self, mode: Mode, done: Used, size: u16) -> (Vec<Used>, u16) {
        let length = self.random.next() as u32;
        let beyond = u32::from(size) + self.random.within(0..1 << 16) as u32;
        let any = self.random.within(0..u64::from(size)) as u32;
        match (mode, self.random.within(0..4)) {
            (Mode::Twice, _) => (vec![done, done], 0),
            (_, 0) => (vec![done, Used::new(beyond, length)], 0),
            (_, 1) => (vec![done, Used::new(u32::MAX, length)], 0),
            (_, 2) => (vec![done, Used::new(any, length)], 0),
            (_, _) => (vec![done], self.random.within(1..1 << 16) as u16),
        }
    }
}

/// The size of the queue's own table of descriptors, not of an indirect one.
fn table_bytes(queue: &Queue) -> u64 {
    u64::from(queue.size()) * size_of::<Descriptor>() as u64
}

/// The parts of a file that have content.
fn extents(file: &FileOffset, bytes: u64) -> Vec<Range<u64>> {
    let Ok(mut handle) = file.file().try_clone() else {
        return Vec::new();
    };
    let start = file.start();
    let mut found = Vec::new();
    let mut at = start;
    while let Ok(Some(from)) = handle.seek_data(at) {
        let to = match handle.seek_hole(from) {
            Ok(Some(to)) => to.min(start + bytes),
            _ => start + bytes,
        };
        if from >= to {
            break;
        }
        found.push(from - start..to - start);
        at = to;
    }
    found
}

/// Puts entries into the used ring, as they are, and lets the index claim `more` than those.
pub fn publish(memory: &GuestMemoryMmap, queue: &mut Queue, entries: &[Used], more: u16) {
    let mut next = queue.next_used();
    for entry in entries {
        let at = RING_HEADER + u64::from(next % queue.size()) * USED_BYTES;
        let at = GuestAddress(queue.used_ring() + at);
        let bits = (u64::from(entry.length) << 32) | u64::from(entry.id);
        let written = memory.write_obj(bits.to_le(), at);
        written.expect("the ring is shared");
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    let index = GuestAddress(queue.used_ring() + RING_INDEX);
    let claimed = (Wrapping(next) + Wrapping(more)).0.to_le();
    let stored = memory.store(claimed, index, Ordering::Release);
    stored.expect("the ring is shared");
}
