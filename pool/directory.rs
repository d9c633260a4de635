// SPDX-License-Identifier: GPL-2.0

//! From a physical address to its span: a table of tables, indexed by the address.
//!
//! It covers all memory that may ever be there, hot-plugged memory included. The tables behind the
//! first one are made where there are chunks: 16 KiB for each GiB that has one. A lookup is two
//! reads, however much is shared, and the same two reads show that an address is not ours.
//!
//! A span that is removed may still be in use by a CPU that has looked it up. That is harmless for
//! the span, which is never freed, and its memory is only given up after an RCU grace period, see
//! design.rst.

use super::{
    address::Phys,
    class::{
        SPAN_BYTES,
        SPAN_SHIFT, //
    },
    span::Span, //
};
use crate::glue::link::Link;
use kernel::{
    alloc::AllocError,
    page::PAGE_SHIFT,
    prelude::*, //
};

/// log2 of the bytes that one table covers.
const LEAF_SHIFT: u32 = 30;
const LEAF_ENTRIES: usize = 1 << (LEAF_SHIFT - SPAN_SHIFT);

type Leaf = [Link<Span>; LEAF_ENTRIES];

fn entry(leaf: &Leaf, addr: Phys) -> &Link<Span> {
    &leaf[addr.span_index() % LEAF_ENTRIES]
}

/// The table.
pub(crate) struct Directory {
    leaves: KVVec<Link<Leaf>>,
    /// How far the table reaches, in bytes from address 0.
    pub(crate) bytes: usize,
}

impl Directory {
    /// A table for the first `frames` page frames.
    ///
    /// May sleep.
    pub(crate) fn new(frames: usize) -> Result<Self, AllocError> {
        let count = (frames >> (LEAF_SHIFT as usize - PAGE_SHIFT)) + 1;
        let mut leaves = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            leaves.push(Link::new(), GFP_KERNEL)?;
        }
        let bytes = (frames << PAGE_SHIFT).next_multiple_of(SPAN_BYTES);
        Ok(Self { leaves, bytes })
    }

    fn leaf(&self, addr: Phys) -> Option<&Link<Leaf>> {
        self.leaves.get((addr.raw() >> LEAF_SHIFT) as usize)
    }

    /// The span that `addr` lies in, [`None`] if the address is not ours.
    #[inline]
    pub(crate) fn get(&self, addr: Phys) -> Option<&'static Span> {
        entry(self.leaf(addr)?.get()?, addr).get()
    }

    /// Makes sure that `bytes` from `base` on, at most a chunk, can be entered.
    ///
    /// Fails with [`ERANGE`] beyond the end of the table, and with [`ENOMEM`]; does not sleep. To
    /// be called by one thread.
    pub(crate) fn prepare(&self, base: Phys, bytes: usize) -> Result {
        for addr in [base, base.add(bytes - SPAN_BYTES)] {
            let leaf = self.leaf(addr).ok_or(ERANGE)?;
            if leaf.get().is_none() {
                let entries = pin_init::init_array_from_fn(|_| Link::new());
                let made: KBox<Leaf> = KBox::init(entries, GFP_NOWAIT)?;
                leaf.set(Some(KBox::leak(made)));
            }
        }
        Ok(())
    }

    /// Enters the span that is at `base` from now on, or that nothing of ours is there.
    /// [`Self::prepare`] must have been called for `base`.
    pub(crate) fn set(&self, base: Phys, span: Option<&'static Span>) {
        if let Some(leaf) = self.leaf(base).and_then(Link::get) {
            entry(leaf, base).set(span);
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_directory)]
mod tests {
    use super::*;
    use crate::pool::{
        chunk::Chunk,
        class::{
            CHUNK_BYTES,
            SPANS_PER_CHUNK, //
        },
    };

    const LEAF_BYTES: usize = 1 << LEAF_SHIFT;
    const FRAMES_PER_LEAF: usize = LEAF_BYTES >> PAGE_SHIFT;

    /// Enters a chunk at `base`.
    fn enter(directory: &Directory, base: Phys) -> Result<&'static Chunk> {
        directory.prepare(base, CHUNK_BYTES)?;
        let chunk = Chunk::for_test(base, SPANS_PER_CHUNK, 0)?;
        for span in chunk.spans() {
            directory.set(span.base(), Some(span));
        }
        Ok(chunk)
    }

    #[test]
    fn every_byte_of_a_chunk_leads_to_its_span() -> Result {
        let directory = Directory::new(4 * FRAMES_PER_LEAF)?;
        // At the start of a table, in the middle of one, and at the end of the last one.
        for base in [
            LEAF_BYTES,
            2 * LEAF_BYTES + 7 * CHUNK_BYTES,
            4 * LEAF_BYTES - CHUNK_BYTES,
        ] {
            let base = Phys::new(base as u64);
            assert!(directory.get(base).is_none());
            let chunk = enter(&directory, base)?;
            for (index, span) in chunk.spans().enumerate() {
                for at in [0, 1, SPAN_BYTES / 2, SPAN_BYTES - 1] {
                    let addr = base.add(index * SPAN_BYTES + at);
                    assert!(directory
                        .get(addr)
                        .is_some_and(|found| core::ptr::eq(found, span)));
                }
            }
            assert!(directory.get(Phys::new(base.raw() - 1)).is_none());
            assert!(directory.get(base.add(CHUNK_BYTES)).is_none());
        }
        Ok(())
    }

    #[test]
    fn foreign_addresses_lead_nowhere() -> Result {
        let directory = Directory::new(2 * FRAMES_PER_LEAF)?;
        enter(&directory, Phys::new(0))?;
        for addr in [
            CHUNK_BYTES as u64,
            LEAF_BYTES as u64,
            1 << 40,
            1 << 63,
            u64::MAX,
        ] {
            assert!(directory.get(Phys::new(addr)).is_none());
        }
        Ok(())
    }

    #[test]
    fn removed_spans_are_foreign_and_can_be_entered_again() -> Result {
        let directory = Directory::new(FRAMES_PER_LEAF)?;
        let base = Phys::new(3 * CHUNK_BYTES as u64);
        let chunk = enter(&directory, base)?;
        let second = base.add(SPAN_BYTES);
        directory.set(second, None);
        assert!(
            directory.get(second).is_none() && directory.get(second.add(SPAN_BYTES - 1)).is_none()
        );
        assert!(directory.get(base).is_some() && directory.get(second.add(SPAN_BYTES)).is_some());
        let span = chunk.spans().nth(1).ok_or(ENOENT)?;
        directory.set(span.base(), Some(span));
        assert!(directory
            .get(second)
            .is_some_and(|found| core::ptr::eq(found, span)));
        Ok(())
    }

    #[test]
    fn all_frames_that_may_ever_be_can_be_entered() -> Result {
        // Memory that is plugged in later ends within a table.
        let frames = 3 * FRAMES_PER_LEAF + (CHUNK_BYTES >> PAGE_SHIFT);
        let directory = Directory::new(frames)?;
        let last = Phys::new(((frames << PAGE_SHIFT) - CHUNK_BYTES) as u64);
        enter(&directory, last)?;
        assert!(directory.get(last.add(CHUNK_BYTES - 1)).is_some());
        assert!(directory.bytes >= frames << PAGE_SHIFT);
        Ok(())
    }

    #[test]
    fn memory_beyond_the_table_is_refused() -> Result {
        let directory = Directory::new(FRAMES_PER_LEAF)?;
        let far = Phys::new(64 * LEAF_BYTES as u64);
        assert_eq!(directory.prepare(far, CHUNK_BYTES), Err(ERANGE));
        assert!(directory.get(far).is_none());
        Ok(())
    }
}
