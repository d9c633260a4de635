// SPDX-License-Identifier: GPL-2.0

//! Tests with real memory that is lent: its contents, and how long its chunk stays.

use super::memory::{
    kccd,
    make_private, //
};
use crate::pool::class::CHUNK_BYTES;
use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*,
    sizes::*, //
};

#[kunit_tests(cc_swiotlb_lent)]
mod tests {
    use super::*;

    #[test]
    fn lent_memory_is_zeroed_each_time() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        assert!(kccd.grow_node(0).is_ok());
        for bytes in [SZ_4K, 5 * SZ_4K, SZ_1M, SZ_4K] {
            for may_sleep in [true, false] {
                let lent = pool.lend_pages(None, bytes, may_sleep).ok_or(ENOMEM)?;
                assert!(lent.is_filled_with(0));
                lent.fill(0xa5);
            }
        }
        // On one CPU, which is drained at the end.
        let irq = local_interrupt_disable();
        let was_zeroed = [SZ_64K, 100, 2048, SZ_64K, 512].map(|bytes| {
            let lent = pool.lend_slot(bytes)?;
            let is_zeroed = lent.is_filled_with(0);
            lent.fill(0xa5);
            Some(is_zeroed)
        });
        pool.drain(None);
        drop(irq);
        assert!(was_zeroed.iter().all(|it| *it == Some(true)));
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }

    #[test]
    fn buffer_is_lent_as_it_is() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        assert!(kccd.grow_node(0).is_ok());
        // On one CPU, whose stack gives the slot that it was given last.
        let irq = local_interrupt_disable();
        let found = [0, 0xa5].map(|byte| {
            let lent = pool.lend_as_it_is(SZ_4K)?;
            let is_kept = lent.is_filled_with(byte);
            lent.fill(0xa5);
            Some(is_kept)
        });
        pool.drain(None);
        drop(irq);
        assert!(found.iter().all(|it| *it == Some(true)));
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }

    #[test]
    fn chunk_stays_as_long_as_a_page_is_lent() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        assert!(kccd.grow_node(0).is_ok());
        let first = pool.lend_pages(None, SZ_4K, false).ok_or(ENOMEM)?;
        let second = pool.lend_pages(None, SZ_4K, false).ok_or(ENOMEM)?;
        drop(first);
        assert_eq!(kccd.remove(0), None);
        assert_eq!(pool.shared_bytes(), CHUNK_BYTES as u64);
        drop(second);
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }

    #[test]
    fn more_than_is_lent_at_a_time_is_counted() -> Result {
        let mut kccd = kccd()?;
        let stats = &kccd.pool.stats;
        assert!(kccd.pool.lend_pages(None, CHUNK_BYTES + 1, true).is_none());
        assert!(kccd.pool.lend_pages(None, 0, true).is_none());
        assert!(stats.lend_oversize.get() == 2 && stats.lend_refused.get() == 0);
        assert!(kccd.pool.lend_pages(None, SZ_4K, false).is_none());
        assert_eq!(stats.lend_refused.get(), 1);
        assert!(kccd.grow_node(0).is_ok());
        assert!(kccd.pool.lend_pages(None, CHUNK_BYTES, false).is_some());
        assert_eq!(stats.lend_refused.get(), 1);
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }
}
