// SPDX-License-Identifier: GPL-2.0

//! The stock of a NUMA node: its chunks, by how many of their spans are unbound.
//!
//! A span comes from the chunk with the fewest unbound ones, so that whole chunks become free by
//! themselves, and from a single span last: those are given back first.
//!
//! # Locking
//!
//! `chunks` is taken with interrupts disabled, inside the lock of a depot or alone, for a bounded
//! time; nothing is taken while it is held. The counts are written with it held and read by anybody.

use super::{
    chunk::{
        Chunk,
        LEVELS,
        SINGLE,
        WHOLE, //
    },
    list::Lists,
    span::Span, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLockIrq, //
    },
};

/// The part of what is in use that is kept ready beside it, if the watermark is less: one in so many.
/// A load that grew so far may well grow further before kccd has followed it.
pub(crate) const BESIDE_USED: u32 = 4;

/// Windows of time in which the need for spans is remembered.
pub(crate) const WINDOWS: usize = 8;

/// The stock of one node.
#[pin_data]
pub(crate) struct Stock {
    /// Chunks with unbound spans.
    #[pin]
    chunks: SpinLockIrq<Lists<Chunk, LEVELS>>,
    unbound: Atomic<u32>,
    bound: Atomic<u32>,
    /// The most spans that were bound at a time, by window.
    peaks: [Atomic<u32>; WINDOWS],
    /// The most that ever were.
    peak: Atomic<u32>,
    /// The current window, counted on.
    window: Atomic<u32>,
    /// How many spans the watermark keeps unbound.
    low: Atomic<u32>,
    /// Below how many kccd wants to know.
    ring_below: Atomic<u32>,
    /// From how many unbound spans on kccd wants to know; `u32::MAX` while it looks anyway.
    high: Atomic<u32>,
    /// How many unbound spans are beyond each reach.
    kept: [Atomic<u32>; REACHES],
}

const REACHES: usize = Reach::Last as usize + 1;

/// How deep a mapping may reach into a depot, and into the stock behind it for a span to bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// For slots that the watermark does not keep for mappings of their own class.
    Surplus,
    /// For all slots, but for no span.
    Bound,
    /// For spans above the reserve.
    Ready,
    /// Into the reserve, but for what large mappings have for themselves.
    Reserve,
    /// To the last span.
    Last,
}

impl Stock {
    /// An empty stock.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            chunks <- new_spinlock_irq!(Lists::new()),
            unbound: Atomic::new(0),
            bound: Atomic::new(0),
            peaks: [const { Atomic::new(0) }; WINDOWS],
            peak: Atomic::new(0),
            window: Atomic::new(0),
            low: Atomic::new(0),
            ring_below: Atomic::new(0),
            high: Atomic::new(u32::MAX),
            kept: [u32::MAX, u32::MAX, 0, 0, 0].map(Atomic::new),
        })
    }

    /// Spans that are unbound.
    pub(crate) fn unbound(&self) -> u32 {
        self.unbound.load(Relaxed)
    }

    /// Spans that are bound.
    pub(crate) fn bound(&self) -> u32 {
        self.bound.load(Relaxed)
    }

    /// The most spans that were bound at a time in any of the windows.
    pub(crate) fn demand(&self) -> u32 {
        let peaks = self.peaks.iter().map(|peak| peak.load(Relaxed));
        peaks.fold(self.bound(), u32::max)
    }

    /// The most spans that were ever bound at a time.
    pub(crate) fn peak(&self) -> u32 {
        self.peak.load(Relaxed)
    }

    /// Begins a new window in place of the oldest one, which is forgotten. May sleep.
    pub(crate) fn turn_window(&self) {
        let _chunks = self.chunks.lock();
        let next = self.window.load(Relaxed).wrapping_add(1);
        self.peaks[next as usize % WINDOWS].store(self.bound(), Relaxed);
        self.window.store(next, Relaxed);
    }

    /// Sets how many spans the watermark keeps unbound, and the reserves: what only mappings take that
    /// find nothing else, and below that, what only large ones take.
    pub(crate) fn set_levels(&self, low: u32, reserve: u32, large_reserve: u32) {
        self.low.store(low, Relaxed);
        self.kept[Reach::Ready as usize].store(reserve + large_reserve, Relaxed);
        self.kept[Reach::Reserve as usize].store(large_reserve, Relaxed);
    }

    /// How many spans the watermark keeps unbound.
    pub(super) fn low(&self) -> u32 {
        self.low.load(Relaxed)
    }

    /// Unbound spans beyond that.
    pub(super) fn beyond_low(&self) -> u32 {
        self.unbound()
            .saturating_sub(self.low().max(self.bound() / BESIDE_USED))
    }

    /// Sets when kccd wants to know: below `low` unbound spans, and from `high` on.
    pub(crate) fn listen(&self, low: u32, high: Option<u32>) {
        self.ring_below.store(low, Relaxed);
        self.high.store(high.unwrap_or(u32::MAX), Relaxed);
    }

    /// Whether kccd should know how few or how many spans are unbound.
    pub(super) fn has_news(&self) -> bool {
        !(self.ring_below.load(Relaxed)..self.high.load(Relaxed)).contains(&self.unbound())
    }

    /// How many spans a mapping can reach.
    pub(crate) fn within(&self, reach: Reach) -> u32 {
        self.unbound()
            .saturating_sub(self.kept[reach as usize].load(Relaxed))
    }

    /// Takes `count` adjacent spans, at most a chunk's, for a depot to bind.
    pub(super) fn take(&self, reach: Reach, count: usize) -> Option<&'static [Span]> {
        let mut chunks = self.chunks.lock();
        if (self.within(reach) as usize) < count {
            return None;
        }
        // Of each level the first, from the one on that may have so many.
        let mut levels = (count - 1..LEVELS).filter_map(|level| chunks.first_at(level));
        let chunk = levels.find(|chunk| chunk.find(count).is_some())?;
        let spans = chunks.change(chunk, |chunk| chunk.take(count));
        self.count(-(count as i32), count as i32);
        for peak in [
            &self.peaks[self.window.load(Relaxed) as usize % WINDOWS],
            &self.peak,
        ] {
            peak.store(peak.load(Relaxed).max(self.bound()), Relaxed);
        }
        spans
    }

    /// Takes an unbound span back.
    pub(super) fn put(&self, span: &'static Span) {
        let Some(chunk) = span.chunk() else {
            return;
        };
        let mut chunks = self.chunks.lock();
        chunks.change(chunk, |chunk| chunk.put(span));
        self.count(1, -1);
    }

    /// Adds a chunk, all of whose spans are unbound. May sleep.
    pub(crate) fn add(&self, chunk: &'static Chunk) {
        let mut chunks = self.chunks.lock();
        chunks.add(chunk);
        self.count(chunk.span_count() as i32, 0);
    }

    /// Takes a chunk out, all of whose spans are unbound: a single span if there is one.
    pub(crate) fn remove(&self) -> Option<&'static Chunk> {
        let mut chunks = self.chunks.lock();
        let chunk = Self::whole(&chunks)?;
        chunks.remove(chunk);
        self.count(-(chunk.span_count() as i32), 0);
        Some(chunk)
    }

    /// Whether there is such a chunk.
    pub(crate) fn has_whole(&self) -> bool {
        Self::whole(&self.chunks.lock()).is_some()
    }

    fn whole(chunks: &Lists<Chunk, LEVELS>) -> Option<&'static Chunk> {
        let single = chunks.first_at(SINGLE);
        single.or_else(|| chunks.first_at(WHOLE))
    }

    fn count(&self, unbound: i32, bound: i32) {
        let add = |count: &Atomic<u32>, more: i32| {
            count.store(count.load(Relaxed).wrapping_add_signed(more), Relaxed);
        };
        add(&self.unbound, unbound);
        add(&self.bound, bound);
    }
}
