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
pub(super) const KINDS: usize = 4;

/// A kind of misuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misuse {
    /// A mapping is unmapped that is over.
    DoubleUnmap,
    /// No mapping starts at the address, or for a sync, contains it.
    WrongAddress,
    /// The mapping ends before the range does.
    PastTheEnd,
    /// Memory is given back that is not lent, or not of that size.
    NotLent,
}

impl Pool {
    /// Counts and reports misuse of `size` bytes at `addr`, where no mapping is to be unmapped or synced.
    ///
    /// Unless they are lent: then there is nothing to undo and to copy, for they were mapped as they are.
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

    /// Counts and reports that `bytes` bytes at `addr` are given back which are not lent.
    #[cold]
    pub(super) fn not_lent(&self, addr: Phys, bytes: usize) {
        if self.is_first(Misuse::NotLent) {
            pr_err!("no memory is lent at {:#x}, {bytes} bytes\n", addr.raw());
        }
    }

    /// Counts one. Whether it is the first of its kind.
    fn is_first(&self, what: Misuse) -> bool {
        self.stats.misuse.add(1);
        !self.reported[what as usize].xchg(true, Relaxed)
    }
}
