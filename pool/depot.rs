// SPDX-License-Identifier: GPL-2.0

//! Depots: the spans that a NUMA node has for one use, and their free slots. What is said of slots
//! here holds for pages that are lent as well.
//!
//! The spans are sorted by how many of their slots are home. The fullest serve first, so others
//! become empty by themselves; a span whose slots are all home goes back to the stock at once.
//!
//! # Locking
//!
//! `spans` is taken with interrupts disabled; inside it only the lock of the node's stock is taken.
//! It is held for as long as it takes to move one batch of slots, at most a CPU's cache. The counts
//! are written with it held and read without it.

use super::{
    address::Phys,
    list::Lists,
    span::{
        FreeSlot,
        Span,
        Use,
        ALL_HOME, //
    },
    stats::Counter,
    stock::{
        Reach,
        Stock, //
    },
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::SpinLockIrq, //
};

type Spans = Lists<Span, { ALL_HOME + 1 }>;

/// A depot.
#[pin_data]
pub(crate) struct Depot {
    bound_to: Use,
    #[pin]
    spans: SpinLockIrq<Spans>,
    /// Free slots that are home, and all slots.
    pub(crate) free: Counter,
    pub(crate) slots: Counter,
    /// Free slots that the watermark wants bound to this class: they are not for other classes, and
    /// keep their spans bound. Set by kccd.
    pub(crate) keep: Counter,
}

impl Depot {
    /// An empty depot.
    pub(super) fn new(bound_to: Use) -> impl PinInit<Self> {
        pin_init!(Self {
            bound_to,
            spans <- new_spinlock_irq!(Lists::new()),
            free: Counter::default(),
            slots: Counter::default(),
            keep: Counter::default(),
        })
    }

    /// Whether kccd should be told how few free slots there are.
    pub(crate) fn is_low(&self) -> bool {
        self.free.get() < self.keep.get()
    }

    /// How many slots `reach` allows to take without binding another span.
    fn within(&self, reach: Reach) -> u64 {
        let kept = match reach {
            Reach::Surplus => self.keep.get(),
            _ => 0,
        };
        self.free.get().saturating_sub(kept)
    }

    /// Whether there seems to be anything to take within `reach`. Takes no lock.
    pub(super) fn may_have(&self, stock: &Stock, reach: Reach) -> bool {
        self.within(reach) > 0 || stock.within(reach) > 0
    }

    /// Slots in a span.
    fn per_span(&self) -> u64 {
        self.bound_to.class().slots_per_span() as u64
    }

    /// Takes at most `most` slots and gives them to `taken`; binds a span if none is home.
    pub(super) fn take(
        &self,
        stock: &Stock,
        reach: Reach,
        most: usize,
        mut taken: impl FnMut(FreeSlot),
    ) {
        let mut spans = self.spans.lock();
        if self.within(reach) == 0 {
            self.bind(&mut spans, stock, reach, 1);
        }
        let batch = self.within(reach).min(most as u64);
        let mut left = batch;
        while let (1.., Some(span)) = (left, spans.first()) {
            let given = spans.change(span, |span| {
                let slots = (0..left).map_while(|_| span.take(self.bound_to.class()));
                slots.map(&mut taken).count() as u64
            });
            // A span that has no slot, whatever its count says, ends the batch.
            if given == 0 {
                break;
            }
            left -= given;
        }
        self.free.sub(batch - left);
    }

    /// Takes `count` adjacent slots, at most as many as a chunk has, aligned to `count` rounded up
    /// to a power of two; returns the first. Looks only at the first span of each level, and binds
    /// other spans if none of these has such slots.
    pub(super) fn take_run(&self, stock: &Stock, reach: Reach, count: usize) -> Option<FreeSlot> {
        let mut spans = self.spans.lock();
        let class = self.bound_to.class();
        let found = (0..=ALL_HOME).find_map(|level| {
            let span = spans.first_at(level)?;
            spans.change(span, |span| span.take_run(class, count))
        });
        let first = found.or_else(|| {
            let per_span = class.slots_per_span();
            let bound = self.bind(&mut spans, stock, reach, count.div_ceil(per_span))?;
            let starts = (0..count).step_by(per_span);
            let runs = bound.iter().zip(starts).map(|(span, start)| {
                let part = (count - start).min(per_span);
                spans.change(span, |span| span.take_run(class, part))
            });
            // The runs of all spans are taken; together they are one run.
            runs.reduce(|first, _| first)?
        })?;
        self.free.sub(count as u64);
        Some(first)
    }

    fn bind(
        &self,
        spans: &mut Spans,
        stock: &Stock,
        reach: Reach,
        count: usize,
    ) -> Option<&'static [Span]> {
        let bound = stock.take(reach, count)?;
        if bound.iter().any(|span| span.bind(self.bound_to).is_err()) {
            for span in bound {
                span.unbind();
                stock.put(span);
            }
            return None;
        }
        bound.iter().for_each(|span| spans.add(span));
        let slots = self.per_span() * count as u64;
        self.free.add(slots);
        self.slots.add(slots);
        Some(bound)
    }

    /// Binds a span ahead of need. Returns whether there was one. Any context but NMI.
    pub(crate) fn bind_ahead(&self, stock: &Stock) -> bool {
        let mut spans = self.spans.lock();
        self.bind(&mut spans, stock, Reach::Ready, 1).is_some()
    }

    /// Whether the watermark can do without a span whose slots are all home.
    fn has_spare(&self) -> bool {
        self.free.get() >= self.per_span() + self.keep.get()
    }

    /// Unbinds the spans whose slots are all home, as far as the watermark, which may have changed,
    /// can do without them. Any context but NMI.
    pub(crate) fn release(&self, stock: &Stock) {
        while self.has_spare() {
            let mut spans = self.spans.lock();
            let Some(span) = spans.first_at(ALL_HOME) else {
                return;
            };
            self.unbind(&mut spans, stock, span);
        }
    }

    fn unbind(&self, spans: &mut Spans, stock: &Stock, span: &'static Span) {
        spans.remove(span);
        self.free.sub(self.per_span());
        self.slots.sub(self.per_span());
        span.unbind();
        stock.put(span);
    }

    /// Takes runs of adjacent slots home, each given by its span, the address of the first slot,
    /// and the number of slots. A span whose slots are all home then is unbound, if the watermark
    /// can do without it.
    pub(super) fn put(
        &self,
        stock: &Stock,
        runs: impl Iterator<Item = (&'static Span, Phys, usize)>,
    ) {
        let mut spans = self.spans.lock();
        for (span, first, count) in runs {
            spans.change(span, |span| span.put(self.bound_to.class(), first, count));
            self.free.set(self.free.get() + count as u64);
            if span.home_slots.get() == self.per_span() && self.has_spare() {
                self.unbind(&mut spans, stock, span);
            }
        }
    }
}
