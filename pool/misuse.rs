// SPDX-License-Identifier: GPL-2.0

//! Misuse by drivers: detected, counted, reported once for each kind, and harmless.

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
pub(super) const KINDS: usize = 4;

/// A kind of misuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misuse {
    /// A mapping that is over is unmapped again.
    DoubleUnmap,
    /// No mapping starts at the address or, for a sync, contains it.
    WrongAddress,
    /// The mapping ends before the range does.
    PastTheEnd,
    /// Memory is given back that is not lent, or is lent with another size.
    NotLent,
}

impl Pool {
    /// Counts and reports misuse: no mapping of `size` bytes at `addr` is there to unmap or to
    /// sync.
    ///
    /// Does nothing for lent bytes: they were mapped as they are, with nothing to undo or to copy.
    #[cold]
    #[inline(never)]
    pub(super) fn misuse(&self, dev: DmaDevice<'_>, what: Misuse, addr: Phys, size: usize) {
        if !self.is_lent(addr, size) && self.is_first(what) {
            let text = match what {
                Misuse::DoubleUnmap => "double unmap",
                Misuse::PastTheEnd => "access past the end of the mapping",
                _ => "wrong address, no mapping there:",
            };
            dev_err!(
                dev.device(),
                "cc_swiotlb: {text} at {:#x}, {size} bytes\n",
                addr.raw()
            );
        }
    }

    /// Counts and reports that `bytes` bytes at `addr` are given back although they are not lent.
    #[cold]
    pub(super) fn not_lent(&self, addr: Phys, bytes: usize) {
        if self.is_first(Misuse::NotLent) {
            pr_err!("no memory is lent at {:#x}, {bytes} bytes\n", addr.raw());
        }
    }

    /// Counts one; returns whether it is the first of its kind.
    fn is_first(&self, what: Misuse) -> bool {
        self.stats.misuse.add(1);
        !self.reported[what as usize].xchg(true, Relaxed)
    }
}
