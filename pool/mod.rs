// SPDX-License-Identifier: GPL-2.0

//! The pool: how a mapping gets its slot and gives it back.
//!
//! The life of a mapping: [`layout`] finds the class, [`cache`] pops a slot off this CPU's stack,
//! [`slot`] records the mapping, and `glue::bounce` copies. The way back: [`directory`] finds the
//! [`span`] and the slot of an address. [`help`] is what happens when a CPU has no slot, or no room
//! for one: behind the stacks are a [`depot`] for each class and a [`stock`] of unbound spans, on each
//! [`node`]. [`gate`] decides who may take what is short, [`refusal`] says what was short. Beneath all
//! that, the [`lender`] gives such memory to callers as it is, which then need no mapping.
//!
//! Everything that is kept is in private memory. Shared memory holds payload and nothing else. This
//! folder knows nothing of kccd, which fills the stock and takes [`chunk`]s out of it.
//!
//! # Locking
//!
//! A depot's lock nests a stock's; a gate's and the bell's nest nothing. The stacks need none. No lock
//! is held while bytes are copied.

pub(crate) mod address;
pub(crate) mod bell;
mod cache;
pub(crate) mod chunk;
pub(crate) mod class;
mod deferred;
pub(crate) mod depot;
pub(crate) mod directory;
mod gate;
mod help;
pub(crate) mod layout;
pub(crate) mod lender;
mod list;
mod misuse;
pub(crate) mod node;
pub(crate) mod refusal;
pub(crate) mod request;
pub(crate) mod show;
pub(crate) mod slot;
pub(crate) mod span;
pub(crate) mod stats;
pub(crate) mod stock;
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
mod tests;
mod view;

use crate::{
    glue::{
        bounce,
        device::{
            self,
            DmaDevice, //
        },
        memory, //
    },
    params,
    trace, //
};
use address::Phys;
use bell::Bell;
use cache::CpuCaches;
use class::SizeClass;
use deferred::Deferred;
use directory::Directory;
use gate::Gates;
use kernel::{
    prelude::*,
    sync::atomic::Atomic, //
};
use misuse::{
    Misuse,
    KINDS, //
};
use node::Node;
use refusal::Refusals;
use request::Request;
use slot::Mapping;
use span::{
    FreeSlot,
    Span, //
};
use stats::Stats;

/// The allocator.
#[pin_data]
pub(crate) struct Pool {
    pub(crate) directory: Directory,
    /// Where devices see the last byte that `directory` has an entry for.
    last_address: u64,
    pub(crate) caches: CpuCaches,
    #[pin]
    gates: Gates,
    /// By number, at least one.
    nodes: KVec<Pin<KBox<Node>>>,
    deferred: Deferred,
    pub(crate) stats: Stats,
    pub(crate) refusals: Refusals,
    /// The kinds of misuse that were reported.
    reported: [Atomic<bool>; KINDS],
    /// Rung when a stock runs low.
    #[pin]
    pub(crate) bell: Bell,
}

/// A mapping was not made. The values are what the hooks return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum NotMade {
    /// The legacy pool may serve it: `CC_SWIOTLB_LEGACY`.
    Legacy = !1,
    /// Nobody may, `DMA_MAPPING_ERROR`: it was refused, counted and reported.
    Refused = !0,
}

impl Pool {
    /// A pool without any slot, for so many NUMA nodes. May sleep.
    pub(crate) fn new(nodes: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            directory: Directory::new(memory::frames())?,
            last_address: device::last_address(directory.bytes),
            caches: CpuCaches::new()?,
            gates <- Gates::new(),
            nodes: {
                let mut made = KVec::new();
                for _ in 0..nodes {
                    made.push(KBox::pin_init(Node::new(), GFP_KERNEL)?, GFP_KERNEL)?;
                }
                made
            },
            deferred: Deferred::new(),
            stats: Stats::default(),
            refusals: Refusals::default(),
            reported: [const { Atomic::new(false) }; KINDS],
            bell <- Bell::new(),
        })
    }

    /// Makes a mapping if this CPU has a slot for it at hand, and the device is served and reaches all
    /// of them.
    ///
    /// [`None`] leaves nothing behind, and says nothing: [`Self::map`] is next. Any context but NMI.
    ///
    /// # Safety
    ///
    /// The device must have a DMA mask.
    #[inline]
    pub(crate) unsafe fn map_at_hand(&self, request: &Request<'_>) -> Option<Phys> {
        // SAFETY: By the safety requirement.
        if !unsafe { request.dev.reaches_all(self.last_address) } {
            return None;
        }
        let layout = request.layout()?;
        let slot = self.at_hand(layout.class)?;
        Some(Self::begin(request, slot, layout.offset))
    }

    /// Makes a mapping and returns its address. Any context but NMI.
    ///
    /// An error leaves nothing behind.
    #[inline]
    pub(crate) fn map(&self, request: &Request<'_>) -> Result<Phys, NotMade> {
        let Some(layout) = request.layout() else {
            self.stats.oversize.add(1);
            return Err(NotMade::Legacy);
        };
        let dev = request.dev;
        match self.take(layout.class) {
            Ok((slot, class)) if dev.reaches(slot.base.add(layout.offset), request.size) => {
                if class != layout.class {
                    self.fell_back(request, layout.class, Some(class));
                }
                return Ok(Self::begin(request, slot, layout.offset));
            }
            Ok((slot, class)) => {
                self.put(slot, class);
                self.stats.unreachable.add(1);
            }
            Err(NotMade::Refused) if self.is_all_reached(dev) => {
                return Err(self.refuse(request, Some(layout.class)));
            }
            Err(_) => (),
        }
        self.fell_back(request, layout.class, None);
        Err(NotMade::Legacy)
    }

    /// Makes a mapping that the legacy pool could not make either. Any context but NMI.
    ///
    /// [`NotMade::Legacy`] if it was the legacy pool's affair alone.
    #[cold]
    #[inline(never)]
    pub(crate) fn map_last(&self, request: &Request<'_>) -> Result<Phys, NotMade> {
        if !self.is_all_reached(request.dev) {
            return Err(NotMade::Legacy);
        }
        let Some(layout) = request.layout() else {
            return Err(self.refuse(request, None));
        };
        let Some((slot, larger)) = self.take_last(layout.class) else {
            return Err(self.refuse(request, Some(layout.class)));
        };
        self.fell_back(request, layout.class, Some(larger));
        Ok(Self::begin(request, slot, layout.offset))
    }

    /// Begins the mapping in `slot`, whose class holds it at `offset`; returns its address.
    #[inline]
    fn begin(request: &Request<'_>, slot: FreeSlot, offset: usize) -> Phys {
        let addr = slot.base.add(offset);
        // SAFETY:
        // - The buffer is what the type invariant of `Request` says.
        // - The layout is of a class that holds offset and size, and no smaller class is taken.
        let mapping = unsafe { Mapping::new(addr, request.orig, request.size) };
        request.dev.reset_need_sync();
        if request.from_device && params::zero_from_device() {
            bounce::zero_shared(&mapping);
        } else {
            // Also for a device that only writes: it may write less than all, and what it leaves
            // alone must not be clobbered when the mapping ends (swiotlb_tbl_map_single()).
            bounce::to_shared(&mapping);
        }
        slot.slot.begin(&mapping);
        addr
    }

    /// Ends the mapping at `addr`, after copying its bytes back if `copy` says so.
    ///
    /// Returns whether the address is ours. Any context but NMI.
    #[inline]
    pub(crate) fn unmap(&self, dev: DmaDevice<'_>, addr: Phys, size: usize, copy: bool) -> bool {
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        let (slot, class, mapping) = match self.claim(dev, span, addr, size) {
            Ok(claimed) => claimed,
            Err(what) => {
                self.misuse(dev, what, addr, size);
                return true;
            }
        };
        if copy {
            bounce::to_private(dev, &mapping.first(size));
        }
        trace::unbounced(dev, mapping.orig(), addr, mapping.size());
        slot.slot.free();
        self.put(slot, class);
        true
    }

    /// Claims the mapping at `addr`, which lies in `span`: of `size` bytes, or else whatever its size is.
    /// Returns the slot and its class as well.
    #[inline]
    fn claim(
        &self,
        dev: DmaDevice<'_>,
        span: &Span,
        addr: Phys,
        size: usize,
    ) -> Result<(FreeSlot, SizeClass, Mapping), Misuse> {
        let (slot, binding) = span.slot_at(addr).ok_or(Misuse::DoubleUnmap)?;
        let class = binding.class().ok_or(Misuse::DoubleUnmap)?;
        let mapping = match slot.slot.claim(addr, size) {
            Some(mapping) => mapping,
            None => slot.slot.claim_any(addr)?,
        };
        // Here, where it costs nothing if the size was right.
        if size > mapping.size() {
            self.misuse(dev, Misuse::PastTheEnd, addr, size);
        }
        if !span.is_still(binding, addr) {
            // See span.rs.
            slot.slot.begin(&mapping);
            return Err(Misuse::DoubleUnmap);
        }
        Ok((slot, class, mapping))
    }

    /// Calls `copy` with that part of a mapping which `size` bytes from `addr` on are.
    ///
    /// Returns whether the address is ours. Any context but NMI.
    ///
    /// # Safety
    ///
    /// To be called in an RCU read-side critical section, so that the memory stays shared until the
    /// copy is over, see design.rst.
    #[inline(always)]
    pub(crate) unsafe fn sync(
        &self,
        dev: DmaDevice<'_>,
        addr: Phys,
        size: usize,
        copy: impl FnOnce(&Mapping),
    ) -> bool {
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        // If the span is bound anew meanwhile, the record is another slot's, but if it says that `addr`
        // is within its mapping, that is so.
        let part = span
            .slot_at(addr)
            .and_then(|(slot, _)| slot.slot.mapping(addr)?.part(addr, size));
        let Some(part) = part else {
            self.misuse(dev, Misuse::WrongAddress, addr, size);
            return true;
        };
        if part.size() < size {
            self.misuse(dev, Misuse::PastTheEnd, addr, size);
        }
        copy(&part);
        true
    }

    /// The largest mapping that `dev` may ask for, in bytes; 0 if that is for the legacy pool to
    /// say: as long as there is no memory, or none that the device reaches for sure, a mapping could
    /// only be left to it. Any context.
    pub(crate) fn max_mapping_bytes(&self, dev: DmaDevice<'_>) -> usize {
        match self.shared_bytes() > 0 && self.is_all_reached(dev) {
            true => layout::max_mapping_bytes(dev.constraints(0).min_align_mask),
            false => 0,
        }
    }

    /// Whether `dev` reaches whatever slot there may be: only then are we the ones to refuse it.
    fn is_all_reached(&self, dev: DmaDevice<'_>) -> bool {
        dev.reaches(Phys::new(0), self.directory.bytes)
    }

    /// A mapping was served by a larger class than its own, or is left to the legacy pool.
    #[cold]
    #[inline(never)]
    fn fell_back(&self, request: &Request<'_>, from: SizeClass, to: Option<SizeClass>) {
        let stats = &self.stats.classes[from];
        let counter = to.map_or(&stats.left, |_| &stats.fallback);
        counter.add(1);
        trace::fallback(request.dev, request.size, from, to);
    }
}
