// SPDX-License-Identifier: GPL-2.0

//! The rules of the lender, with memory that is only counted.

use super::{
    Bench,
    Cpu, //
};
use crate::pool::{
    address::Phys,
    class::{
        SizeClass,
        SizeClass::*,
        CHUNK_BYTES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    lender::Lent,
    stock::Reach, //
};
use kernel::{
    prelude::*,
    sizes::*, //
};

/// Takes pages until there are none.
fn take_all(bench: &Bench, bytes: usize) -> Result<KVec<Lent<'_>>> {
    let mut lent = KVec::new();
    while let Some(it) = take(bench, bytes) {
        lent.push(it, GFP_KERNEL)?;
    }
    Ok(lent)
}

fn take(bench: &Bench, bytes: usize) -> Option<Lent<'_>> {
    bench.pool.take_pages(None, bytes, Reach::Ready)
}

#[kunit_tests(cc_swiotlb_lender)]
mod tests {
    use super::*;

    /// A pool of `chunks` chunks.
    fn bench(chunks: usize) -> Result<Bench> {
        let mut bench = Bench::new(1)?;
        bench.give(0, chunks)?;
        Ok(bench)
    }

    fn misuse(bench: &Bench) -> u64 {
        bench.pool.stats.misuse.get()
    }

    #[test]
    fn pages_are_aligned_to_their_rounded_size() -> Result {
        let bench = bench(2)?;
        // Bytes, their alignment, spans that they take.
        for (bytes, align, spans) in [
            (1, SZ_4K, 1),
            (SZ_4K, SZ_4K, 1),
            (SZ_4K + 1, SZ_8K, 1),
            (3 * SZ_4K, SZ_16K, 1),
            (65 * SZ_4K, SZ_512K, 1),
            (SPAN_BYTES, SZ_512K, 1),
            (SPAN_BYTES + 1, SZ_1M, 2),
            (3 * SPAN_BYTES, CHUNK_BYTES, 3),
            (CHUNK_BYTES, CHUNK_BYTES, 4),
        ] {
            let other = take(&bench, SZ_4K).ok_or(ENOMEM)?;
            let lent = take(&bench, bytes).ok_or(ENOMEM)?;
            assert_eq!(lent.addr().raw() as usize % align, 0);
            assert_eq!(lent.bytes(), bytes.next_multiple_of(SZ_4K));
            assert_eq!(bench.pool.lent_bytes(), (lent.bytes() + SZ_4K) as u64);
            assert!(bench.pool.is_lent(lent.addr(), lent.bytes()));
            drop(other);
            assert_eq!(bench.unbound(0), 8 - spans);
            drop(lent);
            assert!(bench.unbound(0) == 8 && bench.node(0).lent_span_bytes() == 0);
        }
        Ok(())
    }

    #[test]
    fn no_byte_is_lent_twice() -> Result {
        let bench = bench(1)?;
        for bytes in [SZ_4K, 3 * SZ_4K, SZ_64K, SPAN_BYTES, SZ_1M, CHUNK_BYTES] {
            let lent = take_all(&bench, bytes)?;
            // Adjacent ones are as far apart as their alignment asks for.
            assert_eq!(lent.len(), CHUNK_BYTES / bytes.next_power_of_two());
            let mut pages = KVec::from_elem(false, CHUNK_BYTES / SZ_4K, GFP_KERNEL)?;
            for it in &lent {
                let first = it.addr().raw() as usize / SZ_4K;
                for page in &mut pages[first..first + it.bytes() / SZ_4K] {
                    assert!(!core::mem::replace(page, true));
                }
            }
            drop(lent);
            assert_eq!(bench.unbound(0) as usize, SPANS_PER_CHUNK);
        }
        Ok(())
    }

    #[test]
    fn fullest_span_serves_first() -> Result {
        let bench = bench(1)?;
        let mut lent = take_all(&bench, SZ_4K)?;
        // One page of the first span stays, and half of the second.
        lent.retain(|it| {
            let page = it.addr().raw() as usize / SZ_4K;
            page == 7 || (128..192).contains(&page)
        });
        assert_eq!(bench.unbound(0), 2);
        let more = take(&bench, SZ_4K).ok_or(ENOMEM)?;
        assert_eq!(more.addr().span_index(), 1);
        Ok(())
    }

    #[test]
    fn reserve_is_for_those_who_cannot_wait() -> Result {
        let bench = bench(1)?;
        bench.node(0).stock.set_levels(4, 1, 1);
        let take = |reach| bench.pool.take_pages(None, SPAN_BYTES, reach);
        let lent = [take(Reach::Ready), take(Reach::Ready)];
        assert!(lent.iter().all(Option::is_some) && take(Reach::Ready).is_none());
        let atomic = take(Reach::Reserve);
        // The last span is for large mappings.
        assert!(atomic.is_some() && take(Reach::Reserve).is_none());
        Ok(())
    }

    #[test]
    fn pages_come_of_the_node_that_is_asked_for() -> Result {
        let mut bench = Bench::new(2)?;
        bench.give(0, 1)?;
        bench.give(1, 1)?;
        for node in [1, 0] {
            let lent = bench.pool.take_pages(Some(node), SZ_4K, Reach::Ready);
            let addr = lent.as_ref().ok_or(ENOMEM)?.addr();
            assert_eq!(addr.raw() as usize / CHUNK_BYTES, node);
        }
        Ok(())
    }

    #[test]
    fn what_is_not_lent_is_not_taken_back() -> Result {
        let bench = bench(2)?;
        let lent = take(&bench, SZ_16K).ok_or(ENOMEM)?;
        let (addr, bytes) = (lent.addr(), lent.bytes());
        let far = addr.add(2 * CHUNK_BYTES);
        assert!(!bench.pool.take_back(far, bytes) && misuse(&bench) == 0);
        // Inside, of another size, a page that is home, a span that is unbound.
        for (number, (at, size)) in [
            (addr.add(SZ_4K), SZ_4K),
            (addr.add(1), bytes),
            (addr, SZ_4K),
            (addr, 2 * bytes),
            (addr, usize::MAX),
            (addr.add(bytes), SZ_4K),
            (addr.add(SPAN_BYTES), SZ_4K),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(bench.pool.take_back(at, size));
            assert_eq!(misuse(&bench), number as u64 + 1);
            assert!(bench.pool.is_lent(addr, bytes));
        }
        let before = misuse(&bench);
        drop(lent);
        assert_eq!(misuse(&bench), before);
        // Taken back twice: while the span has other pages that are lent, and when it is unbound.
        let other = take(&bench, SZ_4K);
        bench.pool.take_back(addr, bytes);
        drop(other);
        bench.pool.take_back(addr, bytes);
        assert_eq!(misuse(&bench), before + 2);
        assert!(bench.unbound(0) == 8 && bench.pool.lent_bytes() == 0);
        Ok(())
    }

    #[test]
    fn only_all_of_a_range_is_lent() -> Result {
        let bench = bench(2)?;
        let pool = &bench.pool;
        let lent = take(&bench, SZ_1M).ok_or(ENOMEM)?;
        let addr = lent.addr();
        assert!(pool.is_lent(addr, SZ_1M) && pool.is_lent(addr.add(SZ_1M - 1), 1));
        assert!(!pool.is_lent(addr, SZ_1M + 1) && !pool.is_lent(addr.add(SZ_1M), 1));
        let page = take(&bench, SZ_4K).ok_or(ENOMEM)?;
        let at = page.addr();
        assert!(pool.is_lent(at.add(4095), 1) && !pool.is_lent(at.add(SZ_4K), 1));
        // Foreign memory, and the end of the address space.
        for foreign in [u64::MAX, 1 << 40, 2 * CHUNK_BYTES as u64] {
            assert!(!pool.is_lent(Phys::new(foreign), 1));
            assert!(!pool.is_lent(Phys::new(foreign), usize::MAX));
        }
        assert!(!pool.is_lent(addr, usize::MAX));
        drop(page);
        assert!(!pool.is_lent(at, 1));
        Ok(())
    }

    #[test]
    fn slot_is_lent_and_comes_home() -> Result {
        let bench = bench(1)?;
        let mut cpu = Cpu::new(&[B512, K2, K64])?;
        for (bytes, align) in [(1, 1), (512, 512), (1000, SZ_1K), (SZ_64K, SZ_64K)] {
            let addr = cpu.run(&bench, |pool| pool.take_slot(bytes).map(Lent::into_addr));
            let addr = addr.ok_or(ENOMEM)?;
            let pool = &bench.pool;
            assert_eq!(addr.raw() as usize % align, 0);
            assert!(pool.is_lent(addr, bytes) && !pool.is_lent(addr, bytes + 1));
            assert_eq!(pool.lent_bytes(), bytes as u64);
            // An unmap and a sync find no mapping there.
            let span = pool.directory.get(addr).ok_or(ENOENT)?;
            let (slot, ..) = span.slot_at(addr).ok_or(ENOENT)?;
            assert!(slot.slot.mapping(addr).is_none() && slot.slot.claim(addr, bytes).is_none());
            let [other, own, twice] = cpu.run(&bench, |pool| {
                [bytes + 1, bytes, bytes].map(|bytes| {
                    pool.take_back(addr, bytes);
                    pool.stats.misuse.get()
                })
            });
            assert!(own == other && twice == own + 1 && pool.lent_bytes() == 0);
            assert!(!pool.is_lent(addr, 1));
        }
        let taken = cpu.run(&bench, |pool| pool.take_slot(0).map(Lent::into_addr));
        assert!(taken.is_none());
        cpu.run(&bench, |pool| pool.drain(None));
        assert_eq!(bench.unbound(0) as usize, SPANS_PER_CHUNK);
        Ok(())
    }

    #[test]
    fn nothing_is_lost_whatever_is_lent() -> Result {
        let mut bench = Bench::new(2)?;
        bench.give(0, 2)?;
        bench.give(1, 1)?;
        let mut cpu = Cpu::new(&SizeClass::ALL)?;
        let mut held: KVec<Lent<'_>> = KVec::new();
        let mut pages = KVec::from_elem(0u32, 3 * CHUNK_BYTES / SZ_4K, GFP_KERNEL)?;
        // A linear congruential generator: the same each time.
        let mut seed = 1u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for round in 0..20_000 {
            // More and more is held, then less and less.
            let takes = if round / 4000 % 2 == 0 { 7 } else { 3 };
            if random(10) < takes {
                let bits = random(22);
                let bytes = 1 + random(1 << bits);
                let node = Some(random(2));
                // Slots of the size of a page are lent beside pages.
                let lent = match random(4) {
                    0 => cpu.run(&bench, |_| bench.pool.take_slot(SZ_4K)),
                    _ => bench.pool.take_pages(node, bytes, Reach::Last),
                };
                let Some(lent) = lent else {
                    continue;
                };
                assert!(bench.pool.is_lent(lent.addr(), lent.bytes()));
                let first = lent.addr().raw() as usize / SZ_4K;
                for page in &mut pages[first..first + lent.bytes() / SZ_4K] {
                    // Nobody else has it.
                    assert_eq!(core::mem::replace(page, 1), 0);
                }
                held.push(lent, GFP_KERNEL)?;
            } else if !held.is_empty() {
                let lent = held.remove(random(held.len())).map_err(|_| EINVAL)?;
                let first = lent.addr().raw() as usize / SZ_4K;
                pages[first..first + lent.bytes() / SZ_4K].fill(0);
                cpu.run(&bench, |_| drop(lent));
            }
            if round % 100 == 0 {
                let used: u32 = pages.iter().sum();
                assert_eq!(bench.pool.lent_bytes(), u64::from(used) * SZ_4K as u64);
            }
        }
        cpu.run(&bench, |_| drop(held));
        cpu.run(&bench, |pool| pool.drain(None));
        assert!(bench.pool.lent_bytes() == 0 && bench.pool.stats.misuse.get() == 0);
        assert!(bench.unbound(0) == 8 && bench.unbound(1) == 4);
        Ok(())
    }
}
