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
            while let (false, Some(slot)) = (done || left == 0, span.take(self.class)) {
                left -= 1;
                done = enough(slot);
            }
            self.free.store(self.free() - (home - span.home_slots()), Relaxed);
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

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_depot)]
mod tests {
    use super::*;
    use crate::pool::{
        address::Phys,
        chunk::Chunk,
        class::{
            CHUNK_BYTES,
            SPANS_PER_CHUNK,
            SPAN_BYTES, //
        },
    };
    use kernel::interrupt::local_interrupt_disable;
    use SizeClass::*;

    const READY: Depth = Depth {
        kept: true,
        reach: Reach::Ready,
    };
    const SURPLUS: Depth = Depth {
        kept: false,
        reach: Reach::Nothing,
    };

    /// A depot, a stock of so many chunks, and who knows their spans.
    struct Bench {
        depot: Pin<KBox<Depot>>,
        stock: Pin<KBox<Stock>>,
        chunks: KVec<&'static Chunk>,
    }

    impl Bench {
        fn new(class: SizeClass, chunks: usize) -> Result<Self> {
            let mut bench = Self {
                depot: KBox::pin_init(Depot::new(class), GFP_KERNEL)?,
                stock: KBox::pin_init(Stock::new(), GFP_KERNEL)?,
                chunks: KVec::new(),
            };
            for index in 0..chunks {
                let base = Phys::new((index * CHUNK_BYTES) as u64);
                let chunk = Chunk::for_test(base, SPANS_PER_CHUNK, 0)?;
                bench.stock.add(chunk);
                bench.chunks.push(chunk, GFP_KERNEL)?;
            }
            Ok(bench)
        }

        /// Takes at most `batch` slots.
        fn take(&self, depth: Depth, batch: usize) -> Result<KVec<FreeSlot>> {
            let mut taken = KVec::with_capacity(batch, GFP_KERNEL)?;
            let irq = local_interrupt_disable();
            self.depot.take(&self.stock, depth, &irq, |slot| {
                let _ = taken.push_within_capacity(slot);
                taken.len() == batch
            });
            Ok(taken)
        }

        fn put(&self, slots: &[FreeSlot]) {
            let irq = local_interrupt_disable();
            let mut open = self.depot.open(&self.stock, &irq);
            for slot in slots {
                let spans = self.chunks.iter().flat_map(|chunk| chunk.spans());
                let base = slot.base.raw() & !(SPAN_BYTES as u64 - 1);
                if let Some(span) = spans.into_iter().find(|span| span.base().raw() == base) {
                    open.put(span, *slot);
                }
            }
        }

        fn span_of(slot: &FreeSlot) -> usize {
            slot.base.span_index()
        }
    }

    #[test]
    fn fullest_span_serves_first() -> Result {
        let bench = Bench::new(K4, 1)?;
        let first = bench.take(READY, 128)?;
        let second = bench.take(READY, 128)?;
        assert!(first.len() == 128 && second.len() == 128);
        // Home of the first: 100, of the second: 10.
        bench.put(&first[..100]);
        bench.put(&second[..10]);
        let taken = bench.take(READY, 11)?;
        let of_second = |slot: &FreeSlot| Bench::span_of(slot) == Bench::span_of(&second[0]);
        assert!(taken[..10].iter().all(of_second) && !of_second(&taken[10]));
        // The other way round.
        bench.put(&second[..100]);
        let rest = bench.take(READY, 95)?;
        assert_eq!(rest.len(), 95);
        bench.put(&rest[90..]);
        assert!(!of_second(&bench.take(READY, 1)?[0]));
        Ok(())
    }

    #[test]
    fn span_goes_back_when_all_its_slots_are_home() -> Result {
        for class in SizeClass::ALL {
            let bench = Bench::new(class, 1)?;
            let slots = bench.take(READY, class.slots_per_span())?;
            assert_eq!(slots.len(), class.slots_per_span());
            assert!(bench.depot.free() == 0 && bench.stock.unbound() == 3);
            bench.put(&slots[1..]);
            assert_eq!(bench.stock.unbound(), 3);
            bench.put(&slots[..1]);
            assert!(bench.depot.free() == 0 && bench.depot.slots() == 0);
            assert!(bench.stock.unbound() == 4 && bench.stock.bound() == 0);
        }
        Ok(())
    }

    #[test]
    fn what_is_kept_stays_bound() -> Result {
        let bench = Bench::new(K16, 1)?;
        bench.depot.set_keep(33);
        // 32 slots to a span: three spans.
        let mut slots = bench.take(READY, 32)?;
        for _ in 0..2 {
            slots.extend_from_slice(&bench.take(READY, 32)?, GFP_KERNEL)?;
        }
        bench.put(&slots);
        assert!(bench.depot.free() == 64 && bench.stock.unbound() == 2);
        Ok(())
    }

    #[test]
    fn what_is_kept_is_not_for_other_classes() -> Result {
        let bench = Bench::new(K64, 1)?;
        // 8 slots to a span.
        bench.depot.set_keep(5);
        assert!(bench.depot.bind_ahead(&bench.stock));
        assert!(bench.depot.may_have(&bench.stock, SURPLUS));
        assert_eq!(bench.take(SURPLUS, 8)?.len(), 3);
        assert!(!bench.depot.may_have(&bench.stock, SURPLUS));
        assert_eq!(bench.take(SURPLUS, 8)?.len(), 0);
        assert_eq!(bench.take(READY, 8)?.len(), 5);
        Ok(())
    }

    #[test]
    fn a_dry_depot_binds_one_span() -> Result {
        for class in SizeClass::ALL {
            let bench = Bench::new(class, 2)?;
            assert_eq!(bench.take(READY, 2000)?.len(), class.slots_per_span());
            assert_eq!(bench.stock.bound(), 1);
        }
        // And none while it has a slot.
        let bench = Bench::new(K4, 2)?;
        assert_eq!(bench.take(READY, 127)?.len(), 127);
        assert_eq!(bench.take(READY, 128)?.len(), 1);
        assert_eq!(bench.stock.bound(), 1);
        Ok(())
    }

    #[test]
    fn batch_is_no_larger_than_asked_for() -> Result {
        let bench = Bench::new(K4, 1)?;
        for (batch, free) in [(1, 127), (2, 125), (64, 61), (61, 0)] {
            assert_eq!(bench.take(READY, batch)?.len(), batch);
            assert_eq!(bench.depot.free(), free);
        }
        Ok(())
    }

    #[test]
    fn nothing_is_bound_beyond_the_reach() -> Result {
        let bench = Bench::new(K512, 1)?;
        bench.stock.set_levels(4, 1, 1);
        let deep = |reach| Depth { kept: true, reach };
        // Reach, slots that are left for it.
        for (reach, slots) in [
            (Reach::Nothing, 0),
            (Reach::Ready, 2),
            (Reach::Reserve, 1),
            (Reach::Last, 1),
        ] {
            let mut taken = 0;
            while !bench.take(deep(reach), 1)?.is_empty() {
                taken += 1;
            }
            assert_eq!(taken, slots);
        }
        assert!(!bench.depot.bind_ahead(&bench.stock));
        Ok(())
    }

    #[test]
    fn counts_are_those_of_the_spans() -> Result {
        let bench = Bench::new(K8, 1)?;
        let mut taken = bench.take(READY, 64)?;
        taken.extend_from_slice(&bench.take(READY, 10)?, GFP_KERNEL)?;
        bench.put(&taken[60..70]);
        let spans = bench.chunks[0].spans().map(Span::home_slots);
        assert_eq!(spans.sum::<u32>(), bench.depot.free());
        assert_eq!(bench.depot.slots(), 128);
        Ok(())
    }
}
