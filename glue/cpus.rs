// SPDX-License-Identifier: GPL-2.0

//! Other CPUs: how one is made to return the slots that it holds, and what happens when it dies.

use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

/// Number of CPUs that are online.
pub(crate) fn online() -> usize {
    // SAFETY: Reads a counter.
    (unsafe { kernel::bindings::cc_swiotlb_online_cpus() }) as usize
}

/// Makes `cpu` return the slots that it holds, before long. Does not wait. Any context but NMI.
///
/// If the CPU is offline the work runs on another one, which returns its own slots instead.
pub(crate) fn drain(cpu: u32) {
    // SAFETY: Queues work that is never freed.
    unsafe { kernel::bindings::cc_swiotlb_drain(cpu) }
}

/// Makes all CPUs return the slots that they hold, and waits until they have. May sleep.
pub(crate) fn drain_all() {
    // SAFETY: To be called where sleeping is allowed.
    unsafe { kernel::bindings::cc_swiotlb_drain_all() }
}

/// Returns the slots that this CPU holds.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_drain_this_cpu(_work: *mut kernel::bindings::work_struct) {
    if let Some(pool) = crate::pool() {
        pool.drain(None);
    }
}

/// The number of a CPU that is dead. Belongs to the thread that takes the CPU down.
///
/// # Invariants
///
/// While this exists, the CPU executes nothing, all that it did before is visible, and there is no
/// other `DeadCpu` for it.
pub(crate) struct DeadCpu(u32, NotThreadSafe);

impl DeadCpu {
    /// Number of the CPU.
    pub(crate) fn id(&self) -> u32 {
        self.0
    }
}

/// Drains the caches of a CPU that has died.
///
/// # Safety
///
/// To be called by CPU hotplug only, in the section in which a dying CPU is dead already: between
/// CPUHP_OFFLINE and CPUHP_AP_OFFLINE in enum cpuhp_state.
#[export]
unsafe extern "C" fn cc_swiotlb_cpu_dead(cpu: c_uint) {
    // INVARIANT: By the safety requirement it is dead, and takedown_cpu() has waited for that. It
    // stays so until we return, and nobody else is called for it: hotplug operations hold
    // cpu_hotplug_lock for writing.
    let dead = DeadCpu(cpu, NotThreadSafe);
    if let Some(pool) = crate::pool() {
        pool.drain(Some(&dead));
    }
}
