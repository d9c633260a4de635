// SPDX-License-Identifier: GPL-2.0

//! What a driver should not do: detected, counted, reported once for each kind, and harmless.

use super::{
    address::Phys,
    Pool, //
};
use crate::glue::device::DmaDevice;
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

/// Kinds of misuse.
pub(super) const KINDS: usize = 3;

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

impl Pool {
    /// Counts and reports misuse of `size` bytes at `addr`.
    #[cold]
    #[inline(never)]
    pub(super) fn misuse(&self, dev: DmaDevice<'_>, what: Misuse, addr: Phys, size: usize) {
        self.stats.misuse.add(1);
        if !self.reported[what as usize].xchg(true, Relaxed) {
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
