// SPDX-License-Identifier: GPL-2.0

//! What each CPU holds: two magazines of each class.
//!
//! # Locking
//!
//! A CPU's cache is touched by this CPU only, with interrupts disabled; no lock and no line that
//! another CPU writes. Whoever wants it drained asks the CPU to do so. The one exception is a CPU
//! that is dead: whoever holds a [`DeadCpu`] has its cache.
//!
//! The counters are written in the same way and read by anybody: their sums are right once the CPUs
//! are quiet, and close otherwise.

use super::{
    class::{
        SizeClass,
        CLASSES, //
    },
    depot::Depot,
    gauge::Depth,
    magazine::Magazine,
    span::FreeSlot, //
};
use crate::glue::cpus::DeadCpu;
use core::{
    cell::UnsafeCell,
    mem, //
};
use kernel::{
    alloc::AllocError,
    cpu,
    cpu::CpuId,
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// Two magazines, so that a CPU that maps and unmaps around the end of one does not go to the
/// depot each time.
struct Pair {
    loaded: Magazine,
    previous: Magazine,
}

impl Pair {
    #[inline]
    fn pop(&mut self) -> Option<FreeSlot> {
        if let Some(slot) = self.loaded.pop() {
            return Some(slot);
        }
        if self.previous.is_empty() {
            return None;
        }
        mem::swap(&mut self.loaded, &mut self.previous);
        self.loaded.pop()
    }

    #[inline]
    fn push(&mut self, slot: FreeSlot) -> Result<(), FreeSlot> {
        let slot = match self.loaded.push(slot) {
            Ok(()) => return Ok(()),
            Err(slot) => slot,
        };
        self.previous.push(slot)?;
        mem::swap(&mut self.loaded, &mut self.previous);
        Ok(())
    }
}

impl Pair {
    /// Leaves all slots to the first of `depots` that has room for them.
    fn drain<'a>(
        &mut self,
        class: SizeClass,
        depots: impl Iterator<Item = &'a Depot>,
        irq: &LocalInterruptDisabled,
    ) {
        for depot in depots {
            let Err(slot) = depot.take_back(class, || self.pop(), irq) else {
                return;
            };
            // There is room, it was just taken out.
            let _ = self.push(slot);
        }
    }
}

/// What one CPU holds of one class: a cache line of its own.
#[repr(C, align(64))]
struct ClassCache {
    pair: UnsafeCell<Pair>,
    /// Slots that mappings made on this CPU took.
    taken: Atomic<u64>,
    /// Slots that came back on this CPU.
    returned: Atomic<u64>,
}

#[cfg(CONFIG_64BIT)]
static_assert!(size_of::<ClassCache>() == 64);

/// The caches of all CPUs.
pub(crate) struct CpuCaches {
    /// [`CLASSES`] for each CPU, one CPU after the other.
    caches: KVVec<ClassCache>,
    /// For each CPU, its [`Self::activity`] when it was last drained.
    drained_at: KVVec<Atomic<u64>>,
}

// SAFETY: Everything in it can be used on any CPU, one at a time.
unsafe impl Send for CpuCaches {}

// SAFETY: `pair` is accessed through `with()`, which gives a CPU access to its own, and through
// `drain_dead()`, for a CPU that executes nothing; the counters are atomic.
unsafe impl Sync for CpuCaches {}

impl CpuCaches {
    /// Empty caches for all CPUs that may ever be.
    ///
    /// May sleep.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let cpus = cpu::nr_cpu_ids() as usize;
        let mut caches = KVVec::with_capacity(cpus * CLASSES, GFP_KERNEL)?;
        let mut drained_at = KVVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            drained_at.push(Atomic::new(0), GFP_KERNEL)?;
            for class in SizeClass::all() {
                let cache = ClassCache {
                    pair: UnsafeCell::new(Pair {
                        loaded: Magazine::new(class)?,
                        previous: Magazine::new(class)?,
                    }),
                    taken: Atomic::new(0),
                    returned: Atomic::new(0),
                };
                caches.push(cache, GFP_KERNEL)?;
            }
        }
        Ok(Self { caches, drained_at })
    }

    /// This CPU's cache of `class`.
    #[inline]
    fn mine(&self, class: SizeClass, _irq: &LocalInterruptDisabled) -> Option<&ClassCache> {
        self.of_cpu(CpuId::current().as_u32(), class)
    }

    /// Calls `f` with this CPU's magazines of `class`.
    ///
    /// Private, so that the calls are all in sight: none of them comes back here from `f`.
    #[inline]
    fn with<R>(
        &self,
        class: SizeClass,
        irq: &LocalInterruptDisabled,
        f: impl FnOnce(&mut Pair, &ClassCache) -> R,
    ) -> Option<R> {
        let cache = self.mine(class, irq)?;
        // SAFETY:
        // - Interrupts are disabled: what makes an `irq`, `IrqsOff` and `local_interrupt_disable()`
        //   (include/linux/interrupt_rc.h), does so by `local_irq_save()`, whatever the kernel's
        //   preemption. So we stay on this CPU and nothing interrupts us. Other CPUs only ever
        //   access their own cache, or that of a CPU that is dead, and we are alive.
        // - `f` is one of the closures in this file, none of which calls `with()`.
        let pair = unsafe { &mut *cache.pair.get() };
        Some(f(pair, cache))
    }

    /// Takes a slot of `class` from this CPU's magazines.
    #[inline]
    pub(crate) fn pop(&self, class: SizeClass, irq: &LocalInterruptDisabled) -> Option<FreeSlot> {
        self.with(class, irq, |pair, cache| {
            let slot = pair.pop()?;
            let count = cache.taken.load(Relaxed).wrapping_add(1);
            cache.taken.store(count, Relaxed);
            Some(slot)
        })?
    }

    /// Fetches a magazine from `depot` and takes a slot from it.
    ///
    /// To be called when [`Self::pop`] has found nothing.
    pub(crate) fn pop_from(
        &self,
        depot: &Depot,
        class: SizeClass,
        depth: Depth,
        irq: &LocalInterruptDisabled,
    ) -> Option<FreeSlot> {
        let refilled = self.with(class, irq, |pair, _| {
            pair.loaded.is_empty() && depot.swap_for_full(class, depth, &mut pair.loaded, irq)
        })?;
        if refilled {
            self.pop(class, irq)
        } else {
            None
        }
    }

    /// Puts a slot of `class` into this CPU's magazines. It comes back when both are full.
    #[inline]
    pub(crate) fn push(
        &self,
        class: SizeClass,
        slot: FreeSlot,
        irq: &LocalInterruptDisabled,
    ) -> Result<(), FreeSlot> {
        self.with(class, irq, |pair, cache| {
            pair.push(slot)?;
            let count = cache.returned.load(Relaxed).wrapping_add(1);
            cache.returned.store(count, Relaxed);
            Ok(())
        })
        .unwrap_or(Err(slot))
    }

    /// Leaves a full magazine to `depot` and puts a slot into the empty one that it gives for it.
    ///
    /// To be called when [`Self::push`] has found no room. The slot comes back when the depot has
    /// no empty magazine.
    pub(crate) fn push_via(
        &self,
        depot: &Depot,
        class: SizeClass,
        slot: FreeSlot,
        irq: &LocalInterruptDisabled,
    ) -> Result<(), FreeSlot> {
        // The colder one goes.
        let exchanged = self.with(class, irq, |pair, _| {
            depot.swap_for_empty(class, &mut pair.previous, irq)
        });
        if exchanged == Some(true) {
            self.push(class, slot, irq)
        } else {
            Err(slot)
        }
    }

    /// Leaves all slots that this CPU holds to the first of `depots` that has room for them.
    pub(crate) fn drain<'a, D>(&self, depots: impl Fn() -> D, irq: &LocalInterruptDisabled)
    where
        D: Iterator<Item = &'a Depot>,
    {
        for class in SizeClass::all() {
            self.with(class, irq, |pair, _| pair.drain(class, depots(), irq));
        }
        self.note_drained(CpuId::current().as_u32());
    }

    /// The same for a CPU that is dead.
    pub(crate) fn drain_dead<'a, D>(&self, cpu: &DeadCpu, depots: impl Fn() -> D)
    where
        D: Iterator<Item = &'a Depot>,
    {
        for class in SizeClass::all() {
            let Some(cache) = self.of_cpu(cpu.id(), class) else {
                return;
            };
            let irq = local_interrupt_disable();
            // SAFETY:
            // - By the type invariant of `DeadCpu`, the CPU executes nothing from before its
            //   creation until it is gone. So nobody is in `with()` for its cache: that takes being
            //   on the CPU.
            // - There is one `DeadCpu` for a CPU at a time, which we have a reference to on this
            //   thread alone, so that nobody else is here for the same CPU.
            // - What the CPU did before it died has happened for us: it was waited for.
            let pair = unsafe { &mut *cache.pair.get() };
            pair.drain(class, depots(), &irq);
        }
        self.note_drained(cpu.id());
    }

    /// The CPUs whose magazines have changed since they were drained.
    pub(crate) fn active(&self) -> impl Iterator<Item = u32> + '_ {
        let drained = self.drained_at.iter().map(|at| at.load(Relaxed));
        (0u32..)
            .zip(drained)
            .filter(|(cpu, drained)| self.activity(*cpu) != *drained)
            .map(|(cpu, _)| cpu)
    }

    /// What the counters of a CPU come to: another number whenever its magazines have changed.
    fn activity(&self, cpu: u32) -> u64 {
        SizeClass::all()
            .filter_map(|class| self.of_cpu(cpu, class))
            .fold(0, |sum: u64, cache| {
                sum.wrapping_add(cache.taken.load(Relaxed))
                    .wrapping_add(cache.returned.load(Relaxed))
            })
    }

    fn note_drained(&self, cpu: u32) {
        if let Some(at) = self.drained_at.get(cpu as usize) {
            at.store(self.activity(cpu), Relaxed);
        }
    }

    #[inline]
    fn of_cpu(&self, cpu: u32, class: SizeClass) -> Option<&ClassCache> {
        let first = (cpu as usize).wrapping_mul(CLASSES);
        self.caches.get(first.wrapping_add(class.index()))
    }

    fn of_class(&self, class: SizeClass) -> impl Iterator<Item = &ClassCache> {
        self.caches.iter().skip(class.index()).step_by(CLASSES)
    }

    /// Slots of `class` that mappings took and gave back, summed over all CPUs.
    pub(crate) fn totals(&self, class: SizeClass) -> Totals {
        let mut totals = Totals::default();
        // What came back is read first: a mapping that ends meanwhile counts as in use.
        for cache in self.of_class(class) {
            totals.returned = totals.returned.wrapping_add(cache.returned.load(Relaxed));
        }
        for cache in self.of_class(class) {
            totals.taken = totals.taken.wrapping_add(cache.taken.load(Relaxed));
        }
        totals
    }
}

/// Sums of the counters of all CPUs.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Totals {
    /// Slots that mappings took.
    pub(crate) taken: u64,
    /// Slots that came back.
    pub(crate) returned: u64,
}
