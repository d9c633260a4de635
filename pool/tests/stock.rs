// SPDX-License-Identifier: GPL-2.0

//! The rules of a stock.

use crate::pool::{
    address::Phys,
    chunk::Chunk,
    class::{
        CHUNK_BYTES,
        SPANS_PER_CHUNK, //
    },
    span::Span,
    stock::{
        Reach,
        Stock,
        WINDOWS, //
    },
};
use kernel::prelude::*;

#[kunit_tests(cc_swiotlb_stock)]
mod tests {
    use super::*;

    /// A stock with a chunk for each entry, of that many spans.
    fn stock(chunks: &[usize]) -> Result<Pin<KBox<Stock>>> {
        let stock = KBox::pin_init(Stock::new(), GFP_KERNEL)?;
        for (index, spans) in chunks.iter().enumerate() {
            let base = Phys::new((index * CHUNK_BYTES) as u64);
            stock.add(Chunk::for_test(base, *spans, 0)?);
        }
        Ok(stock)
    }

    fn take(stock: &Stock, reach: Reach) -> Option<&'static Span> {
        stock.take(reach, 1)?.first()
    }

    fn put(stock: &Stock, span: &'static Span) {
        stock.put(span);
    }

    /// The number of the chunk that a span belongs to.
    fn chunk_of(span: &Span) -> usize {
        span.base().raw() as usize / CHUNK_BYTES
    }

    #[test]
    fn chunk_with_fewest_unbound_spans_serves_first() -> Result {
        let stock = stock(&[4, 4, 4])?;
        let mut spans = KVec::new();
        while let Some(span) = take(&stock, Reach::Last) {
            spans.push(span, GFP_KERNEL)?;
        }
        assert_eq!(spans.len(), 12);
        // One chunk after the other.
        for chunk in spans.chunks(SPANS_PER_CHUNK) {
            assert!(chunk
                .iter()
                .all(|span| chunk_of(span) == chunk_of(chunk[0])));
        }
        // Spans that are unbound, by chunk: 3, 1, 2.
        for index in [0, 1, 2, 4, 8, 9] {
            put(&stock, spans[index]);
        }
        for index in [4, 8, 8, 0, 0, 0] {
            let span = take(&stock, Reach::Last).ok_or(ENOENT)?;
            assert_eq!(chunk_of(span), chunk_of(spans[index]));
        }
        assert!(take(&stock, Reach::Last).is_none());
        Ok(())
    }

    #[test]
    fn adjacent_spans_are_of_one_chunk_and_aligned() -> Result {
        let stock = stock(&[1, 4, 1])?;
        let all = stock.take(Reach::Last, 4).ok_or(ENOENT)?;
        assert!(all.len() == 4 && stock.unbound.get() == 2 && stock.bound() == 4);
        // Spans that are unbound, how many are asked for, the first one that is taken.
        for (unbound, count, first) in [
            (&[0, 3][..], 2, None),
            (&[1, 2], 2, None),
            (&[1, 2, 3], 2, Some(2)),
            (&[0, 1, 3], 2, Some(0)),
            (&[1, 2, 3], 3, None),
            (&[0, 1, 2], 3, Some(0)),
            (&[0, 1, 2], 4, None),
        ] {
            unbound.iter().for_each(|index| put(&stock, &all[*index]));
            let taken = stock.take(Reach::Last, count);
            let found = taken.and_then(<[Span]>::first);
            let wanted = first.map(|index: usize| &all[index]);
            assert_eq!(
                found.map(core::ptr::from_ref),
                wanted.map(core::ptr::from_ref)
            );
            assert!(taken.is_none_or(|taken| taken.len() == count));
            let taken = taken.map_or(0, |taken| taken.len());
            assert_eq!(stock.unbound.get() as usize, 2 + unbound.len() - taken);
            // All of them are bound again; the rest is taken one by one.
            for _ in taken..unbound.len() {
                assert!(take(&stock, Reach::Last).is_some());
            }
        }
        Ok(())
    }

    #[test]
    fn single_spans_serve_last_and_go_first() -> Result {
        let stock = stock(&[1, 4])?;
        let mut spans = KVec::new();
        while let Some(span) = take(&stock, Reach::Last) {
            spans.push(span, GFP_KERNEL)?;
        }
        assert!(spans.iter().map(|span| chunk_of(span)).eq([1, 1, 1, 1, 0]));
        assert!(!stock.has_whole());
        for span in &spans {
            put(&stock, span);
        }
        assert!(stock.remove().is_some_and(|chunk| chunk.is_single()));
        assert!(stock.remove().is_some_and(|chunk| !chunk.is_single()));
        assert!(stock.remove().is_none());
        assert_eq!(stock.unbound.get(), 0);
        Ok(())
    }

    #[test]
    fn only_chunks_without_bound_spans_go() -> Result {
        let stock = stock(&[4])?;
        let span = take(&stock, Reach::Last).ok_or(ENOENT)?;
        assert!(!stock.has_whole() && stock.remove().is_none());
        assert!(stock.unbound.get() == 3 && stock.bound() == 1);
        put(&stock, span);
        assert!(stock.has_whole());
        assert!(stock.unbound.get() == 4 && stock.bound() == 0);
        Ok(())
    }

    #[test]
    fn reserves_are_kept_for_those_who_may_have_them() -> Result {
        // Reach, how many of 8 spans it can take, with a reserve of 2 and 3 for large mappings.
        for (reach, spans) in [
            (Reach::Surplus, 0),
            (Reach::Bound, 0),
            (Reach::Ready, 3),
            (Reach::Reserve, 5),
            (Reach::Last, 8),
        ] {
            let stock = stock(&[4, 4])?;
            stock.set_levels(16, 2, 3);
            assert_eq!(stock.within(reach), spans);
            let taken = (0..10).filter(|_| take(&stock, reach).is_some()).count();
            assert_eq!(taken as u64, spans);
            assert_eq!(stock.within(reach), 0);
        }
        Ok(())
    }

    #[test]
    fn kccd_hears_of_what_is_below_or_above() -> Result {
        let stock = stock(&[4, 4])?;
        // Nobody listens yet.
        assert!(!stock.has_news());
        // The numbers of unbound spans, of 8, below which and from which on kccd wants to be told.
        for (low, high, has_news) in [
            (8, None, false),
            (9, None, true),
            (0, Some(9), false),
            (0, Some(8), true),
            (8, Some(9), false),
        ] {
            stock.listen(low, high);
            assert_eq!(stock.has_news(), has_news);
        }
        Ok(())
    }

    #[test]
    fn a_quarter_of_what_is_used_cannot_be_spared() -> Result {
        let stock = stock(&[4, 4, 4])?;
        stock.set_levels(1, 0, 0);
        for (used, spare) in [(0, 11), (1, 10), (4, 7), (8, 2)] {
            while stock.bound() < used {
                take(&stock, Reach::Last).ok_or(ENOENT)?;
            }
            assert_eq!(stock.beyond_low(), spare);
        }
        Ok(())
    }

    #[test]
    fn peaks_are_remembered_for_all_windows() -> Result {
        let stock = stock(&[4, 4])?;
        let mut spans = KVec::new();
        for _ in 0..5 {
            spans.push(take(&stock, Reach::Last).ok_or(ENOENT)?, GFP_KERNEL)?;
        }
        for span in &spans {
            put(&stock, span);
        }
        for _ in 0..WINDOWS {
            assert_eq!(stock.demand(), 5);
            stock.turn_window();
        }
        assert_eq!(stock.demand(), 0);
        // A lower peak does not shorten the time of a higher one.
        let high = [take(&stock, Reach::Last), take(&stock, Reach::Last)];
        stock.turn_window();
        for span in high.into_iter().flatten() {
            put(&stock, span);
        }
        stock.turn_window();
        assert!(take(&stock, Reach::Last).is_some());
        assert_eq!(stock.demand(), 2);
        for _ in 0..WINDOWS {
            stock.turn_window();
        }
        // Spans that are bound now always count.
        assert_eq!(stock.demand(), 1);
        Ok(())
    }
}
