// SPDX-License-Identifier: GPL-2.0

//! Grace periods of RCU that nobody waits for.

use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};

/// A grace period that has been asked for.
///
/// Once it is over, every RCU read section that was going on when it was asked for has ended, and
/// what was done in it has happened for whoever sees that it is over.
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
        // SAFETY: May be called from any context, with whatever `start()` got.
        unsafe { bindings::poll_state_synchronize_rcu(self.0) }
    }
}

/// Watches over whether grace periods end.
pub(crate) struct GraceWatch {
    begun: Instant<Monotonic>,
    /// One that was asked for, and when: both by whoever came first after the last one.
    cookie: Atomic<u64>,
    since_ms: Atomic<u64>,
}

impl GraceWatch {
    /// Begins to watch. Any context but NMI, without locks of the scheduler.
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            cookie: Atomic::new(GracePeriod::start().0 as u64),
            since_ms: Atomic::new(0),
        }
    }

    /// Whether the one that is watched has been going on for `limit_ms` milliseconds. If it is over
    /// this asks for the next one. Any context but NMI, without locks of the scheduler.
    ///
    /// Two that come at a time may pair the cookie of one with the earlier time of the other. Then it
    /// may say so too early, until that grace period is over.
    pub(crate) fn is_held_up(&self, limit_ms: u64) -> bool {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        if GracePeriod(self.cookie.load(Relaxed) as c_ulong).is_over() {
            self.since_ms.store(now_ms, Relaxed);
            self.cookie.store(GracePeriod::start().0 as u64, Relaxed);
            return false;
        }
        if now_ms.saturating_sub(self.since_ms.load(Relaxed)) < limit_ms {
            return false;
        }
        // Where normal and expedited ones overlap, one may end unnoticed: then the next one is.
        GracePeriod::start();
        true
    }
}
