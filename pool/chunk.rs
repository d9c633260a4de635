// SPDX-License-Identifier: GPL-2.0

//! Chunks: the unit of memory that is converted at a time, and the spans that it consists of.
//!
//! A chunk is 2 MiB, so that one entry of the direct map covers it, or a single span where memory
//! is too fragmented. Its description is never freed: after the memory was given back it waits for
//! other memory.
//!
//! # Locking
//!
//! `unbound` and the links are protected by the lock of the stock of the chunk's node. `memory` is
//! used by kccd alone.

use super::{
    class::{
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    list::{
        Linked,
        Links, //
    },
    span::{
        starts,
        Span, //
    },
    stats::Counter, //
};
use crate::glue::memory::SharedMemory;
use core::ptr;
use kernel::{
    alloc::AllocError,
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// A chunk.
#[pin_data]
pub(crate) struct Chunk {
    spans: [Span; SPANS_PER_CHUNK],
    /// How many of the spans have memory, 1 or all.
    span_count: Counter,
    /// The spans that are unbound, one bit each.
    unbound: Counter,
    node: Counter,
    links: Links<Self>,
    #[pin]
    memory: Mutex<Option<SharedMemory>>,
}

/// The levels of chunks: one for each number of unbound spans, and one for single spans.
pub(super) const LEVELS: usize = SINGLE + 1;
pub(super) const WHOLE: usize = SPANS_PER_CHUNK - 1;
pub(super) const SINGLE: usize = SPANS_PER_CHUNK;

impl Linked for Chunk {
    fn links(&self) -> &Links<Self> {
        &self.links
    }

    fn level(&self) -> Option<usize> {
        match self.unbound.get().count_ones() {
            0 => None,
            _ if self.is_single() => Some(SINGLE),
            unbound => Some(unbound as usize - 1),
        }
    }
}

impl Chunk {
    /// A chunk without memory.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            spans: [const { Span::new() }; SPANS_PER_CHUNK],
            span_count: Counter::default(),
            unbound: Counter::default(),
            node: Counter::default(),
            links: Links::new(),
            memory <- new_mutex!(None),
        })
    }

    /// Makes the records of all classes but that of 512 B, if they are not there yet.
    pub(crate) fn make_records(&self) -> Result<(), AllocError> {
        let mut spans = self.spans.iter();
        spans.try_for_each(|span| span.make_tables(1))
    }

    /// Gives the chunk its memory, for the slots of `node`. May sleep.
    pub(crate) fn place(&'static self, memory: SharedMemory, node: usize) {
        let count = memory.bytes() / SPAN_BYTES;
        for (index, span) in self.spans.iter().take(count).enumerate() {
            span.place(memory.base().add(index * SPAN_BYTES), self);
        }
        self.span_count.set(count as u64);
        self.unbound.set((1 << count) - 1);
        self.node.set(node as u64);
        *self.memory.lock() = Some(memory);
    }

    /// Takes the memory out again. May sleep.
    pub(crate) fn take_memory(&self) -> Option<SharedMemory> {
        self.memory.lock().take()
    }

    /// The spans that have memory.
    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().take(self.span_count())
    }

    /// How many spans have memory.
    pub(crate) fn span_count(&self) -> usize {
        self.span_count.get() as usize
    }

    /// The node that the chunk's slots belong to.
    pub(crate) fn node(&self) -> usize {
        self.node.get() as usize
    }

    /// Whether it is a single span.
    pub(crate) fn is_single(&self) -> bool {
        self.span_count() == 1
    }

    /// The index of the first of `count` adjacent unbound spans, aligned to `count` rounded up to a
    /// power of two.
    pub(super) fn find(&self, count: usize) -> Option<usize> {
        let (unbound, all) = (self.unbound.get(), (1 << count) - 1);
        let mut starts = starts(SPANS_PER_CHUNK, count);
        starts.find(|first| unbound >> first & all == all)
    }

    /// Takes spans as [`Self::find`] finds them, which count as bound from now on.
    pub(crate) fn take(&'static self, count: usize) -> Option<&'static [Span]> {
        let first = self.find(count)?;
        let taken = ((1 << count) - 1) << first;
        self.unbound.set(self.unbound.get() & !taken);
        self.spans.get(first..first + count)
    }

    /// Notes that a span of this chunk is unbound again.
    pub(crate) fn put(&self, span: &Span) {
        let before = self.spans().take_while(|it| !ptr::eq(*it, span));
        let bit = 1 << before.count();
        self.unbound.set(self.unbound.get() | bit);
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
impl Chunk {
    /// A chunk of `spans` spans from `base` on that has no memory, for tests, which only count.
    pub(super) fn for_test(
        base: super::address::Phys,
        spans: usize,
        node: usize,
    ) -> Result<&'static Self> {
        let chunk = crate::glue::leak(KBox::pin_init(Self::new(), GFP_KERNEL)?);
        chunk.make_records()?;
        for (index, span) in chunk.spans.iter().take(spans).enumerate() {
            span.place(base.add(index * SPAN_BYTES), chunk);
        }
        chunk.span_count.set(spans as u64);
        chunk.unbound.set((1 << spans) - 1);
        chunk.node.set(node as u64);
        Ok(chunk)
    }
}
