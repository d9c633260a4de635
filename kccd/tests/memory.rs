// SPDX-License-Identifier: GPL-2.0

//! The life of a chunk, with real memory.

use crate::{
    glue,
    glue::memory::PrivateMemory,
    kccd::{
        Kccd,
        SOON_MS, //
    },
    pool::{
        class::{
            CHUNK_BYTES,
            SPANS_PER_CHUNK,
            SPAN_BYTES, //
        },
        Pool, //
    },
};
use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

/// A sleep that cannot be mistaken for none.
const LONG_MS: u32 = 10_000;

/// A pool of its own, and kccd without its thread.
pub(super) fn kccd() -> Result<Kccd> {
    Kccd::new(glue::leak(KBox::pin_init(Pool::new(1), GFP_KERNEL)?))
}

/// Waits for the end of the grace period and makes a chunk private.
pub(super) fn make_private(kccd: &mut Kccd) -> Option<bool> {
    for _ in 0..1000 {
        if kccd.holdings.has_left() {
            return kccd.make_one_private();
        }
        fsleep(Delta::from_millis(5));
    }
    None
}

#[kunit_tests(cc_swiotlb_memory)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_shared_and_made_private() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        let stock = || pool.nodes().next().map(|node| &node.stock);
        let unbound = || stock().map_or(0, |stock| stock.unbound.get() as usize);
        for round in 1..=2 {
            assert!(kccd.grow_node(0).is_ok());
            assert_eq!(unbound(), SPANS_PER_CHUNK);
            assert_eq!(pool.shared_bytes(), CHUNK_BYTES as u64);
            assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
            assert_eq!(unbound(), 0);
            // It counts as shared until it is private.
            assert_eq!(kccd.holdings.bytes(), CHUNK_BYTES as u64);
            assert_eq!(make_private(&mut kccd), Some(true));
            assert_eq!(kccd.holdings.bytes(), 0);
            let stats = &pool.stats;
            assert!(stats.shared.done.get() == round && stats.given_back.done.get() == round);
        }
        assert_eq!(kccd.remove(0), None);
        Ok(())
    }

    #[test]
    fn what_happens_before_kccd_listens_is_heard() -> Result {
        // More than the reserves of a small guest.
        const CHUNKS: usize = 4;
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        for _ in 0..CHUNKS {
            assert!(kccd.grow_node(0).is_ok());
        }
        kccd.look();
        let lent = pool.lend_pages(None, SPAN_BYTES, false);
        assert!(lent.is_some());
        kccd.listen(None);
        let begun = Instant::<Monotonic>::now();
        pool.bell.wait(0, Some(LONG_MS));
        assert!(begun.elapsed().as_millis() < i64::from(LONG_MS) / 2);
        drop(lent);
        for _ in 0..CHUNKS {
            assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
            assert_eq!(make_private(&mut kccd), Some(true));
        }
        Ok(())
    }

    #[test]
    fn what_comes_home_while_a_timer_runs_is_heard() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        assert!(kccd.grow_node(0).is_ok());
        let lent = pool.lend_pages(None, SPAN_BYTES, false);
        assert!(lent.is_some());
        kccd.look();
        // What comes home is beyond it, whatever the guest's own is.
        kccd.state.nodes[0].watermark = 0;
        assert_eq!(kccd.listen(Some(LONG_MS)), Some(LONG_MS));
        // Nothing has happened so far.
        let begun = Instant::<Monotonic>::now();
        pool.bell.wait(0, Some(SOON_MS));
        assert!(begun.elapsed().as_millis() >= i64::from(SOON_MS) / 2);
        drop(lent);
        let begun = Instant::<Monotonic>::now();
        pool.bell.wait(0, Some(LONG_MS));
        assert!(begun.elapsed().as_millis() < i64::from(LONG_MS) / 2);
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }

    #[test]
    fn what_is_leaving_is_taken_back_at_no_cost() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        assert!(kccd.grow_node(0).is_ok());
        let conversions = pool.stats.shared.done.get();
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        assert!(kccd.grow_node(0).is_ok());
        assert_eq!(kccd.holdings.bytes(), 0);
        assert_eq!(pool.shared_bytes(), CHUNK_BYTES as u64);
        assert_eq!(pool.stats.shared.done.get(), conversions);
        kccd.remove(0);
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }

    #[test]
    fn refused_memory_counts_and_is_shared_before_any_other_is_private() -> Result {
        let mut kccd = kccd()?;
        let pool = kccd.pool;
        let memory = PrivateMemory::new(0, CHUNK_BYTES).ok_or(ENOMEM)?;
        pool.directory.prepare(memory.base(), CHUNK_BYTES)?;
        assert!(kccd.grow_node(0).is_ok());
        assert_eq!(kccd.remove(0), Some(CHUNK_BYTES));
        kccd.holdings.refuse(memory.into(), 0, true);
        assert_eq!(kccd.holdings.bytes(), 2 * CHUNK_BYTES as u64);
        assert!(kccd.holdings.has_counted(0));
        // The chunk that left is not touched before the refused memory is known to be shared.
        assert_eq!(make_private(&mut kccd), Some(true));
        assert_eq!(pool.stats.given_back.done.get(), 0);
        assert_eq!(pool.shared_bytes(), CHUNK_BYTES as u64);
        assert_eq!(kccd.holdings.bytes(), CHUNK_BYTES as u64);
        assert_eq!(make_private(&mut kccd), Some(true));
        assert_eq!(kccd.holdings.bytes(), 0);
        kccd.remove(0);
        assert_eq!(make_private(&mut kccd), Some(true));
        Ok(())
    }
}
