// SPDX-License-Identifier: GPL-2.0

//! The pool: how a mapping gets its slot and gives it back.
//!
//! The life of a mapping: [`layout`] finds the class, [`cache`] pops a slot off this CPU's stack,
//! [`slot`] records the mapping, and `glue::bounce` copies. The way back: [`directory`] finds the
//! [`span`] and the slot of an address. [`help`] takes over when a CPU has no slot, or no room for
//! one: behind the stacks are a [`depot`] for each class and a [`stock`] of unbound spans, on each
//! [`node`]. [`gate`] decides which CPUs may take slots that are short, [`refusal`] reports
//! mappings that got none. Beside mappings, the [`lender`] gives shared memory to callers as it is,
//! which then need no mapping.
//!
//! All state is kept in private memory. Shared memory holds payload and nothing else. The code in
//! this folder knows nothing of kccd, which fills the stock and takes [`chunk`]s out of it.
//!
//! # Locking
//!
//! A stock's lock is taken inside a depot's; inside a gate's lock and the bell's no lock is taken.
//! The stacks need no lock. No lock is held while bytes are copied.

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
    /// The address at which devices see the last byte that `directory` covers.
    last_address: u64,
    pub(crate) caches: CpuCaches,
    #[pin]
    gates: Gates,
    /// Indexed by node number; at least one.
    nodes: KVec<Pin<KBox<Node>>>,
    deferred: Deferred,
    pub(crate) stats: Stats,
    pub(crate) refusals: Refusals,
    /// Which kinds of misuse have been reported already.
    reported: [Atomic<bool>; KINDS],
    /// Rung when a stock runs low.
    #[pin]
    pub(crate) bell: Bell,
}

/// Why a mapping was not made. The values are those that the hooks return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum NotMade {
    /// The legacy pool may serve it: `CC_SWIOTLB_LEGACY`.
    Legacy = !1,
    /// Nobody may serve it, `DMA_MAPPING_ERROR`: it was refused, counted and reported.
    Refused = !0,
}

impl Pool {
    /// A pool without any slot, for `nodes` NUMA nodes. May sleep.
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

    /// Makes a mapping if this CPU's stack has a slot for it, and the device is ours to serve and
    /// reaches all slots.
    ///
    /// [`None`] has no side effects, and is neither counted nor reported: [`Self::map`] is tried
    /// next. Any context but NMI.
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
    /// On error no slot stays taken.
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
    /// [`NotMade::Legacy`] if the device does not reach every slot that there can be: the legacy
    /// pool alone decides then.
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
        // - By the type invariant of `Request`, the driver keeps the buffer until the mapping is
        //   undone.
        // - The layout's class holds offset and size, and the slot is of no smaller class.
        let mapping = unsafe { Mapping::new(addr, request.orig, request.size) };
        request.dev.reset_need_sync();
        if request.from_device && params::zero_from_device() {
            bounce::zero_shared(&mapping);
        } else {
            // Also for a device that only writes: it may write less than the whole buffer, and the
            // rest must not be clobbered when the mapping ends (see swiotlb_tbl_map_single()).
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

    /// Claims the mapping at `addr`, which lies in `span`. Expects one of `size` bytes, but claims
    /// one of any other size, too. Returns the slot and its class as well.
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
        // Checked here, where the check costs nothing if the size was right.
        if size > mapping.size() {
            self.misuse(dev, Misuse::PastTheEnd, addr, size);
        }
        if !span.is_still(binding, addr) {
            // See "Stale addresses" in span.rs.
            slot.slot.begin(&mapping);
            return Err(Misuse::DoubleUnmap);
        }
        Ok((slot, class, mapping))
    }

    /// Calls `copy` with the part of a mapping that the `size` bytes from `addr` on cover.
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
        // If the span is rebound meanwhile, the record is another slot's. But if it says that
        // `addr` lies within its mapping, that is true.
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

    /// The largest mapping that `dev` may ask for, in bytes; 0 to leave the answer to the legacy
    /// pool. As long as there is no memory, or none that the device reaches for sure, a mapping
    /// could only be left to that pool. Any context.
    pub(crate) fn max_mapping_bytes(&self, dev: DmaDevice<'_>) -> usize {
        match self.shared_bytes() > 0 && self.is_all_reached(dev) {
            true => layout::max_mapping_bytes(dev.constraints(0).min_align_mask),
            false => 0,
        }
    }

    /// Whether `dev` reaches every slot that there can be. Only then may we refuse its mappings.
    fn is_all_reached(&self, dev: DmaDevice<'_>) -> bool {
        dev.reaches(Phys::new(0), self.directory.bytes)
    }

    /// Counts and traces a mapping that a larger class served, or that is left to the legacy pool.
    #[cold]
    #[inline(never)]
    fn fell_back(&self, request: &Request<'_>, from: SizeClass, to: Option<SizeClass>) {
        let stats = &self.stats.classes[from];
        let counter = to.map_or(&stats.left, |_| &stats.fallback);
        counter.add(1);
        trace::fallback(request.dev, request.size, from, to);
    }
}
