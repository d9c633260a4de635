// SPDX-License-Identifier: GPL-2.0

//! The stock of a NUMA node: its chunks, by how many of their spans are unbound.
//!
//! A span is taken from the chunk with the fewest unbound ones, so that whole chunks become free by
//! themselves. Chunks of a single span are used last, as they are given back first.
//!
//! # Locking
//!
//! `chunks` is taken with interrupts disabled, inside the lock of a depot or alone, for a bounded
//! time; no lock is taken inside it. The counts are written with it held and read without it.

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

/// One span is kept ready for this many that are in use, if that is more than the watermark: a load
/// that grew so far may well grow further before kccd has caught up.
pub(crate) const BESIDE_USED: u64 = 4;

/// How many windows of time the need for spans is remembered for.
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
    /// The most spans that were ever bound at a time.
    pub(crate) peak: Counter,
    /// The number of the current window, which only ever grows.
    window: Counter,
    /// How many spans the watermark keeps unbound.
    pub(super) low: Counter,
    /// kccd wants to be told when fewer than this many spans are unbound.
    ring_below: Counter,
    /// kccd wants to be told from this many unbound spans on; `u64::MAX` while it looks anyway.
    high: Counter,
    /// How many unbound spans each reach has to leave.
    kept: [Counter; REACHES],
}

const REACHES: usize = Reach::Last as usize + 1;

/// How deep a mapping may reach into a depot, and into the stock behind it for a span to bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Slots that the watermark does not keep for mappings of their own class.
    Surplus,
    /// All slots, but no span.
    Bound,
    /// Spans above the reserve as well.
    Ready,
    /// The reserve as well, except the spans that are for large mappings only.
    Reserve,
    /// Everything, to the last span.
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

    /// Begins a new window in place of the oldest one, which is forgotten. Any context but NMI.
    pub(crate) fn turn_window(&self) {
        let _chunks = self.chunks.lock();
        self.window.add(1);
        self.peak_of_window().set(self.bound());
    }

    fn peak_of_window(&self) -> &Counter {
        &self.peaks[self.window.get() as usize % WINDOWS]
    }

    /// Sets how many spans the watermark keeps unbound, and the reserves: the spans for mappings
    /// that find nothing else, and below those, the spans for large mappings only.
    pub(crate) fn set_levels(&self, low: u64, reserve: u64, large_reserve: u64) {
        self.low.set(low);
        self.kept[Reach::Ready as usize].set(reserve + large_reserve);
        self.kept[Reach::Reserve as usize].set(large_reserve);
    }

    /// Unbound spans beyond the watermark, or beyond the part of the bound ones if that is more.
    pub(super) fn beyond_low(&self) -> u64 {
        let low = self.low.get().max(self.bound() / BESIDE_USED);
        self.unbound.get().saturating_sub(low)
    }

    /// Sets when kccd wants to be told: below `low` unbound spans, and from `high` on.
    ///
    /// A later change of their number sees these limits; an earlier one is visible to the caller.
    pub(crate) fn listen(&self, low: u64, high: Option<u64>) {
        let _chunks = self.chunks.lock();
        self.ring_below.set(low);
        self.high.set(high.unwrap_or(u64::MAX));
    }

    /// Whether kccd should be told how few or how many spans are unbound.
    pub(super) fn has_news(&self) -> bool {
        !(self.ring_below.get()..self.high.get()).contains(&self.unbound.get())
    }

    /// How many spans can be taken within `reach`.
    pub(crate) fn within(&self, reach: Reach) -> u64 {
        let kept = self.kept[reach as usize].get();
        self.unbound.get().saturating_sub(kept)
    }

    /// Takes `count` adjacent spans, at most as many as a chunk has, for a depot to bind.
    pub(super) fn take(&self, reach: Reach, count: usize) -> Option<&'static [Span]> {
        let mut chunks = self.chunks.lock();
        if self.within(reach) < count as u64 {
            return None;
        }
        // Looks at the first chunk of each level, from the lowest one on that may have `count`
        // spans.
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

    /// Adds a chunk, all of whose spans are unbound. Any context but NMI.
    pub(crate) fn add(&self, chunk: &'static Chunk) {
        let mut chunks = self.chunks.lock();
        chunks.add(chunk);
        self.spans.add(chunk.span_count() as u64);
        self.unbound.add(chunk.span_count() as u64);
    }

    /// Takes out a chunk, all of whose spans are unbound; one of a single span if there is one.
    pub(crate) fn remove(&self) -> Option<&'static Chunk> {
        let mut chunks = self.chunks.lock();
        let chunk = Self::whole(&chunks)?;
        chunks.remove(chunk);
        self.unbound.sub(chunk.span_count() as u64);
        self.spans.sub(chunk.span_count() as u64);
        Some(chunk)
    }

    /// Whether there is a chunk for [`Self::remove`].
    pub(crate) fn has_whole(&self) -> bool {
        Self::whole(&self.chunks.lock()).is_some()
    }

    fn whole(chunks: &Lists<Chunk, LEVELS>) -> Option<&'static Chunk> {
        let single = chunks.first_at(SINGLE);
        single.or_else(|| chunks.first_at(WHOLE))
    }
}
