// SPDX-License-Identifier: GPL-2.0

//! The order of help, and that no slot gets lost on the way.

use super::{
    put_all,
    take_all,
    Bench,
    Cpu, //
};
use crate::pool::{
    class::{
        SizeClass,
        SizeClass::*,
        CHUNK_BYTES,
        SPANS_PER_CHUNK, //
    },
    help::Found,
    span::FreeSlot,
    stock::Reach,
    NotMade,
    Pool, //
};
use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*, //
};

/// The node of a slot's memory.
fn node_of(bench: &Bench, slot: &FreeSlot) -> Option<usize> {
    let span = bench.pool.directory.get(slot.base)?;
    Some(span.chunk()?.node())
}

#[kunit_tests(cc_swiotlb_help)]
mod tests {
    use super::*;

    #[test]
    fn own_node_then_others_then_larger_classes_then_the_reserve() -> Result {
        let mut bench = Bench::new(2)?;
        let mut cpu = Cpu::new(&[K4, K8])?;
        bench.give(0, 2)?;
        bench.give(1, 1)?;
        for node in 0..2 {
            bench.node(node).stock.set_levels(16, 1, 1);
        }
        assert!(bench.node(0).depot(K8).bind_ahead(&bench.node(0).stock));
        let found = take_all(&bench, &mut cpu, K4, 2000)?;
        // Number of slots, class, node. The nodes have 7 and 4 spans, of which 2 each are set
        // aside, 1 of them as the reserve.
        let mut rest = &found[..];
        for (count, class, node) in [
            (5 * 128, K4, 0),
            (2 * 128, K4, 1),
            (64, K8, 0),
            (128, K4, 0),
            (128, K4, 1),
        ] {
            let is_it = |(slot, of): &&Found| *of == class && node_of(&bench, slot) == Some(node);
            assert_eq!(rest.iter().take_while(is_it).count(), count);
            rest = &rest[count..];
        }
        assert!(rest.is_empty());
        // The legacy pool is next.
        let next = cpu.run(&bench, |pool| pool.take(K4).err());
        assert_eq!(next, Some(NotMade::Legacy));
        put_all(&bench, &mut cpu, &found);
        Ok(())
    }

    #[test]
    fn what_can_be_done_without_leaves_the_reserve() -> Result {
        let mut bench = Bench::new(1)?;
        let mut cpu = Cpu::new(&[K64])?;
        bench.give(0, 1)?;
        bench.node(0).stock.set_levels(4, 1, 1);
        // Of 4 spans of 8 slots each, one is the reserve, and one is for large mappings only.
        let spare = |pool: &Pool| pool.take_within(K64, Reach::Ready).is_ok();
        let mut taken = 0;
        while cpu.run(&bench, spare) {
            taken += 1;
        }
        assert_eq!(taken, 16);
        assert!(cpu.run(&bench, |pool| pool.take(K64)).is_ok());
        Ok(())
    }

    #[test]
    fn legacy_pool_comes_before_what_is_kept_for_larger_classes() -> Result {
        let mut bench = Bench::new(1)?;
        let mut cpu = Cpu::new(&[K4, K16])?;
        bench.give(0, 1)?;
        let node = bench.node(0);
        node.depot(K16).keep.set(20);
        assert!(node.depot(K16).bind_ahead(&node.stock));
        let found = take_all(&bench, &mut cpu, K4, 1000)?;
        // The slots of 3 spans of its own, and of 32 larger slots those that need not be kept.
        let count = |class| found.iter().filter(|(_, of)| *of == class).count();
        assert!(count(K4) == 3 * 128 && count(K16) == 12);
        // The others are taken after the legacy pool has failed.
        let mut last = 0;
        while cpu.run(&bench, |pool| pool.take_last(K4)).is_some() {
            last += 1;
        }
        assert_eq!(last, 20);
        Ok(())
    }

    #[test]
    fn last_spans_are_for_large_mappings() -> Result {
        for (small, large) in [(K4, K512), (K128, K512), (B512, K256)] {
            let mut bench = Bench::new(1)?;
            let mut cpu = Cpu::new(&SizeClass::ALL)?;
            bench.give(0, 2)?;
            bench.node(0).stock.set_levels(16, 1, 2);
            let found = take_all(&bench, &mut cpu, small, 8000)?;
            assert_eq!(found.len(), 6 * small.slots_per_span());
            assert!(cpu.run(&bench, |pool| pool.take_last(small)).is_none());
            assert_eq!(bench.unbound(0), 2);
            let found = take_all(&bench, &mut cpu, large, 8)?;
            assert_eq!(found.len(), 2 * large.slots_per_span());
        }
        Ok(())
    }

    #[test]
    fn last_large_slots_are_not_for_small_mappings() -> Result {
        for large in [K256, K512] {
            let mut bench = Bench::new(1)?;
            let mut cpu = Cpu::new(&[K4, K256, K512])?;
            bench.give(0, 1)?;
            // All spans are bound to the large class, and home.
            let node = bench.node(0);
            node.depot(large).keep.set(8);
            while node.depot(large).bind_ahead(&node.stock) {}
            let small = cpu.run(&bench, |pool| {
                (pool.take(K4).err(), pool.take_last(K4).is_some())
            });
            assert_eq!(small, (Some(NotMade::Legacy), false));
            let found = take_all(&bench, &mut cpu, large, 8)?;
            assert_eq!(found.len(), SPANS_PER_CHUNK * large.slots_per_span());
        }
        Ok(())
    }

    #[test]
    fn all_of_256_cpus_get_a_slot_of_the_default() -> Result {
        const CPUS: usize = 256;
        let mut bench = Bench::new(1)?;
        // As much as Watermark::for_guest() asks for.
        bench.give(0, (268 << 20) / CHUNK_BYTES)?;
        let mut cpus = KVec::new();
        for _ in 0..CPUS {
            cpus.push(Cpu::new(&[K4])?, GFP_KERNEL)?;
        }
        let mut found = KVec::new();
        for cpu in &mut cpus {
            let slot = cpu.run(&bench, |pool| pool.take(K4));
            found.push(slot.map_err(|_| ENOMEM)?, GFP_KERNEL)?;
        }
        // One each.
        assert!(found.iter().all(|(_, class)| *class == K4));
        assert_eq!(bench.away(K4) as usize, CPUS);
        // With one mapping at a time they hold no more than that.
        for (cpu, slot) in cpus.iter_mut().zip(&found) {
            cpu.run(&bench, |pool| {
                pool.put(slot.0, slot.1);
                for _ in 0..100 {
                    if let Ok((slot, class)) = pool.take(K4) {
                        pool.put(slot, class);
                    }
                }
            });
        }
        assert!(bench.away(K4) as usize <= 2 * CPUS);
        Ok(())
    }

    #[test]
    fn deep_queues_exchange_whole_batches() -> Result {
        let mut bench = Bench::new(1)?;
        bench.give(0, 32)?;
        let (mut submits, mut completes) = (Cpu::new(&[K4])?, Cpu::new(&[K4])?);
        let mut queue = KVec::new();
        let (mut fetched, mut shed) = (0, 0);
        for round in 0..3000 {
            let before = bench.away(K4);
            let slot = submits.run(&bench, |pool| pool.take(K4));
            let taken = bench.away(K4);
            queue.push(slot.map_err(|_| ENOMEM)?, GFP_KERNEL)?;
            if queue.len() > 64 {
                let (slot, class) = queue.remove(0).map_err(|_| EINVAL)?;
                completes.run(&bench, |pool| pool.put(slot, class));
            }
            // By then the stacks have grown.
            if round >= 1000 {
                fetched += u32::from(taken != before);
                shed += u32::from(bench.away(K4) != taken);
            }
        }
        // 2000 slots move from and to the depot in batches of 64.
        let most = 2000 / 64 + 1;
        assert!(fetched > 0 && fetched <= most);
        assert!(shed > 0 && shed <= most);
        Ok(())
    }

    #[test]
    fn one_cpu_does_not_visit_the_depot_for_its_own_slots() -> Result {
        let mut bench = Bench::new(1)?;
        bench.give(0, 32)?;
        let mut cpu = Cpu::new(&[K4])?;
        for round in 0..20 {
            let free = bench.free(K4);
            let found = take_all(&bench, &mut cpu, K4, 64)?;
            let taken = bench.free(K4) != free;
            put_all(&bench, &mut cpu, &found);
            assert!(round < 10 || (!taken && bench.free(K4) == free));
        }
        Ok(())
    }

    #[test]
    fn slots_come_home_to_their_own_node() -> Result {
        let mut bench = Bench::new(2)?;
        let mut cpu = Cpu::new(&SizeClass::ALL)?;
        bench.give(1, 2)?;
        let found = take_all(&bench, &mut cpu, K4, 300)?;
        assert!(found
            .iter()
            .all(|(slot, _)| node_of(&bench, slot) == Some(1)));
        assert_eq!(bench.unbound(1), 5);
        put_all(&bench, &mut cpu, &found);
        cpu.run(&bench, |pool| pool.drain(None));
        assert!(bench.unbound(0) == 0 && bench.unbound(1) == 8);
        assert_eq!(bench.node(0).depot(K4).slots.get(), 0);
        Ok(())
    }

    #[test]
    fn what_cpus_hold_is_seen_and_comes_home() -> Result {
        let mut bench = Bench::new(1)?;
        let mut cpu = Cpu::new(&SizeClass::ALL)?;
        bench.give(0, 1)?;
        assert!(bench.pool.caches.active().next().is_none());
        assert_eq!(bench.pool.cached_spans(), 0);
        for class in [B512, K4, K64] {
            let found = take_all(&bench, &mut cpu, class, 1)?;
            put_all(&bench, &mut cpu, &found);
        }
        assert_eq!(bench.pool.caches.active().count(), 1);
        assert!(bench.pool.cached_spans() == 3 && bench.unbound(0) == 1);
        cpu.run(&bench, |pool| pool.drain(None));
        assert!(bench.pool.caches.active().next().is_none());
        assert!(bench.pool.cached_spans() == 0 && bench.unbound(0) == 4);
        Ok(())
    }

    #[test]
    fn what_is_not_drained_is_still_seen() -> Result {
        let mut bench = Bench::new(1)?;
        let mut cpu = Cpu::new(&[K4, K8])?;
        bench.give(0, 1)?;
        for class in [K4, K8] {
            let found = take_all(&bench, &mut cpu, class, 1)?;
            put_all(&bench, &mut cpu, &found);
        }
        for (class, active) in [(K4, 1), (K8, 0)] {
            cpu.run(&bench, |pool| {
                let irq = local_interrupt_disable();
                let take_home = |slots: &[FreeSlot]| pool.take_home(class, slots);
                pool.caches.drain(None, class, &irq, take_home);
            });
            assert_eq!(bench.pool.caches.active().count(), active);
        }
        Ok(())
    }

    #[test]
    fn nothing_is_lost_whatever_happens() -> Result {
        const CLASSES: [SizeClass; 5] = [B512, K4, K8, K256, K512];
        let mut bench = Bench::new(2)?;
        bench.give(0, 2)?;
        bench.give(1, 1)?;
        for node in 0..2 {
            bench.node(node).stock.set_levels(6, 1, 1);
        }
        let mut cpus = KVec::new();
        for _ in 0..3 {
            cpus.push(Cpu::new(&SizeClass::ALL)?, GFP_KERNEL)?;
        }
        let mut held: KVec<Found> = KVec::new();
        // A linear congruential generator: the same each time.
        let mut seed = 1u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for round in 0..20_000 {
            let cpu = &mut cpus[random(3)];
            // More and more is held, then less and less.
            let takes = if round / 4000 % 2 == 0 { 7 } else { 3 };
            if random(10) < takes {
                let class = CLASSES[random(CLASSES.len())];
                let found = cpu.run(&bench, |pool| match pool.take(class) {
                    Err(NotMade::Legacy) => pool.take_last(class),
                    found => found.ok(),
                });
                if let Some(found) = found {
                    assert!(found.1 >= class);
                    // Nobody else has it.
                    let taken = held
                        .iter()
                        .filter(|it| core::ptr::eq(it.0.slot, found.0.slot));
                    assert_eq!(taken.count(), 0);
                    held.push(found, GFP_KERNEL)?;
                }
            } else if !held.is_empty() {
                let (slot, class) = held.remove(random(held.len())).map_err(|_| EINVAL)?;
                cpu.run(&bench, |pool| pool.put(slot, class));
            } else {
                cpu.run(&bench, |pool| pool.drain(None));
            }
        }
        put_all(&bench, &mut cpus[0], &held);
        for cpu in &mut cpus {
            cpu.run(&bench, |pool| pool.drain(None));
        }
        for class in SizeClass::ALL {
            assert_eq!(bench.away(class), 0);
        }
        assert!(bench.unbound(0) == 8 && bench.unbound(1) == 4);
        Ok(())
    }
}
