// SPDX-License-Identifier: GPL-2.0

//! The rules of a depot.

use crate::pool::{
    address::Phys,
    chunk::Chunk,
    class::{
        SizeClass,
        SizeClass::*,
        CHUNK_BYTES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    depot::Depot,
    span::{
        FreeSlot,
        Use, //
    },
    stock::{
        Reach,
        Stock, //
    },
};
use kernel::prelude::*;

#[kunit_tests(cc_swiotlb_depot)]
mod tests {
    use super::*;

    const READY: Reach = Reach::Ready;
    const SURPLUS: Reach = Reach::Surplus;

    /// A depot, a stock, and the stock's chunks, to find a slot's span.
    struct Bench {
        depot: Pin<KBox<Depot>>,
        stock: Pin<KBox<Stock>>,
        chunks: KVec<&'static Chunk>,
    }

    impl Bench {
        fn new(class: SizeClass, chunks: usize) -> Result<Self> {
            let mut bench = Self {
                depot: KBox::pin_init(Depot::new(Use::Slots(class)), GFP_KERNEL)?,
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
        fn take(&self, reach: Reach, batch: usize) -> Result<KVec<FreeSlot>> {
            let mut taken = KVec::with_capacity(batch, GFP_KERNEL)?;
            self.depot.take(&self.stock, reach, batch, |slot| {
                let _ = taken.push_within_capacity(slot);
            });
            Ok(taken)
        }

        fn put(&self, slots: &[FreeSlot]) {
            let with_span = |slot: &FreeSlot| {
                let spans = self.chunks.iter().flat_map(|chunk| chunk.spans());
                let base = slot.base.raw() & !(SPAN_BYTES as u64 - 1);
                let span = spans.into_iter().find(|span| span.base().raw() == base);
                Some((span?, slot.base, 1))
            };
            let slots = slots.iter().filter_map(with_span);
            self.depot.put(&self.stock, slots);
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
        for (fuller, other) in [(&first, &second), (&second, &first)] {
            // 10 slots of the one are home, 100 of the other.
            bench.put(&other[..100]);
            bench.put(&fuller[..10]);
            let taken = bench.take(READY, 110)?;
            let is_of =
                |slot: &FreeSlot, all: &[FreeSlot]| Bench::span_of(slot) == Bench::span_of(&all[0]);
            assert!(taken[..10].iter().all(|slot| is_of(slot, fuller)));
            assert!(taken[10..].iter().all(|slot| is_of(slot, other)));
        }
        Ok(())
    }

    #[test]
    fn span_goes_back_when_all_its_slots_are_home() -> Result {
        for class in SizeClass::ALL {
            let bench = Bench::new(class, 1)?;
            let slots = bench.take(READY, class.slots_per_span())?;
            assert_eq!(slots.len(), class.slots_per_span());
            assert!(bench.depot.free.get() == 0 && bench.stock.unbound.get() == 3);
            bench.put(&slots[1..]);
            assert_eq!(bench.stock.unbound.get(), 3);
            bench.put(&slots[..1]);
            assert!(bench.depot.free.get() == 0 && bench.depot.slots.get() == 0);
            assert!(bench.stock.unbound.get() == 4 && bench.stock.bound() == 0);
        }
        Ok(())
    }

    #[test]
    fn what_is_kept_stays_bound() -> Result {
        let bench = Bench::new(K16, 1)?;
        bench.depot.keep.set(33);
        // 32 slots to a span: three spans.
        let mut slots = bench.take(READY, 32)?;
        for _ in 0..2 {
            slots.extend_from_slice(&bench.take(READY, 32)?, GFP_KERNEL)?;
        }
        bench.put(&slots);
        assert!(bench.depot.free.get() == 64 && bench.stock.unbound.get() == 2);
        Ok(())
    }

    #[test]
    fn what_is_kept_is_not_for_other_classes() -> Result {
        let bench = Bench::new(K64, 1)?;
        // 8 slots to a span.
        bench.depot.keep.set(5);
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
        // And it binds none while it has a slot.
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
            assert_eq!(bench.depot.free.get(), free);
        }
        Ok(())
    }

    #[test]
    fn nothing_is_bound_beyond_the_reach() -> Result {
        let bench = Bench::new(K512, 1)?;
        bench.stock.set_levels(4, 1, 1);
        // Reach, slots that are left for it.
        for (reach, slots) in [
            (Reach::Bound, 0),
            (Reach::Ready, 2),
            (Reach::Reserve, 1),
            (Reach::Last, 1),
        ] {
            let mut taken = 0;
            while !bench.take(reach, 1)?.is_empty() {
                taken += 1;
            }
            assert_eq!(taken, slots);
        }
        assert!(!bench.depot.bind_ahead(&bench.stock));
        Ok(())
    }

    #[test]
    fn a_wrong_count_ends_the_batch() -> Result {
        let bench = Bench::new(K4, 1)?;
        let slots = bench.take(READY, 128)?;
        // No caller does this: the span has one slot at home, but counts two.
        bench.put(&[slots[0], slots[0]]);
        assert_eq!(bench.take(READY, 2)?.len(), 1);
        Ok(())
    }

    #[test]
    fn counts_are_those_of_the_spans() -> Result {
        let bench = Bench::new(K8, 1)?;
        let mut taken = bench.take(READY, 64)?;
        taken.extend_from_slice(&bench.take(READY, 10)?, GFP_KERNEL)?;
        bench.put(&taken[60..70]);
        let spans = bench.chunks[0].spans().map(|span| span.home_slots.get());
        assert_eq!(spans.sum::<u64>(), bench.depot.free.get());
        assert_eq!(bench.depot.slots.get(), 128);
        Ok(())
    }
}
