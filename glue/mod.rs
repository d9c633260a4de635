// SPDX-License-Identifier: GPL-2.0

//! The one door to C: all calls by `bindings`, except the tracepoints, and all but a few lines of
//! `unsafe` are in this folder.
//!
//! The rest of the crate sees devices, blocks of memory and threads as types that can only be used
//! in the right way. The C side of the door is beside it.

pub(crate) mod bounce;
pub(crate) mod cpus;
pub(crate) mod device;
pub(crate) mod grace;
mod hooks;
pub(crate) mod irq;
mod lend;
pub(crate) mod link;
pub(crate) mod memory;
pub(crate) mod once;
mod reclaim;
pub(crate) mod sysfs;
mod text;
pub(crate) mod thread;

use kernel::prelude::*;

/// Keeps a pinned value for ever.
pub(crate) fn leak<T>(value: Pin<KBox<T>>) -> &'static T {
    // SAFETY: The box is given up, so that the value is neither moved nor dropped; what remains is
    // one shared reference.
    unsafe { &*KBox::into_raw(Pin::into_inner_unchecked(value)) }
}

/// Leaves all mappings to the legacy pool from now on.
///
/// Only while no slot has been handed out. May sleep.
pub(crate) fn switch_off() {
    // SAFETY: Changes a static key, which may be done at any time from process context.
    unsafe { kernel::bindings::cc_swiotlb_key_off() }
}

/// Whether this boot is to be served by us, fixed once the command line has been parsed.
pub(crate) fn wanted() -> bool {
    // SAFETY: Reads what was set at boot.
    unsafe { kernel::bindings::cc_swiotlb_wanted() }
}

/// Whether this is interrupt context, or softirqs are disabled, as when the network stack
/// transmits: such callers have one mapping at a time.
pub(crate) fn in_interrupt() -> bool {
    // SAFETY: Looks at this CPU's counters only.
    unsafe { kernel::bindings::cc_swiotlb_in_interrupt() }
}

/// Makes allocations of the calling thread start no I/O from now on, as that could be waiting for
/// the thread; except those of blocks of memory, see [`memory::PrivateMemory::new`].
pub(crate) fn no_io() {
    // SAFETY: Changes a flag of the current task, which nobody else does.
    unsafe { kernel::bindings::cc_swiotlb_no_io() }
}

/// Asks to be called when memory is short, and when a CPU has died. Without that, memory is given
/// back later than it could be, and the slots that a dead CPU holds stay there.
///
/// May sleep.
pub(crate) fn register() -> Result {
    // SAFETY: To be called once, which `start()` sees to.
    kernel::error::to_result(unsafe { kernel::bindings::cc_swiotlb_register() })
}
