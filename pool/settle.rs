// SPDX-License-Identifier: GPL-2.0

//! What the NUMA nodes owe each other.
//!
//! A slot belongs to the node that its span was made for. Nobody looks at that when it comes back:
//! it goes to a magazine of the CPU that undoes the mapping, and with that to this CPU's node. What
//! holds instead is a sum: a depot has magazines for as many slots as belong to its node (shelf.rs).
//! So no node can hoard what others made, and what is out of a depot is what its node has in use,
//! or is owed by one that has.
//!
//! Retiring a span would change that. Its slots are found wherever they are, and as many magazines
//! as held them are freed, where there are empty ones. So afterwards magazines are moved from depots
//! that have more than they should to those that have less, with the slots that are in them.
//! Otherwise the one would be thought to be in use for ever, and never be given back, and the other
//! would be made once more.

use super::{
    class::SizeClass,
    depot::Depot,
    magazine::Magazine,
    span::Span,
    Pool, //
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

impl Pool {
    /// To be called when `span` has been withdrawn and set aside. By kccd only.
    pub(super) fn settle_retired(&self, span: &Span) {
        let class = span.class();
        self.settle(class, span.node(), class.slots_per_span());
    }

    /// `gone` of the slots of `class` that belonged to `node` are no more, and the others are back:
    /// sees to it that each depot has the magazines that it should. To be called by kccd only.
    pub(super) fn settle(&self, class: SizeClass, node: usize, gone: usize) {
        // Whoever adds up what the depots have finds the same all the time.
        if let Some(depot) = self.depot(node) {
            depot.retired(class, gone);
        }
        for from in self.depots_from(node) {
            while let Some(magazine) = from.give(class) {
                let mut left = Some(magazine);
                for to in self.depots_from(node) {
                    left = left.and_then(|magazine| to.accept(class, magazine).err());
                }
                if let Some(magazine) = left {
                    // Nobody lacks it, or has room for it.
                    from.keep(class, magazine);
                    break;
                }
            }
        }
        for depot in self.depots_from(node) {
            depot.settle(class);
        }
    }
}

impl Depot {
    /// `slots` of those that were made for this node, and are in kccd's hand, are no more. To be
    /// called by kccd only, as all that follow.
    fn retired(&self, class: SizeClass, slots: usize) {
        if let Some(gauge) = self.gauges.get(class.index()) {
            let _shelves = self.shelves.lock();
            gauge.retired(slots);
        }
    }

    /// kccd's hand is empty again: what it has taken out of one depot, and put into another, is out
    /// of the one and was given to the other.
    fn settle(&self, class: SizeClass) {
        if let Some(gauge) = self.gauges.get(class.index()) {
            let _shelves = self.shelves.lock();
            gauge.settle();
        }
    }

    /// Takes a magazine out, if there are more than the depot's own slots need: an empty one, or
    /// else a full one.
    fn give(&self, class: SizeClass) -> Option<Magazine> {
        let gauge = self.gauges.get(class.index())?;
        let mut shelves = self.shelves.lock();
        let shelf = shelves.get_mut(class.index())?;
        if shelf.magazines() <= gauge.own() as usize / class.magazine_slots() {
            return None;
        }
        let magazine = shelf.remove_any()?;
        gauge.withdrew(magazine.len());
        Some(magazine)
    }

    /// Takes the magazine back that [`Self::give`] gave, and nobody wanted.
    fn keep(&self, class: SizeClass, magazine: Magazine) {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return;
        };
        let mut shelves = self.shelves.lock();
        if let Some(shelf) = shelves.get_mut(class.index()) {
            gauge.restored(magazine.len());
            shelf.add(magazine);
        }
    }

    /// How many magazines of `class` there are.
    #[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
    fn magazines(&self, class: SizeClass) -> usize {
        let shelves = self.shelves.lock();
        shelves
            .get(class.index())
            .map_or(0, |shelf| shelf.magazines())
    }

    /// Adds a magazine that another depot had too many, be it empty or full. It comes back if the
    /// depot has as many as its own slots need, or no room.
    fn accept(&self, class: SizeClass, magazine: Magazine) -> Result<(), Magazine> {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return Err(magazine);
        };
        let mut shelves = self.shelves.lock();
        let Some(shelf) = shelves.get_mut(class.index()) else {
            return Err(magazine);
        };
        let wanted = gauge.own() as usize / class.magazine_slots();
        if shelf.magazines() >= wanted.min(shelf.room()) {
            return Err(magazine);
        }
        gauge.restored(magazine.len());
        shelf.add(magazine);
        Ok(())
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_settle)]
mod tests {
    use super::*;
    use crate::pool::{
        address::Phys,
        class::CLASSES,
        gauge::Depth,
        spare::tests::pass_grace,
        stock::GrowError,
        withdrawn::Withdrawn, //
    };
    use kernel::interrupt::local_interrupt_disable;

    #[test]
    fn what_is_withdrawn_is_not_demand() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let depot = KBox::pin_init(Depot::new(), GFP_KERNEL)?;
        let span = Span::new(class, Phys::new(0))?;
        let magazines = Magazine::for_span(class)?;
        depot.make_room(class, magazines.len())?;
        depot.add(class, span.fill(magazines));
        let total = depot.slots(class);

        let mut hand = Withdrawn::new(span);
        depot.withdraw(&mut hand);
        assert!(hand.is_complete());
        assert_eq!((depot.slots(class), depot.free(class)), (0, 0));
        assert!(depot.restore(&mut hand).is_ok());
        depot.settle(class);
        assert_eq!((depot.slots(class), depot.free(class)), (total, total));
        assert_eq!(depot.demand(class), 0);

        // One slot is in use: all others come, and go back.
        let mut magazine = Magazine::new(class)?;
        let irq = local_interrupt_disable();
        let _ = depot.swap_for_full(class, Depth::Ready, &mut magazine, &irq);
        let used = magazine.pop();
        let back = depot.take_back(class, || magazine.pop(), &irq);
        drop(irq);
        assert!(used.is_some() && back.is_ok());
        depot.withdraw(&mut hand);
        assert_eq!(hand.len() as u32, total - 1);
        assert!(!hand.is_complete());
        assert!(depot.restore(&mut hand).is_ok());
        depot.settle(class);
        assert_eq!((depot.slots(class), depot.free(class)), (total, total - 1));
        Ok(())
    }

    /// A pool for two nodes, with `spans` spans of `class` for each.
    fn two_nodes(class: SizeClass, spans: usize) -> Result<&'static Pool> {
        let pool = crate::glue::leak(KBox::pin_init(Pool::with_nodes(2), GFP_KERNEL)?);
        for _ in 0..spans {
            for node in 0..2 {
                pool.grow(class, node).map_err(|_| ENOMEM)?;
            }
        }
        Ok(pool)
    }

    /// What a CPU does that maps as much as it can on node `from`.
    fn take_all(pool: &Pool, class: SizeClass, from: usize) -> Result<KVec<Magazine>> {
        let depot = pool.depot(from).ok_or(ENOENT)?;
        let mut taken = KVec::new();
        loop {
            let mut magazine = Magazine::new(class)?;
            let irq = local_interrupt_disable();
            let more = depot.swap_for_full(class, Depth::Reserve, &mut magazine, &irq);
            drop(irq);
            if !more {
                return Ok(taken);
            }
            taken.push(magazine, GFP_KERNEL)?;
        }
    }

    /// What a CPU on node `to` does that undoes all these mappings.
    fn put_all(pool: &Pool, class: SizeClass, to: usize, taken: KVec<Magazine>) -> Result {
        for mut magazine in taken {
            let irq = local_interrupt_disable();
            let mut depots = pool.depots_from(to);
            let done = depots.any(|depot| depot.swap_for_empty(class, &mut magazine, &irq));
            drop(irq);
            assert!(done && magazine.is_empty());
        }
        Ok(())
    }

    /// Slots that belong to the node, that are in its depot, that its magazines hold.
    fn has(pool: &Pool, class: SizeClass, node: usize) -> Result<(u32, u32, u32)> {
        let depot = pool.depot(node).ok_or(ENOENT)?;
        let room = depot.magazines(class) * class.magazine_slots();
        Ok((depot.slots(class), depot.free(class), room as u32))
    }

    #[test]
    fn what_is_retired_is_the_nodes_that_it_was_made_for() -> Result {
        for class in SizeClass::all() {
            const SPANS: usize = 3;
            let pool = two_nodes(class, SPANS)?;
            let span = class.slots_per_span() as u32;
            // All slots come back on the other node.
            let taken = [take_all(pool, class, 0)?, take_all(pool, class, 1)?];
            for (from, taken) in taken.into_iter().enumerate() {
                put_all(pool, class, 1 - from, taken)?;
            }
            let surplus = [SPANS as u32; CLASSES];
            for (retired, node) in [0, 0, 1, 0, 1, 1].into_iter().enumerate() {
                assert!(pool.retire(node, &surplus));
                let mut left = [SPANS as u32 * span; 2];
                for node in [0, 0, 1, 0, 1, 1].into_iter().take(retired + 1) {
                    left[node] -= span;
                }
                for (node, left) in left.into_iter().enumerate() {
                    assert_eq!(has(pool, class, node)?, (left, left, left));
                }
            }
            assert!(!pool.retire(0, &surplus) && !pool.retire(1, &surplus));
            pass_grace(pool);
            while pool.unshare() {}
            assert_eq!(pool.stock.lock().chunks.len(), 0);
        }
        Ok(())
    }

    #[test]
    fn what_could_not_be_retired_changes_nothing() -> Result {
        for class in SizeClass::all() {
            let pool = two_nodes(class, 1)?;
            let span = class.slots_per_span() as u32;
            let mut taken = take_all(pool, class, 0)?;
            // One of the slots stays in use, without a record, as in the middle of a mapping.
            let mut last = taken.pop().ok_or(ENOENT)?;
            let used = last.pop().ok_or(ENOENT)?;
            let irq = local_interrupt_disable();
            let depot = pool.depot(1).ok_or(ENOENT)?;
            let mut left = pool
                .depot(0)
                .ok_or(ENOENT)?
                .take_back(class, || last.pop(), &irq);
            drop(irq);
            assert!(left.is_ok());
            let others = take_all(pool, class, 1)?;
            put_all(pool, class, 1, taken)?;
            put_all(pool, class, 0, others)?;
            for node in [0, 1] {
                let before = [has(pool, class, 0)?, has(pool, class, 1)?];
                let retired = pool.retire(node, &[1; CLASSES]);
                assert_eq!(retired, node == 1);
                if !retired {
                    let after = [has(pool, class, 0)?, has(pool, class, 1)?];
                    for (before, after) in before.into_iter().zip(after) {
                        assert_eq!((before.0, before.2), (after.0, after.2));
                    }
                    assert_eq!(before[0].1 + before[1].1, after[0].1 + after[1].1);
                }
            }
            assert_eq!((depot.slots(class), depot.free(class)), (0, 0));
            let irq = local_interrupt_disable();
            let mut slot = Some(used);
            left = pool
                .depot(0)
                .ok_or(ENOENT)?
                .take_back(class, || slot.take(), &irq);
            drop(irq);
            assert!(left.is_ok());
            assert_eq!(has(pool, class, 0)?, (span, span, span));
        }
        Ok(())
    }

    #[test]
    fn spare_memory_of_another_node_is_better_than_none() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let pool = two_nodes(class, 1)?;
        // Each node has the rest of a chunk. There is no more.
        let spare = pool.spare_spans();
        pool.stats.leaked_bytes.add(u64::MAX);
        for left in (0..spare).rev() {
            pool.grow(class, 0).map_err(|_| ENOMEM)?;
            assert_eq!(pool.spare_spans(), left);
        }
        assert!(pool.grow(class, 0) == Err(GrowError::AtMax));
        let span = class.slots_per_span() as u32;
        let total = (1 + spare as u32) * span;
        assert_eq!(has(pool, class, 0)?, (total, total, total));
        assert_eq!(has(pool, class, 1)?, (span, span, span));
        // And it can go back.
        let surplus = [spare as u32; CLASSES];
        for _ in 0..=spare {
            assert!(pool.retire(0, &surplus));
        }
        assert!(!pool.retire(0, &surplus));
        pass_grace(pool);
        assert!(pool.unshare() && !pool.unshare());
        assert!(pool.retire(1, &surplus));
        pass_grace(pool);
        assert!(pool.unshare());
        assert_eq!(pool.stock.lock().spare.len(), 0);
        Ok(())
    }

    #[test]
    fn demand_is_what_a_node_took_wherever_it_came_back() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let pool = two_nodes(class, 2)?;
        let total = 2 * class.slots_per_span() as u32;
        // Over and over: no depot gets more than it has magazines for, nobody owes anything.
        for _ in 0..5 {
            let taken = take_all(pool, class, 0)?;
            assert_eq!(pool.depot(0).ok_or(ENOENT)?.out(class), total);
            put_all(pool, class, 1, taken)?;
            for node in 0..2 {
                assert_eq!(has(pool, class, node)?, (total, total, total));
                assert_eq!(pool.depot(node).ok_or(ENOENT)?.out(class), 0);
            }
        }
        Ok(())
    }
}
