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
    span::Span,
    stats::Counter, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::SpinLockIrq, //
};

/// The part of what is in use that is kept ready beside it, if the watermark is less: one in so many.
/// A load that grew so far may well grow further before kccd has followed it.
pub(crate) const BESIDE_USED: u64 = 4;

/// Windows of time in which the need for spans is remembered.
pub(crate) const WINDOWS: usize = 8;

/// The stock of one node.
#[pin_data]
pub(crate) struct Stock {
    /// Chunks with unbound spans.
    #[pin]
    chunks: SpinLockIrq<Lists<Chunk, LEVELS>>,
    /// All spans, and those that are unbound.
    pub(crate) spans: Counter,
    pub(crate) unbound: Counter,
    /// The most spans that were bound at a time, by window.
    peaks: [Counter; WINDOWS],
    /// The most that ever were.
    pub(crate) peak: Counter,
    /// The current window, counted on.
    window: Counter,
    /// How many spans the watermark keeps unbound.
    pub(super) low: Counter,
    /// Below how many kccd wants to know.
    ring_below: Counter,
    /// From how many unbound spans on kccd wants to know; `u64::MAX` while it looks anyway.
    high: Counter,
    /// How many unbound spans are beyond each reach.
    kept: [Counter; REACHES],
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
            spans: Counter::default(),
            unbound: Counter::default(),
            peaks: Default::default(),
            peak: Counter::default(),
            window: Counter::default(),
            low: Counter::default(),
            ring_below: Counter::default(),
            high: Counter::new(u64::MAX),
            kept: [u64::MAX, u64::MAX, 0, 0, 0].map(Counter::new),
        })
    }

    /// Spans that are bound.
    pub(crate) fn bound(&self) -> u64 {
        self.spans.get().saturating_sub(self.unbound.get())
    }

    /// The most spans that were bound at a time in any of the windows.
    pub(crate) fn demand(&self) -> u64 {
        let peaks = self.peaks.iter().map(Counter::get);
        peaks.fold(self.bound(), u64::max)
    }

    /// Begins a new window in place of the oldest one, which is forgotten. May sleep.
    pub(crate) fn turn_window(&self) {
        let _chunks = self.chunks.lock();
        self.window.add(1);
        self.peak_of_window().set(self.bound());
    }

    fn peak_of_window(&self) -> &Counter {
        &self.peaks[self.window.get() as usize % WINDOWS]
    }

    /// Sets how many spans the watermark keeps unbound, and the reserves: what only mappings take that
    /// find nothing else, and below that, what only large ones take.
    pub(crate) fn set_levels(&self, low: u64, reserve: u64, large_reserve: u64) {
        self.low.set(low);
        self.kept[Reach::Ready as usize].set(reserve + large_reserve);
        self.kept[Reach::Reserve as usize].set(large_reserve);
    }

    /// Unbound spans beyond that.
    pub(super) fn beyond_low(&self) -> u64 {
        let low = self.low.get().max(self.bound() / BESIDE_USED);
        self.unbound.get().saturating_sub(low)
    }

    /// Sets when kccd wants to know: below `low` unbound spans, and from `high` on.
    ///
    /// Whoever changes their number from then on sees it; who has done before is seen.
    pub(crate) fn listen(&self, low: u64, high: Option<u64>) {
        let _chunks = self.chunks.lock();
        self.ring_below.set(low);
        self.high.set(high.unwrap_or(u64::MAX));
    }

    /// Whether kccd should know how few or how many spans are unbound.
    pub(super) fn has_news(&self) -> bool {
        !(self.ring_below.get()..self.high.get()).contains(&self.unbound.get())
    }

    /// How many spans a mapping can reach.
    pub(crate) fn within(&self, reach: Reach) -> u64 {
        let kept = self.kept[reach as usize].get();
        self.unbound.get().saturating_sub(kept)
    }

    /// Takes `count` adjacent spans, at most a chunk's, for a depot to bind.
    pub(super) fn take(&self, reach: Reach, count: usize) -> Option<&'static [Span]> {
        let mut chunks = self.chunks.lock();
        if self.within(reach) < count as u64 {
            return None;
        }
        // Of each level the first, from the one on that may have so many.
        let mut levels = (count - 1..LEVELS).filter_map(|level| chunks.first_at(level));
        let chunk = levels.find(|chunk| chunk.find(count).is_some())?;
        let spans = chunks.change(chunk, |chunk| chunk.take(count));
        self.unbound.sub(count as u64);
        self.peak.raise_to(self.bound());
        self.peak_of_window().raise_to(self.bound());
        spans
    }

    /// Takes an unbound span back.
    pub(super) fn put(&self, span: &'static Span) {
        let Some(chunk) = span.chunk() else {
            return;
        };
        let mut chunks = self.chunks.lock();
        chunks.change(chunk, |chunk| chunk.put(span));
        self.unbound.add(1);
    }

    /// Adds a chunk, all of whose spans are unbound. May sleep.
    pub(crate) fn add(&self, chunk: &'static Chunk) {
        let mut chunks = self.chunks.lock();
        chunks.add(chunk);
        self.spans.add(chunk.span_count() as u64);
        self.unbound.add(chunk.span_count() as u64);
    }

    /// Takes a chunk out, all of whose spans are unbound: a single span if there is one.
    pub(crate) fn remove(&self) -> Option<&'static Chunk> {
        let mut chunks = self.chunks.lock();
        let chunk = Self::whole(&chunks)?;
        chunks.remove(chunk);
        self.unbound.sub(chunk.span_count() as u64);
        self.spans.sub(chunk.span_count() as u64);
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
}
