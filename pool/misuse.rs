// SPDX-License-Identifier: GPL-2.0

//! What a driver should not do: detected, counted, reported once for each kind, and harmless.

use super::{
    address::Phys,
    Pool, //
};
use crate::glue::device::DmaDevice;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A kind of misuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misuse {
    /// A mapping is unmapped that is over.
    DoubleUnmap,
    /// No mapping starts at the address, or for a sync, contains it.
    WrongAddress,
    /// The mapping ends before the range does.
    PastTheEnd,
}

/// The kinds that were reported, one bit each.
pub(super) struct Reported(Atomic<u32>);

impl Reported {
    /// None.
    pub(super) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Whether `what` is reported for the first time; of two at a time either may be.
    fn is_first(&self, what: Misuse) -> bool {
        let (bit, seen) = (1 << what as u32, self.0.load(Relaxed));
        seen & bit == 0 && self.0.cmpxchg(seen, seen | bit, Relaxed).is_ok()
    }
}

impl Pool {
    /// Counts and reports misuse of `size` bytes at `addr`.
    #[cold]
    #[inline(never)]
    pub(super) fn misuse(&self, dev: DmaDevice<'_>, what: Misuse, addr: Phys, size: usize) {
        self.stats.misuse.add(1);
        if self.reported.is_first(what) {
            let text = match what {
                Misuse::DoubleUnmap => "double unmap",
                Misuse::WrongAddress => "wrong address, no mapping there:",
                Misuse::PastTheEnd => "access past the end of the mapping",
            };
            dev_err!(
                dev.device(),
                "cc_swiotlb: {text} at {:#x}, {size} bytes\n",
                addr.raw()
            );
        }
    }
}
