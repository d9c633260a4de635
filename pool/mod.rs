// SPDX-License-Identifier: GPL-2.0

//! The pool: how a mapping gets its slot and gives it back.
//!
//! The life of a mapping: [`layout`] finds the class, [`cache`] pops a slot off this CPU's stack,
//! [`slot`] records the mapping, and `glue::bounce` copies. The way back: [`directory`] finds the
//! [`span`] and the slot of an address. [`help`] is what happens when a CPU has no slot, or no room
//! for one: behind the stacks are a [`depot`] for each class and a [`stock`] of unbound spans, on each
//! [`node`]. [`gate`] decides who may take what is short, [`refusal`] says what was short.
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
pub(crate) mod depot;
pub(crate) mod directory;
mod gate;
mod help;
pub(crate) mod layout;
mod list;
mod misuse;
pub(crate) mod node;
pub(crate) mod refusal;
pub(crate) mod request;
mod show;
pub(crate) mod slot;
pub(crate) mod span;
pub(crate) mod stats;
pub(crate) mod stock;
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
mod tests;
mod view;

use crate::{
    glue::{
        bounce::Sides,
        device::{
            self,
            DmaDevice, //
        },
        irq::IrqsOff,
        memory, //
    },
    params,
    trace, //
};
use address::Phys;
use bell::Bell;
use cache::CpuCaches;
use class::SizeClass;
use directory::Directory;
use gate::Gates;
use help::NoSlot;
use kernel::{
    prelude::*,
    sync::rcu, //
};
use layout::Layout;
use misuse::{
    Misuse,
    Reported, //
};
use node::Node;
use refusal::Refusals;
use request::{
    Direction,
    Request, //
};
use slot::{
    Mapping,
    NotMapped, //
};
use span::FreeSlot;
use stats::Stats;

/// The allocator.
#[pin_data]
pub(crate) struct Pool {
    directory: Directory,
    /// Where devices see the last byte that `directory` has an entry for.
    last_address: u64,
    caches: CpuCaches,
    #[pin]
    gates: Gates,
    /// By number, at least one.
    nodes: KVec<Pin<KBox<Node>>>,
    stats: Stats,
    refusals: Refusals,
    reported: Reported,
    /// Rung when a stock runs low.
    #[pin]
    bell: Bell,
}

/// A mapping was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotMade {
    /// The legacy pool may serve it.
    Legacy,
    /// Nobody may: it was refused, counted and reported.
    Refused,
}

impl Pool {
    /// A pool without any slot, for so many NUMA nodes. May sleep.
    pub(crate) fn new(nodes: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            directory: Directory::new(memory::frames())?,
            last_address: device::last_address(directory.bytes()),
            caches: CpuCaches::new()?,
            gates <- Gates::new(),
            nodes: {
                let mut made = KVec::new();
                for _ in 0..nodes {
                    made.push(KBox::pin_init(Node::new(), GFP_KERNEL)?, GFP_KERNEL)?;
                }
                made
            },
            stats: Stats::new(),
            refusals: Refusals::new(),
            reported: Reported::new(),
            bell <- Bell::new(),
        })
    }

    /// Makes a mapping if this CPU has a slot for it at hand, and the device reaches all of them.
    ///
    /// [`None`] leaves nothing behind, and says nothing: [`Self::map`] is next. Any context but NMI.
    ///
    /// # Safety
    ///
    /// The device must have a DMA mask, and must be served.
    #[inline]
    pub(crate) unsafe fn map_at_hand(&self, dev: DmaDevice<'_>, request: &Request) -> Option<Phys> {
        // SAFETY: By the safety requirement.
        if !unsafe { dev.reaches_all(self.last_address) } {
            return None;
        }
        let rules = dev.constraints(request.alloc_align_mask);
        let layout = Layout::find(request.orig.raw(), request.size, &rules)?;
        // SAFETY: Nothing that is locked below outlives it.
        let irq = unsafe { IrqsOff::new() };
        let slot = self.caches.pop(layout.class, irq.token())?;
        drop(irq);
        Some(Self::begin(dev, request, slot, layout.offset))
    }

    /// Makes a mapping and returns its address. Any context but NMI.
    ///
    /// An error leaves nothing behind.
    #[inline]
    pub(crate) fn map(
        &self,
        dev: DmaDevice<'_>,
        request: &Request,
        quiet: bool,
    ) -> Result<Phys, NotMade> {
        let rules = dev.constraints(request.alloc_align_mask);
        let Some(layout) = Layout::find(request.orig.raw(), request.size, &rules) else {
            self.stats.oversize.add(1);
            return Err(NotMade::Legacy);
        };
        let (slot, class) = match self.take(layout.class) {
            Ok(found) => found,
            Err(NoSlot::Closed) => {
                self.refuse(dev, request.size, Some(layout.class), quiet);
                return Err(NotMade::Refused);
            }
            Err(NoSlot::Left) => return Err(self.leave(dev, request, layout.class)),
        };
        if !dev.reaches(slot.base.add(layout.offset), request.size) {
            self.put_back(slot, class);
            self.stats.unreachable.add(1);
            return Err(self.leave(dev, request, layout.class));
        }
        if class != layout.class {
            self.fell_back(dev, request, layout.class, class);
        }
        Ok(Self::begin(dev, request, slot, layout.offset))
    }

    /// Makes a mapping that the legacy pool could not make either. Any context but NMI.
    ///
    /// [`NotMade::Legacy`] if it was the legacy pool's affair alone.
    #[cold]
    #[inline(never)]
    pub(crate) fn map_last(
        &self,
        dev: DmaDevice<'_>,
        request: &Request,
        quiet: bool,
    ) -> Result<Phys, NotMade> {
        if !dev.reaches(Phys::new(0), self.directory.bytes()) {
            return Err(NotMade::Legacy);
        }
        let rules = dev.constraints(request.alloc_align_mask);
        let layout = Layout::find(request.orig.raw(), request.size, &rules);
        let class = layout.map(|layout| layout.class);
        let found = layout.and_then(|layout| Some((layout, self.take_last(layout.class)?)));
        let Some((layout, (slot, larger))) = found else {
            self.refuse(dev, request.size, class, quiet);
            return Err(NotMade::Refused);
        };
        self.fell_back(dev, request, layout.class, larger);
        Ok(Self::begin(dev, request, slot, layout.offset))
    }

    /// Begins the mapping in `slot`, whose class holds it at `offset`; returns its address.
    #[inline]
    fn begin(dev: DmaDevice<'_>, request: &Request, slot: FreeSlot, offset: usize) -> Phys {
        // SAFETY:
        // - The buffer is what the type invariant of `Request` says.
        // - The layout is of a class that holds offset and size, and no smaller class is taken.
        let mapping = unsafe { Mapping::new(request.orig, offset, request.size) };
        dev.reset_need_sync();
        let sides = Sides::of(&slot, &mapping);
        if request.direction == Direction::FromDevice && params::zero_from_device() {
            sides.zero_shared();
        } else {
            // Also for a device that only writes: it may write less than all, and what it leaves
            // alone must not be clobbered when the mapping ends (swiotlb_tbl_map_single()).
            sides.copy_to_shared();
        }
        slot.slot.begin(&mapping);
        slot.base.add(offset)
    }

    /// Ends the mapping at `addr`, after copying its bytes back if `copy` says so.
    ///
    /// Returns whether the address is ours. Any context but NMI.
    #[inline]
    pub(crate) fn unmap(&self, dev: DmaDevice<'_>, addr: Phys, size: usize, copy: bool) -> bool {
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        let binding = span.binding();
        let found = binding
            .class()
            .and_then(|class| Some((class, span.slot_at(class, addr)?)));
        let Some((class, (slot, offset))) = found else {
            self.misuse(dev, Misuse::DoubleUnmap, addr, size);
            return true;
        };
        let mapping = match slot.slot.claim(offset, size) {
            Some(mapping) => mapping,
            None => match self.claim_any(dev, &slot, offset, size) {
                Some(mapping) => mapping,
                None => return true,
            },
        };
        if !span.is_bound_as(binding) {
            // See span.rs.
            slot.slot.unclaim(&mapping);
            self.misuse(dev, Misuse::DoubleUnmap, addr, size);
            return true;
        }
        if copy {
            dev.flush();
            Sides::of(&slot, &mapping.first(size)).copy_to_private();
        }
        trace::unbounced(dev, mapping.orig(), addr, mapping.size());
        slot.slot.free();
        self.put(slot, class);
        true
    }

    /// Claims the mapping at `offset`, whose size is not `size`.
    #[cold]
    #[inline(never)]
    fn claim_any(
        &self,
        dev: DmaDevice<'_>,
        slot: &FreeSlot,
        offset: usize,
        size: usize,
    ) -> Option<Mapping> {
        let addr = slot.base.add(offset);
        let what = match slot.slot.claim_any(offset) {
            Ok(mapping) => {
                if size > mapping.size() {
                    self.misuse(dev, Misuse::PastTheEnd, addr, size);
                }
                return Some(mapping);
            }
            Err(NotMapped::Over) => Misuse::DoubleUnmap,
            Err(NotMapped::Never | NotMapped::Elsewhere) => Misuse::WrongAddress,
        };
        self.misuse(dev, what, addr, size);
        None
    }

    /// Copies `size` bytes from `addr` on to the original buffer, if the device may write.
    ///
    /// Returns whether the address is ours. Any context but NMI.
    #[inline]
    pub(crate) fn sync_for_cpu(
        &self,
        dev: DmaDevice<'_>,
        addr: Phys,
        size: usize,
        dir: Direction,
    ) -> bool {
        self.sync(dev, addr, size, dir.device_writes(), |part| {
            dev.flush();
            part.copy_to_private();
        })
    }

    /// Copies `size` bytes from the original buffer to `addr`, if the device may read.
    ///
    /// Returns whether the address is ours. Any context but NMI.
    #[inline]
    pub(crate) fn sync_for_device(
        &self,
        dev: DmaDevice<'_>,
        addr: Phys,
        size: usize,
        dir: Direction,
    ) -> bool {
        self.sync(dev, addr, size, dir.device_reads(), Sides::copy_to_shared)
    }

    #[inline]
    fn sync(
        &self,
        dev: DmaDevice<'_>,
        addr: Phys,
        size: usize,
        wanted: bool,
        copy: impl Fn(&Sides),
    ) -> bool {
        if !wanted {
            return self.owns(addr);
        }
        // So that the memory stays shared until the copy is over, see design.rst.
        let _rcu = rcu::read_lock();
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        let binding = span.binding();
        let slot = binding.class().and_then(|class| span.slot_at(class, addr));
        let part = slot.and_then(|(slot, _)| {
            let mapping = slot.slot.mapping().ok()?;
            // As in `unmap()`; it may change later, but then the driver is in the wrong.
            Some(mapping).filter(|_| span.is_bound_as(binding))?;
            Sides::of(&slot, &mapping).part(addr, size)
        });
        let Some((part, whole)) = part else {
            self.misuse(dev, Misuse::WrongAddress, addr, size);
            return true;
        };
        copy(&part);
        if !whole {
            self.misuse(dev, Misuse::PastTheEnd, addr, size);
        }
        true
    }

    /// Whether `addr` lies in our memory.
    #[inline]
    pub(crate) fn owns(&self, addr: Phys) -> bool {
        self.directory.get(addr).is_some()
    }

    /// The largest mapping that `dev` may ask for, in bytes; 0 if that is for the legacy pool to
    /// say: as long as there is no memory, or none that the device reaches for sure, a mapping could
    /// only be left to it. Any context.
    pub(crate) fn max_mapping_bytes(&self, dev: DmaDevice<'_>) -> usize {
        let has_memory = self.shared_bytes() > 0;
        if has_memory && dev.reaches(Phys::new(0), self.directory.bytes()) {
            layout::max_mapping_bytes(dev.min_align_mask())
        } else {
            0
        }
    }

    #[cold]
    #[inline(never)]
    fn fell_back(&self, dev: DmaDevice<'_>, request: &Request, from: SizeClass, to: SizeClass) {
        self.stats.class(from).fallback.add(1);
        trace::fallback(dev, request.size, from, Some(to));
    }

    /// The mapping is left to the legacy pool.
    #[cold]
    fn leave(&self, dev: DmaDevice<'_>, request: &Request, class: SizeClass) -> NotMade {
        self.stats.class(class).left.add(1);
        trace::fallback(dev, request.size, class, None);
        NotMade::Legacy
    }
}
