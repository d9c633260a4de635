// SPDX-License-Identifier: GPL-2.0

//! RCU grace periods that nobody waits for.

use kernel::{
    bindings,
    prelude::*, //
};

/// A grace period that has been asked for.
///
/// Once it is over, every RCU read-side critical section that was running when it was asked for has
/// ended, and its effects are visible to a caller that sees that it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GracePeriod(c_ulong);

impl GracePeriod {
    /// Asks for one. Any context but NMI, without locks of the scheduler.
    pub(crate) fn start() -> Self {
        // SAFETY: May be called from any context but NMI.
        Self(unsafe { bindings::start_poll_synchronize_rcu() })
    }

    /// Whether it is over. Any context.
    pub(crate) fn is_over(self) -> bool {
        // SAFETY: May be called from any context, with the value that `start()` got.
        unsafe { bindings::poll_state_synchronize_rcu(self.0) }
    }
}
