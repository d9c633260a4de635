// SPDX-License-Identifier: GPL-2.0

//! Depots: what a NUMA node has of one class, its spans and their free slots.
//!
//! The spans are sorted by how many of their slots are home. The fullest serve first, so that others
//! become empty by themselves; a span whose slots are all home goes back to the stock at once.
//!
//! # Locking
//!
//! `spans` is taken with interrupts disabled and nests the lock of the node's stock, and nothing
//! else. It is held for as long as it takes to move one batch of slots, at most a CPU's cache. The
//! counts are written with it held and read by anybody.

use super::{
    class::SizeClass,
    list::List,
    span::{
        FreeSlot,
        Span, //
    },
    stock::{
        Reach,
        Stock, //
    },
};
use kernel::{
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLockGuard,
        SpinLockIrq, //
    },
};

/// Quarters by how many slots are home, the fullest spans first, and those with all slots home.
const LEVELS: usize = 5;

struct Spans([List<Span>; LEVELS]);

impl Spans {
    /// The list that a span belongs to with so many of `total` slots home; [`None`] if none is.
    fn list(&mut self, home: u32, total: u32) -> Option<&mut List<Span>> {
        let level = match home {
            0 => return None,
            home => home * (LEVELS as u32 - 1) / total,
        };
        self.0.get_mut(level as usize)
    }

    fn first(&self) -> Option<&'static Span> {
        self.0.iter().find_map(List::first)
    }
}

/// How deep a mapping may reach into a depot and the stock behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Depth {
    /// Whether it may take what the watermark keeps for mappings of the class itself.
    pub(crate) kept: bool,
    /// For a span to bind.
    pub(crate) reach: Reach,
}

/// A depot.
#[pin_data]
pub(crate) struct Depot {
    class: SizeClass,
    #[pin]
    spans: SpinLockIrq<Spans>,
    /// Free slots that are home, and all slots.
    free: Atomic<u32>,
    slots: Atomic<u32>,
    /// Free slots that are not for other classes, and that keep their spans bound.
    keep: Atomic<u32>,
}

impl Depot {
    /// An empty depot.
    pub(super) fn new(class: SizeClass) -> impl PinInit<Self> {
        pin_init!(Self {
            class,
            spans <- new_spinlock_irq!(Spans([const { List::new() }; LEVELS])),
            free: Atomic::new(0),
            slots: Atomic::new(0),
            keep: Atomic::new(0),
        })
    }

    /// Free slots that are home.
    pub(crate) fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// All slots of the node's spans of this class.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.load(Relaxed)
    }

    /// Whether kccd should know how few there are.
    pub(crate) fn is_low(&self) -> bool {
        self.free() < self.keep()
    }

    /// Free slots that the watermark wants to be bound to this class.
    pub(crate) fn keep(&self) -> u32 {
        self.keep.load(Relaxed)
    }

    /// Sets that.
    pub(crate) fn set_keep(&self, slots: u32) {
        self.keep.store(slots, Relaxed);
    }

    /// How many slots there are without binding another span.
    fn within(&self, depth: Depth) -> u32 {
        let kept = if depth.kept { 0 } else { self.keep() };
        self.free().saturating_sub(kept)
    }

    /// Whether there is anything to be had. A look without any lock.
    pub(super) fn may_have(&self, stock: &Stock, depth: Depth) -> bool {
        self.within(depth) > 0 || stock.within(depth.reach) > 0
    }

    /// Takes slots until `enough` returns true for one that it is given; binds a span if none is
    /// home. Returns whether it took any.
    pub(super) fn take(
        &self,
        stock: &Stock,
        depth: Depth,
        irq: &LocalInterruptDisabled,
        mut enough: impl FnMut(FreeSlot) -> bool,
    ) -> bool {
        let mut spans = self.spans.lock_with(irq);
        if self.within(depth) == 0 && !self.bind_one(&mut spans, stock, depth.reach, irq) {
            return false;
        }
        let mut left = self.within(depth);
        let total = self.class.slots_per_span() as u32;
        let mut done = false;
        while let (false, Some(span)) = (done || left == 0, spans.first()) {
            let home = span.home_slots();
            while !done && left > 0 {
                let Some(slot) = span.take(self.class) else {
                    break;
                };
                left -= 1;
                done = enough(slot);
            }
            self.free
                .store(self.free() - (home - span.home_slots()), Relaxed);
            Self::relist(&mut spans, span, home, total);
        }
        true
    }

    fn relist(spans: &mut Spans, span: &'static Span, before: u32, total: u32) {
        if let Some(list) = spans.list(before, total) {
            list.remove(span);
        }
        if let Some(list) = spans.list(span.home_slots(), total) {
            list.add(span);
        }
    }

    fn bind_one(
        &self,
        spans: &mut Spans,
        stock: &Stock,
        reach: Reach,
        irq: &LocalInterruptDisabled,
    ) -> bool {
        if stock.within(reach) == 0 {
            return false;
        }
        let Some(span) = stock.take(reach, irq) else {
            return false;
        };
        if span.bind(self.class).is_err() {
            stock.put(span, irq);
            return false;
        }
        let total = self.class.slots_per_span() as u32;
        Self::relist(spans, span, 0, total);
        self.free.store(self.free() + total, Relaxed);
        self.slots.store(self.slots() + total, Relaxed);
        true
    }

    /// Binds a span ahead of need. Returns whether there was one. May sleep.
    pub(crate) fn bind_ahead(&self, stock: &Stock) -> bool {
        let irq = local_interrupt_disable();
        let mut spans = self.spans.lock_with(&irq);
        self.bind_one(&mut spans, stock, Reach::Ready, &irq)
    }

    /// Unbinds the spans whose slots are all home, as far as the watermark can do without them: when
    /// that has changed. May sleep.
    pub(crate) fn release(&self, stock: &Stock) {
        let total = self.class.slots_per_span() as u32;
        while self.free() >= total + self.keep() {
            let irq = local_interrupt_disable();
            let mut spans = self.spans.lock_with(&irq);
            let Some(span) = spans.list(total, total).and_then(|list| list.first()) else {
                return;
            };
            self.unbind(&mut spans, stock, span, &irq);
        }
    }

    fn unbind(
        &self,
        spans: &mut Spans,
        stock: &Stock,
        span: &'static Span,
        irq: &LocalInterruptDisabled,
    ) {
        let total = self.class.slots_per_span() as u32;
        if let Some(list) = spans.list(total, total) {
            list.remove(span);
        }
        self.free.store(self.free() - total, Relaxed);
        self.slots.store(self.slots() - total, Relaxed);
        span.unbind();
        stock.put(span, irq);
    }

    /// Opens the depot for slots that come home.
    pub(super) fn open<'a>(
        &'a self,
        stock: &'a Stock,
        irq: &'a LocalInterruptDisabled, //
    ) -> OpenDepot<'a> {
        OpenDepot {
            depot: self,
            stock,
            spans: self.spans.lock_with(irq),
            irq,
        }
    }
}

/// A depot while slots come home.
pub(super) struct OpenDepot<'a> {
    depot: &'a Depot,
    stock: &'a Stock,
    spans: SpinLockGuard<'a, Spans>,
    irq: &'a LocalInterruptDisabled,
}

impl OpenDepot<'_> {
    /// Whether this is `depot`.
    pub(super) fn is(&self, depot: &Depot) -> bool {
        core::ptr::eq(self.depot, depot)
    }

    /// Takes `slot` home to `span`, which it is a part of. If all slots are home then, and the
    /// watermark can do without them, the span is unbound.
    pub(super) fn put(&mut self, span: &'static Span, slot: FreeSlot) {
        let depot = self.depot;
        let total = depot.class.slots_per_span() as u32;
        let home = span.home_slots();
        span.put(depot.class, slot);
        Depot::relist(&mut self.spans, span, home, total);
        let free = depot.free() + 1;
        depot.free.store(free, Relaxed);
        if home + 1 < total || free < total + depot.keep() {
            return;
        }
        depot.unbind(&mut self.spans, self.stock, span, self.irq);
    }
}
