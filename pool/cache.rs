// SPDX-License-Identifier: GPL-2.0

//! The caches of the CPUs: each holds a small stack of free slots of each class.
//!
//! Last in, first out: the next mapping gets the slot whose bytes are still in this CPU's cache.
//! How many slots a stack may hold, its limit, adapts: it begins at one and doubles when the CPU
//! runs out or overflows, so that a CPU with one mapping at a time holds one slot, and one with a
//! deep queue seldom visits a depot.
//!
//! # Locking
//!
//! A CPU's cache is accessed only by that CPU, with interrupts disabled; there is no lock, and no
//! cache line that another CPU writes. To drain a cache, its CPU is asked to do so. The one
//! exception is a CPU that is dead: the owner of its [`DeadCpu`] has its cache.
//!
//! The counters are written in the same way and read on any CPU: their sums are exact once the CPUs
//! are quiet, and approximate otherwise.

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

    /// How many slots the stack may hold at present.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Lets the stack hold `limit` slots, but no more than it has room for.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(self.slots.capacity()).max(1);
    }

    /// Whether there is room for more slots than the limit allows at present.
    pub(super) fn can_grow(&self) -> bool {
        self.limit < self.slots.capacity()
    }

    /// Pushes a slot, which is returned as the error if the stack is at its limit.
    #[inline]
    pub(super) fn push(&mut self, slot: FreeSlot) -> Result<(), FreeSlot> {
        if self.slots.len() >= self.limit {
            return Err(slot);
        }
        self.slots.push_within_capacity(slot).map_err(|_| slot)
    }

    /// Calls `f` with the slots that were pushed first, all but `kept`, and then removes them.
    pub(super) fn shed(&mut self, kept: usize, f: impl FnOnce(&[FreeSlot])) {
        let gone = self.slots.len().saturating_sub(kept);
        f(self.slots.get(..gone).unwrap_or_default());
        self.slots.copy_within(gone.., 0);
        self.slots.truncate(kept);
    }
}

/// The stack of one CPU for one class, with its counters, in a cache line of its own.
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
    /// The sum of the counters, which is another number whenever a mapping has changed the stack.
    fn activity(&self) -> u64 {
        self.taken.get().wrapping_add(self.returned.get())
    }
}

/// The cache of one CPU. Its size is a power of two, so that a shift finds it.
#[derive(Default)]
#[repr(align(1024))]
struct CpuCache(PerClass<ClassCache>);

/// The caches of all CPUs.
pub(crate) struct CpuCaches(KVVec<CpuCache>);

// SAFETY: Everything in it can be used on any CPU, by one CPU at a time.
unsafe impl Send for CpuCaches {}

// SAFETY: `stack` is accessed only through `with()`, which gives a CPU access to its own stack, and
// to that of a CPU that executes nothing; the counters are atomic.
unsafe impl Sync for CpuCaches {}

impl CpuCaches {
    /// Empty caches for all possible CPUs. May sleep.
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

    /// Calls `f` with this CPU's stack of `class`, or with that of a CPU that is dead. `f` must not
    /// call this function again.
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
        // - Interrupts are disabled: both sources of an `irq`, `IrqsOff` and
        //   `local_interrupt_disable()` (include/linux/interrupt_rc.h), use `local_irq_save()`,
        //   whatever the kernel's preemption model. So we stay on this CPU and nothing interrupts
        //   us. Other CPUs only ever access their own cache, or that of a CPU that is dead, and we
        //   are alive.
        // - By the type invariant of `DeadCpu`, a CPU that is dead executes nothing while its
        //   `DeadCpu` exists. So that CPU is not here for its own cache, and everything that it did
        //   before it died is visible to us. There is one `DeadCpu` for a CPU at a time, and only
        //   this thread has a reference to it, so that nobody else is here for the same one.
        // - All calls of this function are in this file and in help.rs. The functions that `f`
        //   calls are given slots and change depots, which know nothing of caches: none of them
        //   calls this one.
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

    /// Pushes a slot of `class` to this CPU's stack; returns it as the error if that is at its
    /// limit.
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

    /// Empties this CPU's stack of `class`, or that of a CPU that is dead; `home` takes the slots.
    ///
    /// Changes by mappings from here on count as not drained.
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

    /// The CPUs that may hold slots: mappings have changed their stacks since they were drained.
    pub(crate) fn active(&self) -> impl Iterator<Item = u32> + '_ {
        let is_active = |cache: &ClassCache| cache.activity() != cache.drained_at.get();
        (0u32..)
            .zip(&self.0)
            .filter(move |(_, it)| it.0.iter().any(|(_, cache)| is_active(cache)))
            .map(|(cpu, _)| cpu)
    }

    /// The sum of a counter of `class` over all CPUs.
    pub(super) fn sum(&self, class: SizeClass, count: fn(&ClassCache) -> &Counter) -> u64 {
        self.0.iter().map(|cpu| count(&cpu.0[class]).get()).sum()
    }

    /// Slots of `class` that mappings have.
    pub(crate) fn used(&self, class: SizeClass) -> u64 {
        // The slots that came back are read first: a mapping that ends meanwhile counts as in use.
        let returned = self.sum(class, |of| &of.returned);
        self.sum(class, |of| &of.taken).saturating_sub(returned)
    }
}

/// Simulated CPUs, for tests.
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
