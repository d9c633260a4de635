// SPDX-License-Identifier: GPL-2.0

//! Interrupts of this CPU, disabled for a few instructions.
//!
//! `local_interrupt_disable()` of the `kernel` crate counts how deep it is nested, which takes
//! longer than all that is done to a stack.

use kernel::{
    bindings,
    interrupt::LocalInterruptDisabled,
    prelude::*,
    types::NotThreadSafe, //
};

/// Interrupts are disabled on this CPU until this is dropped. So we stay on this CPU.
///
/// # Invariants
///
/// The flags are what [`cc_swiotlb_irq_save`](bindings::cc_swiotlb_irq_save) returned on this CPU.
pub(crate) struct IrqsOff(c_ulong, NotThreadSafe);

impl IrqsOff {
    /// Disables interrupts. Any context.
    ///
    /// # Safety
    ///
    /// Whatever disables interrupts after this, of this type or a lock, must be dropped before it.
    #[inline]
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: May be called at any time.
        let flags = unsafe { bindings::cc_swiotlb_irq_save() };
        // INVARIANT: Just returned, and not `Send`.
        Self(flags, NotThreadSafe)
    }

    /// A token that proves that interrupts are disabled.
    #[inline]
    pub(crate) fn token(&self) -> &LocalInterruptDisabled {
        // SAFETY: By the safety requirement of `new()` they are disabled for as long as `self`
        // lives, which the reference does not outlive.
        unsafe { LocalInterruptDisabled::assume_disabled() }
    }
}

impl Drop for IrqsOff {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::cc_swiotlb_irq_restore(self.0) };
    }
}
