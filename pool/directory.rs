// SPDX-License-Identifier: GPL-2.0

//! From a physical address to its span: a table of tables, indexed by the address.
//!
//! It covers all memory that may ever be there, hot-plugged memory included. The tables behind the
//! first one are made where there are chunks: 16 KiB for each GiB that has one. A lookup is two
//! reads, however much is shared, and an address that is not ours is told apart by them.
//!
//! A span that is removed may still be in use by a CPU that has looked it up. That is harmless for the
//! span, which is never freed, and its memory is only given up after a grace period of RCU, see
//! `kccd::memory`.

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

#[inline]
fn entry(leaf: &Leaf, addr: Phys) -> &Link<Span> {
    &leaf[addr.span_index() % LEAF_ENTRIES]
}

/// The table.
pub(crate) struct Directory {
    leaves: KVVec<Link<Leaf>>,
    bytes: usize,
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

    #[inline]
    fn leaf(&self, addr: Phys) -> Option<&Link<Leaf>> {
        self.leaves.get((addr.raw() >> LEAF_SHIFT) as usize)
    }

    /// The span that `addr` lies in, [`None`] if the address is not ours.
    #[inline]
    pub(crate) fn get(&self, addr: Phys) -> Option<&'static Span> {
        entry(self.leaf(addr)?.get()?, addr).get()
    }

    /// How far the table reaches, in bytes from address 0.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes sure that `bytes` from `base` on, at most a chunk, can be entered.
    ///
    /// May sleep. Fails with [`ERANGE`] where the table does not reach. To be called by one thread.
    pub(crate) fn prepare(&self, base: Phys, bytes: usize) -> Result {
        for addr in [base, base.add(bytes - SPAN_BYTES)] {
            let leaf = self.leaf(addr).ok_or(ERANGE)?;
            if leaf.get().is_none() {
                let entries = pin_init::init_array_from_fn(|_| Link::new());
                let made: KBox<Leaf> = KBox::init(entries, GFP_KERNEL)?;
                leaf.set(Some(KBox::leak(made)));
            }
        }
        Ok(())
    }

    /// Enters `span` at its address, for which [`Self::prepare`] has been called.
    pub(crate) fn insert(&self, span: &'static Span) {
        self.set(span.base(), Some(span));
    }

    /// Removes the span at `base`: from now on its addresses are not ours.
    pub(crate) fn remove(&self, base: Phys) {
        self.set(base, None);
    }

    fn set(&self, addr: Phys, span: Option<&'static Span>) {
        if let Some(leaf) = self.leaf(addr).and_then(Link::get) {
            entry(leaf, addr).set(span);
        }
    }
}
