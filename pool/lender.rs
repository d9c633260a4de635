// SPDX-License-Identifier: GPL-2.0

//! The lender: shared memory for callers that use it as it is, without a mapping.
//!
//! Pages, which are lent for long, come from spans of their own; a slot, which is lent for a
//! moment, is an ordinary one whose record says so. Rust references to the memory are never made,
//! and nothing that the caller or the host writes to it decides anything here. See lending.rst.

use super::{
    address::Phys,
    class::{
        SizeClass,
        CHUNK_BYTES,
        SPAN_BYTES, //
    },
    span::{
        FreeSlot,
        Span,
        Use, //
    },
    stock::Reach,
    Pool, //
};
use crate::glue::bounce;
use core::mem::ManuallyDrop;
use kernel::time::{
    delay::fsleep,
    Delta, //
};

/// A caller that may sleep waits for kccd in steps of this many milliseconds, at most this many
/// times: as long as a chunk takes on a busy host.
const WAIT_MS: i64 = 10;
const WAITS: usize = 40;

/// Bytes of a page that is lent.
const PAGE_BYTES: usize = Use::Lent.class().slot_bytes();

/// Memory that is lent, and given back when this is dropped.
///
/// # Invariants
///
/// The `bytes` bytes at `addr` belong to spans in the pool, and are not home; the record at `addr`
/// says that they are lent, and nobody else has been told their address.
pub(crate) struct Lent<'a> {
    pool: &'a Pool,
    addr: Phys,
    bytes: usize,
}

impl Lent<'_> {
    /// Address of the memory.
    pub(crate) fn addr(&self) -> Phys {
        self.addr
    }

    /// Size of the memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the address, and leaves it to the caller to call [`Pool::take_back`].
    pub(crate) fn into_addr(self) -> Phys {
        ManuallyDrop::new(self).addr
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.take_back(self.addr, self.bytes);
    }
}

impl Pool {
    /// Lends `bytes` bytes in pages, zeroed, and aligned to their number rounded up to a power of
    /// two; on `node` if possible.
    ///
    /// Any context but NMI; sleeps only if `may_sleep`. [`None`] if there are none, or if more
    /// bytes are asked for than are lent at a time.
    pub(crate) fn lend_pages(
        &self,
        node: Option<usize>,
        bytes: usize,
        may_sleep: bool,
    ) -> Option<Lent<'_>> {
        if !(1..=CHUNK_BYTES).contains(&bytes) {
            self.stats.lend_oversize.add(1);
            return None;
        }
        // A caller that can wait leaves the reserve to those that cannot.
        let reach = match may_sleep {
            true => Reach::Ready,
            false => Reach::Reserve,
        };
        let take = || self.take_pages(node, bytes, reach);
        // Waiting is no use for more than a span, which needs a whole chunk that kccd makes for
        // nobody in particular; nor when kccd sleeps, and no stock has any news to wake it.
        let may_wait = || may_sleep && bytes <= SPAN_BYTES && self.tell();
        let mut later = (0..WAITS).take_while(|_| may_wait()).map(|_| {
            fsleep(Delta::from_millis(WAIT_MS));
            take()
        });
        let lent = take().or_else(|| later.find_map(|lent| lent));
        self.counted(lent).inspect(bounce::zero_lent)
    }

    /// Lends `bytes` bytes of a slot, zeroed, and aligned to their number rounded up to a power of
    /// two. For memory that is given back soon. Any context but NMI. [`None`] if there is none.
    pub(crate) fn lend_slot(&self, bytes: usize) -> Option<Lent<'_>> {
        self.lend_as_it_is(bytes).inspect(bounce::zero_lent)
    }

    /// As [`Self::lend_slot`], but not zeroed: the host has seen everything that is in it.
    pub(crate) fn lend_as_it_is(&self, bytes: usize) -> Option<Lent<'_>> {
        self.counted(self.take_slot(bytes))
    }

    /// Passes `lent` on, and counts it if nothing is lent.
    fn counted<'a>(&self, lent: Option<Lent<'a>>) -> Option<Lent<'a>> {
        if lent.is_none() {
            self.stats.lend_refused.add(1);
        }
        lent
    }

    /// Takes pages that are not zeroed yet.
    pub(super) fn take_pages(
        &self,
        node: Option<usize>,
        bytes: usize,
        reach: Reach,
    ) -> Option<Lent<'_>> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        let count = bytes / PAGE_BYTES;
        let mut nodes = self
            .nearest(node)
            .filter(|node| node.lent.may_have(&node.stock, reach));
        let first = nodes.find_map(|node| node.lent.take_run(&node.stock, reach, count));
        self.tell();
        Some(self.lend(first?, bytes))
    }

    /// Takes a slot that is not zeroed yet.
    pub(super) fn take_slot(&self, bytes: usize) -> Option<Lent<'_>> {
        let class = SizeClass::reaching(bytes.checked_sub(1)?)?;
        let (slot, _) = self.take_within(class, Reach::Ready).ok()?;
        self.stats.lent_slot_bytes.add(bytes as u64);
        Some(self.lend(slot, bytes))
    }

    /// Records that `bytes` bytes from the start of `slot` on are lent; they have just left the
    /// bitmaps of their spans, or this CPU's stack.
    fn lend(&self, slot: FreeSlot, bytes: usize) -> Lent<'_> {
        slot.slot.lend(slot.base, bytes);
        // INVARIANT: The bytes are not home, and now the record says that they are lent.
        Lent {
            pool: self,
            addr: slot.base,
            bytes,
        }
    }

    /// Takes back the `bytes` bytes that are lent at `addr`, after their owner's last access.
    ///
    /// Returns whether the address is ours. Memory that is not lent is reported, and left alone.
    /// Any context but NMI.
    pub(crate) fn take_back(&self, addr: Phys, bytes: usize) -> bool {
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        if self.try_take_back(span, addr, bytes).is_none() {
            self.not_lent(addr, bytes);
        }
        true
    }

    fn try_take_back(&self, span: &'static Span, addr: Phys, bytes: usize) -> Option<()> {
        let (slot, binding) = span.slot_at(addr)?;
        let bound_to = binding.bound_to()?;
        let lent_bytes = match bound_to {
            Use::Slots(_) => bytes,
            Use::Lent => bytes.checked_next_multiple_of(PAGE_BYTES)?,
        };
        if !slot.slot.take_back(addr, lent_bytes) {
            return None;
        }
        if !span.is_still(binding, addr) {
            // As in `unmap()`, see span.rs: the memory is somebody else's.
            slot.slot.lend(addr, lent_bytes);
            return None;
        }
        match bound_to {
            Use::Slots(class) => {
                self.stats.lent_slot_bytes.sub(bytes as u64);
                self.put(slot, class);
            }
            Use::Lent => {
                let run = |at| (addr.add(at), (lent_bytes - at).min(SPAN_BYTES) / PAGE_BYTES);
                let runs = (0..lent_bytes).step_by(SPAN_BYTES).map(run);
                self.take_runs_home(|node| &node.lent, runs);
            }
        }
        Some(())
    }

    /// Whether `bytes` bytes at `addr` are lent, from the first to the last. Takes a few reads for
    /// each slot or span that they lie in, and no lock. Any context.
    pub(crate) fn is_lent(&self, addr: Phys, bytes: usize) -> bool {
        let mut left = bytes.max(1);
        let mut at = addr;
        while left > 0 {
            let Some(lent) = self.directory.get(at).and_then(|span| span.lent_from(at)) else {
                return false;
            };
            at = at.add(lent);
            left = left.saturating_sub(lent);
        }
        true
    }

    /// Memory that is lent at this moment, in bytes.
    pub(crate) fn lent_bytes(&self) -> u64 {
        let pages = self.nodes().map(|node| {
            let depot = &node.lent;
            depot.slots.get().saturating_sub(depot.free.get())
        });
        pages.sum::<u64>() * PAGE_BYTES as u64 + self.stats.lent_slot_bytes.get()
    }
}
