// SPDX-License-Identifier: GPL-2.0

//! Other CPUs: how one is made to do something, and how it dies.

use kernel::{
    bindings,
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    prelude::*,
    types::NotThreadSafe, //
};

/// What is passed to the other CPU.
struct Call<'a, T> {
    data: &'a T,
    function: fn(&T, &LocalInterruptDisabled),
}

/// Calls `function` on `cpu`, with interrupts disabled, and waits until it is done. Returns whether
/// it did: not if the CPU is not online.
///
/// In the CPU's stopper thread, which comes before all others, so that it takes no longer when the
/// CPU is busy. Not in an interrupt: what takes ordinary spinlocks does not belong there.
///
/// May sleep.
pub(crate) fn run_on<T: Sync>(
    cpu: u32,
    data: &T,
    function: fn(&T, &LocalInterruptDisabled), //
) -> bool {
    let call = Call { data, function };
    // SAFETY: `called::<T>` takes a pointer to a `Call<T>`, which is there until it is done.
    let ret = unsafe {
        bindings::cc_swiotlb_run_on(
            cpu,
            Some(called::<T>),
            core::ptr::from_ref(&call).cast_mut().cast(),
        )
    };
    ret == 0
}

/// What the other CPU executes.
///
/// # Safety
///
/// `call` must be a `&Call<T>`.
unsafe extern "C" fn called<T: Sync>(call: *mut c_void) -> c_int {
    // SAFETY: By the safety requirement; `T` may be used on any CPU.
    let call: &Call<'_, T> = unsafe { &*call.cast_const().cast() };
    let irq = local_interrupt_disable();
    (call.function)(call.data, &irq);
    0
}

/// A CPU that is dead.
///
/// # Invariants
///
/// The CPU executes nothing, and what it did has happened, while there is this; and there is only
/// one for it.
pub(crate) struct DeadCpu {
    cpu: u32,
    /// Belongs to the thread that takes the CPU down.
    _thread: NotThreadSafe,
}

impl DeadCpu {
    /// Number of the CPU.
    pub(crate) fn id(&self) -> u32 {
        self.cpu
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
    // stays so until we return, and nobody else is called for it: hotplug operations have the
    // write side of cpu_hotplug_lock.
    let dead = DeadCpu {
        cpu,
        _thread: NotThreadSafe,
    };
    if let Some(pool) = crate::pool() {
        pool.drain_dead(&dead);
    }
}
