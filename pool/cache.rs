// SPDX-License-Identifier: GPL-2.0

//! What each CPU holds: a small stack of free slots of each class.
//!
//! Last in, first out: the next mapping gets the slot whose bytes are still in this CPU's cache. How
//! many slots a stack may hold, its limit, adapts: it begins at one and doubles when the CPU runs out
//! or overflows, so that a CPU with one mapping at a time holds one slot, and one with a deep queue
//! seldom visits a depot.
//!
//! # Locking
//!
//! A CPU's cache is touched by this CPU only, with interrupts disabled; no lock and no line that
//! another CPU writes. To drain it, the CPU is asked to do so. The one exception is a CPU that is
//! dead: the owner of its [`DeadCpu`] has its cache.
//!
//! The counters are written in the same way and read by anybody: their sums are right once the CPUs
//! are quiet, and close otherwise.

use super::{
    class::{
        PerClass,
        SizeClass, //
    },
    span::FreeSlot,
    stats::Counter, //
};
use crate::glue::cpus::DeadCpu;
use core::cell::UnsafeCell;
use kernel::{
    alloc::AllocError,
    cpu,
    cpu::CpuId,
    interrupt::LocalInterruptDisabled,
    prelude::*, //
};

/// The free slots of one class that a CPU holds.
pub(super) struct Stack {
    slots: KVec<FreeSlot>,
    limit: usize,
}

impl Default for Stack {
    /// An empty stack that has no room yet.
    fn default() -> Self {
        Self {
            slots: KVec::new(),
            limit: 1,
        }
    }
}

impl Stack {
    /// Makes room for all slots of `class` that it may ever hold. May sleep.
    fn make_room(&mut self, class: SizeClass) -> Result<(), AllocError> {
        self.slots.reserve(class.cache_slots(), GFP_KERNEL)
    }

    /// How many slots it may hold at present.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Lets it hold `limit` slots, at most as many as there is room for.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(self.slots.capacity()).max(1);
    }

    /// Whether it can hold more than it may at present.
    pub(super) fn can_grow(&self) -> bool {
        self.limit < self.slots.capacity()
    }

    /// Puts a slot, which comes back if there are as many as there may be.
    #[inline]
    pub(super) fn push(&mut self, slot: FreeSlot) -> Result<(), FreeSlot> {
        if self.slots.len() >= self.limit {
            return Err(slot);
        }
        self.slots.push_within_capacity(slot).map_err(|_| slot)
    }

    /// The slots that were put first, all but `kept`; they are gone when `f` has returned.
    pub(super) fn shed(&mut self, kept: usize, f: impl FnOnce(&[FreeSlot])) {
        let gone = self.slots.len().saturating_sub(kept);
        f(self.slots.get(..gone).unwrap_or_default());
        self.slots.copy_within(gone.., 0);
        self.slots.truncate(kept);
    }
}

/// What one CPU holds of one class: a cache line of its own.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct ClassCache {
    stack: UnsafeCell<Stack>,
    /// Slots that mappings made on this CPU took.
    pub(super) taken: Counter,
    /// Slots that came back on this CPU.
    pub(super) returned: Counter,
    /// Its activity when it was last drained.
    drained_at: Counter,
}

#[cfg(CONFIG_64BIT)]
static_assert!(size_of::<ClassCache>() == 64);

impl ClassCache {
    /// What the counters come to: another number whenever a mapping has changed the stack.
    fn activity(&self) -> u64 {
        self.taken.get().wrapping_add(self.returned.get())
    }
}

/// What one CPU holds: a power of two of bytes, so that a shift leads to it.
#[derive(Default)]
#[repr(align(1024))]
struct CpuCache(PerClass<ClassCache>);

/// The caches of all CPUs.
pub(crate) struct CpuCaches(KVVec<CpuCache>);

// SAFETY: Everything in it can be used on any CPU, one at a time.
unsafe impl Send for CpuCaches {}

// SAFETY: `stack` is accessed through `with()` alone, which gives a CPU access to its own, and to that
// of a CPU that executes nothing; the counters are atomic.
unsafe impl Sync for CpuCaches {}

impl CpuCaches {
    /// Empty caches for all CPUs that may ever be. May sleep.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let cpus = cpu::nr_cpu_ids() as usize;
        let mut caches = KVVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            let mut cache = CpuCache::default();
            for class in SizeClass::ALL {
                cache.0[class].stack.get_mut().make_room(class)?;
            }
            caches.push(cache, GFP_KERNEL)?;
        }
        Ok(Self(caches))
    }

    /// Calls `f` with this CPU's stack of `class`, or with that of a CPU that is dead. `f` must not come
    /// back here.
    ///
    /// [`None`] if there is no such CPU.
    #[inline]
    pub(super) fn with<R>(
        &self,
        dead: Option<&DeadCpu>,
        class: SizeClass,
        _irq: &LocalInterruptDisabled,
        f: impl FnOnce(&mut Stack, &ClassCache) -> R,
    ) -> Option<R> {
        let cpu = dead.map_or_else(|| CpuId::current().as_u32(), DeadCpu::id);
        let cache = &self.0.get(cpu as usize)?.0[class];
        // SAFETY:
        // - Interrupts are disabled: what makes an `irq`, `IrqsOff` and `local_interrupt_disable()`
        //   (include/linux/interrupt_rc.h), does so by `local_irq_save()`, whatever the kernel's
        //   preemption. So we stay on this CPU and nothing interrupts us. Other CPUs only ever
        //   access their own cache, or that of a CPU that is dead, and we are alive.
        // - By the type invariant of `DeadCpu`, a CPU that is dead executes nothing from before its
        //   creation until it is gone. So nobody is here for its own cache on that CPU, and what it did
        //   before it died has happened for us. There is one `DeadCpu` for a CPU at a time, which we
        //   have a reference to on this thread alone, so that nobody else is here for the same one.
        // - All calls of this are in this file and in help.rs. What `f` calls is given slots and changes
        //   depots, which know nothing of caches: nothing comes back here.
        let stack = unsafe { &mut *cache.stack.get() };
        Some(f(stack, cache))
    }

    /// Takes a slot of `class` from this CPU's stack.
    #[inline]
    pub(crate) fn pop(&self, class: SizeClass, irq: &LocalInterruptDisabled) -> Option<FreeSlot> {
        self.with(None, class, irq, |stack, cache| {
            let slot = stack.slots.pop()?;
            cache.taken.set(cache.taken.get() + 1);
            Some(slot)
        })?
    }

    /// Puts a slot of `class` onto this CPU's stack. It comes back when that holds what it may.
    #[inline]
    pub(crate) fn push(
        &self,
        class: SizeClass,
        slot: FreeSlot,
        irq: &LocalInterruptDisabled,
    ) -> Result<(), FreeSlot> {
        self.with(None, class, irq, |stack, cache| {
            stack.push(slot)?;
            cache.returned.set(cache.returned.get() + 1);
            Ok(())
        })
        .unwrap_or(Err(slot))
    }

    /// Empties this CPU's stack of `class`, or that of a CPU that is dead; `home` takes what was in it.
    ///
    /// What mappings do from here on counts as not drained.
    pub(super) fn drain(
        &self,
        dead: Option<&DeadCpu>,
        class: SizeClass,
        irq: &LocalInterruptDisabled,
        home: impl FnOnce(&[FreeSlot]),
    ) {
        self.with(dead, class, irq, |stack, cache| {
            stack.shed(0, home);
            stack.set_limit(1);
            cache.drained_at.set(cache.activity());
        });
    }

    /// The CPUs that may hold slots which they did not use since they were drained: their stacks have
    /// changed.
    pub(crate) fn active(&self) -> impl Iterator<Item = u32> + '_ {
        let is_active = |cache: &ClassCache| cache.activity() != cache.drained_at.get();
        (0u32..)
            .zip(&self.0)
            .filter(move |(_, it)| it.0.iter().any(|(_, cache)| is_active(cache)))
            .map(|(cpu, _)| cpu)
    }

    /// What all CPUs have counted for `class`.
    pub(super) fn sum(&self, class: SizeClass, count: fn(&ClassCache) -> &Counter) -> u64 {
        self.0.iter().map(|cpu| count(&cpu.0[class]).get()).sum()
    }

    /// Slots of `class` that mappings have.
    pub(crate) fn used(&self, class: SizeClass) -> u64 {
        // What came back is read first: a mapping that ends meanwhile counts as in use.
        let returned = self.sum(class, |of| &of.returned);
        self.sum(class, |of| &of.taken).saturating_sub(returned)
    }
}

/// CPUs that are simulated, for tests.
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
impl CpuCaches {
    /// The stacks of a CPU that holds nothing, for `classes`.
    pub(super) fn stacks(classes: &[SizeClass]) -> Result<KVec<(SizeClass, Stack)>> {
        let mut stacks = KVec::new();
        for class in classes {
            let mut stack = Stack::default();
            stack.make_room(*class)?;
            stacks.push((*class, stack), GFP_KERNEL)?;
        }
        Ok(stacks)
    }

    /// Exchanges this CPU's stacks for others.
    pub(super) fn exchange(&self, stacks: &mut [(SizeClass, Stack)], irq: &LocalInterruptDisabled) {
        for (class, other) in stacks {
            self.with(None, *class, irq, |stack, _| core::mem::swap(stack, other));
        }
    }
}
