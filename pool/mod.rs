// SPDX-License-Identifier: GPL-2.0

//! The pool: how a mapping gets its slot and gives it back.
//!
//! The way of one mapping: [`layout`] finds the class, [`cache`] pops a slot off this CPU's
//! magazine, [`slot`] records the mapping, and `glue::bounce` copies. The way back: [`directory`]
//! finds the slot of an address. [`take`] is what happens when a CPU has no slot, or no room for
//! one: [`depot`] stands behind the caches, and [`stock`] behind the depots, where kccd makes slots
//! out of memory. [`retire`] is how it makes memory out of slots, and [`settle`] what the nodes owe
//! each other then.
//!
//! Everything that is kept is in private memory. Shared memory holds payload and nothing else.
//!
//! # Locking
//!
//! The stock's mutex is outermost and kccd's alone. The depots' locks are innermost, see there. The
//! caches need none. No lock is held while bytes are copied.

pub(crate) mod address;
mod cache;
pub(crate) mod class;
mod depot;
mod directory;
pub(crate) mod gauge;
pub(crate) mod layout;
mod magazine;
mod retire;
mod settle;
mod shelf;
pub(crate) mod slot;
pub(crate) mod span;
mod spare;
mod stats;
mod stock;
mod take;
mod withdrawn;

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
    kccd::doorbell::Doorbell,
    params,
    trace, //
};
use address::Phys;
use cache::CpuCaches;
use class::SizeClass;
use depot::Depot;
use directory::Directory;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        rcu,
        Mutex, //
    },
};
use layout::Layout;
use slot::{
    Mapping,
    NotMapped, //
};
use span::FreeSlot;
use stock::Stock;
use take::Waiting;

pub(crate) use stats::Stats;
pub(crate) use stock::GrowError;

/// Which way the bytes of a mapping go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
    /// Both.
    Bidirectional,
}

impl Direction {
    /// Whether the device may read the buffer.
    #[inline]
    pub(crate) fn device_reads(self) -> bool {
        self != Self::FromDevice
    }

    /// Whether the device may write to the buffer.
    #[inline]
    pub(crate) fn device_writes(self) -> bool {
        self != Self::ToDevice
    }
}

/// A mapping that is asked for.
///
/// # Invariants
///
/// `size` bytes at `orig` are a buffer that its driver keeps until the mapping is undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    orig: Phys,
    size: usize,
    alloc_align_mask: u64,
    direction: Direction,
}

impl Request {
    /// Asks for a mapping of `size` bytes at `orig`. `alloc_align_mask` are address bits that must
    /// be clear at both ends of the allocation, 0 but for dma-iommu.
    ///
    /// # Safety
    ///
    /// The type invariant must hold.
    #[inline]
    pub(crate) unsafe fn new(
        orig: Phys,
        size: usize,
        alloc_align_mask: u64,
        direction: Direction,
    ) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            orig,
            size,
            alloc_align_mask,
            direction,
        }
    }
}

/// The allocator.
#[pin_data]
pub(crate) struct Pool {
    directory: Directory,
    /// Where devices see the last byte that `directory` has an entry for.
    last_address: u64,
    caches: CpuCaches,
    /// By NUMA node, at least one.
    depots: KVec<Pin<KBox<Depot>>>,
    #[pin]
    stock: Mutex<Stock>,
    stats: Stats,
    waiting: Waiting,
    /// Rung when a depot runs low.
    #[pin]
    pub(crate) doorbell: Doorbell,
}

impl Pool {
    /// A pool without any slot.
    ///
    /// May sleep.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        Self::with_nodes(memory::nodes())
    }

    /// The same with depots for so many NUMA nodes, whether they are there or not.
    ///
    /// May sleep.
    pub(crate) fn with_nodes(nodes: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            directory: Directory::new(memory::frames())?,
            last_address: device::last_address(directory.bytes()),
            caches: CpuCaches::new()?,
            depots: {
                let mut depots = KVec::new();
                for _ in 0..nodes {
                    depots.push(KBox::pin_init(Depot::new(), GFP_KERNEL)?, GFP_KERNEL)?;
                }
                depots
            },
            stock <- new_mutex!(Stock::new()),
            stats: Stats::new(),
            waiting: Waiting::new(),
            doorbell <- Doorbell::new(),
        })
    }

    /// Makes a mapping if this CPU has a slot for it at hand, and the device reaches all of them.
    ///
    /// [`None`] leaves nothing behind, and says nothing: [`Self::map`] is next. Any context but NMI.
    ///
    /// # Safety
    ///
    /// The device must have a DMA mask.
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

    /// Makes a mapping and returns its address.
    ///
    /// [`None`] leaves nothing behind: the legacy pool is next. Any context but NMI.
    #[inline]
    pub(crate) fn map(&self, dev: DmaDevice<'_>, request: &Request) -> Option<Phys> {
        let rules = dev.constraints(request.alloc_align_mask);
        let Some(layout) = Layout::find(request.orig.raw(), request.size, &rules) else {
            self.stats.oversize.add(1);
            return None;
        };
        let Some((slot, class)) = self.take(layout.class) else {
            return self.refused(dev, request, layout.class);
        };
        if !dev.reaches(slot.base.add(layout.offset), request.size) {
            self.put_back(slot, class);
            self.stats.unreachable.add(1);
            return self.refused(dev, request, layout.class);
        }
        if class != layout.class {
            self.fell_back(dev, request, layout.class, class);
        }
        Some(Self::begin(dev, request, slot, layout.offset))
    }

    /// Makes a mapping that the legacy pool could not make either, if kccd makes a slot for it in
    /// time. [`None`] is a failed mapping, which is counted. Any context but NMI.
    #[cold]
    #[inline(never)]
    pub(crate) fn map_last(&self, dev: DmaDevice<'_>, request: &Request) -> Option<Phys> {
        let rules = dev.constraints(request.alloc_align_mask);
        let layout = Layout::find(request.orig.raw(), request.size, &rules);
        // What is made is made anywhere.
        let reaches_all = dev.reaches(Phys::new(0), self.directory.bytes());
        let found = layout.filter(|_| reaches_all).and_then(|layout| {
            let (slot, class) = self.take_last(layout.class)?;
            trace::fallback(dev, request.size, layout.class, Some(class));
            Some((slot, layout.offset))
        });
        let Some((slot, offset)) = found else {
            self.stats.exhausted.add(1);
            trace::exhausted(dev, request.size);
            return None;
        };
        self.stats.late.add(1);
        Some(Self::begin(dev, request, slot, offset))
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
        // So that the span stays where it is: see retire.rs.
        let _rcu = rcu::read_lock();
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        let Some((slot, offset)) = span.slot_at(addr) else {
            return false;
        };
        let mapping = match slot.slot.claim(offset, size) {
            Some(mapping) => mapping,
            None => match self.claim_any(dev, &slot, offset, size) {
                Some(mapping) => mapping,
                None => return true,
            },
        };
        if copy {
            dev.flush();
            Sides::of(&slot, &mapping).copy_to_private();
        }
        trace::unbounced(dev, mapping.orig(), addr, mapping.size());
        slot.slot.free();
        self.put(slot, span.class());
        true
    }

    /// Claims the mapping at `offset`, whose size is not `size`; returns what of it is to be copied.
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
                return Some(mapping.first(size));
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
        // So that the span stays where it is: see retire.rs.
        let _rcu = rcu::read_lock();
        let Some(span) = self.directory.get(addr) else {
            return false;
        };
        if !wanted {
            return true;
        }
        let Some((slot, _)) = span.slot_at(addr) else {
            return false;
        };
        let Ok(mapping) = slot.slot.mapping() else {
            return self.misuse(dev, Misuse::WrongAddress, addr, size);
        };
        let Some((part, whole)) = Sides::of(&slot, &mapping).part(addr, size) else {
            return self.misuse(dev, Misuse::WrongAddress, addr, size);
        };
        copy(&part);
        if !whole {
            self.misuse(dev, Misuse::PastTheEnd, addr, size);
        }
        true
    }

    /// Whether `addr` lies in one of our slots.
    #[inline]
    pub(crate) fn owns(&self, addr: Phys) -> bool {
        self.directory.get(addr).is_some()
    }

    /// The largest mapping that `dev` may ask for, in bytes; 0 if that is for the legacy pool to
    /// say: as long as there is no slot of the largest class, or none that the device reaches for
    /// sure, a mapping could only be left to it. May be called from any context.
    pub(crate) fn max_mapping_bytes(&self, dev: DmaDevice<'_>) -> usize {
        let largest = SizeClass::all().last();
        let made = |class| self.depots.iter().any(|depot| depot.slots(class) > 0);
        if largest.is_some_and(made) && dev.reaches(Phys::new(0), self.directory.bytes()) {
            layout::max_mapping_bytes(dev.min_align_mask())
        } else {
            0
        }
    }

    #[cold]
    #[inline(never)]
    fn fell_back(&self, dev: DmaDevice<'_>, request: &Request, from: SizeClass, to: SizeClass) {
        self.stats.fallback(from).add(1);
        trace::fallback(dev, request.size, from, Some(to));
    }

    /// The mapping is left to the legacy pool.
    #[cold]
    #[inline(never)]
    fn refused(&self, dev: DmaDevice<'_>, request: &Request, class: SizeClass) -> Option<Phys> {
        self.stats.note_refused(class);
        trace::fallback(dev, request.size, class, None);
        None
    }

    /// Counts and reports, once for each kind, what a driver should not do. Returns `true`: the
    /// address is ours, and nobody else shall try.
    #[cold]
    #[inline(never)]
    fn misuse(&self, dev: DmaDevice<'_>, what: Misuse, addr: Phys, size: usize) -> bool {
        self.stats.misuse.add(1);
        if self.stats.first_misuse(what) {
            dev_err!(
                dev.device(),
                "cc_swiotlb: {} at {:#x}, {} bytes\n",
                what.text(),
                addr.raw(),
                size
            );
        }
        true
    }
}

/// What a driver should not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Misuse {
    /// A mapping is unmapped that is over.
    DoubleUnmap,
    /// No mapping starts at the address, or for a sync, contains it.
    WrongAddress,
    /// The mapping ends before the range does.
    PastTheEnd,
}

impl Misuse {
    fn text(self) -> &'static str {
        match self {
            Self::DoubleUnmap => "double unmap",
            Self::WrongAddress => "wrong address, no mapping there:",
            Self::PastTheEnd => "access past the end of the mapping",
        }
    }
}
