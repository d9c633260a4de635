// SPDX-License-Identifier: GPL-2.0

//! Slots that are given back while somebody still refers to their pages.

use super::{
    Bench,
    Cpu, //
};
use crate::pool::{
    address::Phys,
    class::{
        SizeClass::*,
        SPANS_PER_CHUNK, //
    },
    lender::Lent,
    Pool, //
};
use kernel::{
    prelude::*,
    sizes::*, //
};

/// How many slots there are in the tests.
const SLOTS: usize = 16;

/// Says that everything is used.
fn used(_: Phys, _: usize) -> bool {
    true
}

fn unused(addr: Phys, bytes: usize) -> bool {
    !used(addr, bytes)
}

#[kunit_tests(cc_swiotlb_deferred)]
mod tests {
    use super::*;

    /// A pool of one chunk, and a CPU.
    fn bench() -> Result<(Bench, Cpu)> {
        let mut bench = Bench::new(1)?;
        bench.give(0, 1)?;
        Ok((bench, Cpu::new(&[K4, K64])?))
    }

    fn lend(pool: &Pool, bytes: usize) -> Option<Phys> {
        pool.take_slot(bytes).map(Lent::into_addr)
    }

    #[test]
    fn used_slot_stays_lent() -> Result {
        let (bench, mut cpu) = bench()?;
        let (pool, stats) = (&bench.pool, &bench.pool.stats);
        for bytes in [SZ_4K, 5 * SZ_4K, SZ_64K] {
            let before = (stats.lend_deferred.get(), stats.misuse.get());
            let addr = cpu.run(&bench, |pool| lend(pool, bytes)).ok_or(ENOMEM)?;
            assert!(!pool.has_deferred() && pool.take_back_unused(addr, bytes, used));
            assert!(pool.has_deferred() && stats.lend_deferred.get() == before.0 + 1);
            for _ in 0..2 {
                cpu.run(&bench, |pool| pool.retry_deferred(used));
                // Also for callers that map it.
                assert!(pool.has_deferred() && pool.is_lent(addr, bytes));
                assert_eq!(pool.lent_bytes(), bytes as u64);
            }
            // It was given back already, and cannot be given back again.
            cpu.run(&bench, |pool| {
                pool.take_back(addr, bytes);
                pool.take_back_unused(addr, bytes, used);
            });
            assert!(stats.misuse.get() == before.1 + 2 && pool.is_lent(addr, bytes));
            cpu.run(&bench, |pool| pool.retry_deferred(unused));
            assert!(!pool.has_deferred() && !pool.is_lent(addr, 1));
            assert!(pool.lent_bytes() == 0 && stats.misuse.get() == before.1 + 2);
            assert_eq!(stats.lend_deferred.get(), before.0 + 1);
        }
        cpu.run(&bench, |pool| pool.drain(None));
        assert_eq!(bench.unbound(0) as usize, SPANS_PER_CHUNK);
        Ok(())
    }

    #[test]
    fn unused_slot_comes_home_at_once() -> Result {
        let (bench, mut cpu) = bench()?;
        let addr = cpu.run(&bench, |pool| lend(pool, SZ_4K)).ok_or(ENOMEM)?;
        assert!(cpu.run(&bench, |pool| pool.take_back_unused(addr, SZ_4K, unused)));
        assert!(!bench.pool.has_deferred() && bench.pool.lent_bytes() == 0);
        // Memory that is not ours is not looked at.
        let foreign = Phys::new(1 << 40);
        for is_used in [used, unused] {
            assert!(!bench.pool.take_back_unused(foreign, SZ_4K, is_used));
        }
        assert_eq!(bench.pool.stats.misuse.get(), 0);
        Ok(())
    }

    #[test]
    fn each_comes_home_when_it_is_unused() -> Result {
        let (bench, mut cpu) = bench()?;
        let mut addrs = KVec::new();
        for _ in 0..SLOTS {
            let addr = cpu.run(&bench, |pool| lend(pool, SZ_4K)).ok_or(ENOMEM)?;
            addrs.push(addr, GFP_KERNEL)?;
            assert!(bench.pool.take_back_unused(addr, SZ_4K, used));
        }
        // In an order that is neither that of the stack nor its reverse.
        for round in 0..SLOTS {
            let is_gone = |at: usize| at * 7 % SLOTS <= round;
            cpu.run(&bench, |pool| {
                let all = addrs.iter().enumerate();
                pool.retry_deferred(|addr, _| {
                    all.clone().any(|(at, it)| *it == addr && !is_gone(at))
                });
            });
            let left = SLOTS - 1 - round;
            assert_eq!(bench.pool.lent_bytes(), (left * SZ_4K) as u64);
            let mut all = addrs.iter().enumerate();
            assert!(all.all(|(at, addr)| bench.pool.is_lent(*addr, 1) != is_gone(at)));
        }
        assert!(!bench.pool.has_deferred() && bench.pool.stats.misuse.get() == 0);
        Ok(())
    }
}
