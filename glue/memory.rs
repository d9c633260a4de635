// SPDX-License-Identifier: GPL-2.0

//! Blocks of memory, and their conversion between private and shared.
//!
//! Each state of a block has a type of its own. A block whose conversion failed is in neither
//! state, as far as anybody can tell, and its conversion can only be tried again: a host that
//! refuses may have converted nothing, or a part. A block that is dropped in such a state, or while
//! it is shared, is leaked on purpose, as its pages must never be used again; alloc_dma_pages() in
//! swiotlb.c does the same.
//!
//! On SEV-SNP the kernel ends the guest at a refused page state change, so a refusal is never seen
//! here. On TDX the host may have converted a part before it refused.

use crate::pool::address::Phys;
use core::mem::ManuallyDrop;
use kernel::{
    bindings,
    page::PAGE_SHIFT,
    prelude::*, //
};

/// Memory that nobody but us can read, unless it is a part of one of the types below.
///
/// # Invariants
///
/// `base` is the start of a block of order `order`, which is ours.
pub(crate) struct PrivateMemory {
    base: Phys,
    order: u32,
}

impl PrivateMemory {
    /// Allocates memory, on `node` if possible. `bytes` is a power of two; the memory is aligned to
    /// it.
    ///
    /// May sleep: memory is compacted for it.
    pub(crate) fn new(node: usize, bytes: usize) -> Option<Self> {
        let node = c_int::try_from(node).ok()?;
        let order = bytes.trailing_zeros() - PAGE_SHIFT as u32;
        // SAFETY: Any node number will do: one that is not online is not passed on.
        let base = Phys::new(unsafe { bindings::cc_swiotlb_alloc_block(node, order) });
        // INVARIANT: Just allocated, with that order.
        (base.raw() != 0).then(|| Self { base, order })
    }

    /// Start of the memory.
    pub(crate) fn base(&self) -> Phys {
        self.base
    }

    fn bytes(&self) -> usize {
        1 << (PAGE_SHIFT as u32 + self.order)
    }

    fn vaddr(&self) -> *mut c_void {
        // SAFETY: The block is memory, which 64-bit kernels map as a whole.
        unsafe { bindings::cc_swiotlb_phys_to_virt(self.base.raw()) }
    }

    fn zero(&self) {
        // SAFETY: By the type invariant the block is ours and as large as that. Nobody else
        // accesses it but the host, which finds zeroes.
        unsafe { bindings::memset(self.vaddr(), 0, self.bytes()) };
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is ours and of that order. It is private, so that
        // anybody may use it: memory that is not, or may not be, is in a `ManuallyDrop`.
        unsafe { bindings::cc_swiotlb_free_block(self.base.raw(), self.order) };
    }
}

/// Memory in an unknown state.
///
/// Not freed when dropped: the host may reach it.
pub(crate) struct UnsureMemory(ManuallyDrop<PrivateMemory>);

/// Memory that the host can read and write.
///
/// Not freed when dropped: the host can reach it.
pub(crate) struct SharedMemory(ManuallyDrop<PrivateMemory>);

impl From<PrivateMemory> for UnsureMemory {
    fn from(memory: PrivateMemory) -> Self {
        // Private data is erased before the host can see it, whatever a conversion does.
        memory.zero();
        Self(ManuallyDrop::new(memory))
    }
}

impl UnsureMemory {
    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Shares the memory with the host, filled with zeroes.
    ///
    /// May sleep, and takes long: a confidential guest pays 10 to 400 ms for 2 MiB.
    pub(crate) fn share(self) -> Result<SharedMemory, Self> {
        // SAFETY: The range is a block of the direct map, page-aligned, and ours.
        if unsafe { bindings::cc_swiotlb_share(self.0.vaddr(), 1 << self.0.order) } != 0 {
            return Err(self);
        }
        // Conversion may leave anything in it, depending on the platform.
        self.0.zero();
        Ok(SharedMemory(self.0))
    }
}

impl SharedMemory {
    /// Start of the memory.
    pub(crate) fn base(&self) -> Phys {
        self.0.base()
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Makes the memory private again and frees it.
    ///
    /// May sleep, and takes long, as [`UnsureMemory::share`].
    ///
    /// # Safety
    ///
    /// Nobody else may access the memory any more.
    pub(crate) unsafe fn make_private(self) -> Result<(), UnsureMemory> {
        // Bounced data is erased before the pages change hands, whatever the conversion does.
        self.0.zero();
        // SAFETY: The range is a block of the direct map, page-aligned, and ours.
        if unsafe { bindings::cc_swiotlb_unshare(self.0.vaddr(), 1 << self.0.order) } != 0 {
            return Err(UnsureMemory(self.0));
        }
        // Conversion may leave anything in it, depending on the platform and the host.
        self.0.zero();
        drop(ManuallyDrop::into_inner(self.0));
        Ok(())
    }
}

/// Whether anybody but the owner refers to one of the pages of the `bytes` bytes at `addr`, which
/// are ours. Any context.
pub(crate) fn is_used(addr: Phys, bytes: usize) -> bool {
    // SAFETY: Reads reference counts in `struct page`, which all our memory has.
    unsafe { bindings::cc_swiotlb_is_used(addr.raw(), bytes) }
}

/// Milliseconds since boot. Any context but NMI.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: Reads a clock.
    unsafe { bindings::cc_swiotlb_now_ms() }
}

/// Number of page frames up to the last one that can ever be memory.
pub(crate) fn frames() -> usize {
    // SAFETY: Reads two numbers that are fixed after boot.
    unsafe { bindings::cc_swiotlb_nr_directory_pages() as usize }
}

/// Memory of the guest, in bytes.
pub(crate) fn ram_bytes() -> u64 {
    // SAFETY: Reads a counter.
    (unsafe { bindings::cc_swiotlb_ram_pages() } as u64) << PAGE_SHIFT
}

/// Size of the legacy pool in bytes.
pub(crate) fn legacy_bytes() -> u64 {
    // SAFETY: Reads what was set at boot.
    (unsafe { bindings::swiotlb_size_or_default() }) as u64
}

/// The NUMA node of a CPU.
pub(crate) fn node_of_cpu(cpu: u32) -> usize {
    // SAFETY: The caller's CPU exists.
    let node = unsafe { bindings::cc_swiotlb_cpu_to_node(cpu as c_int) };
    usize::try_from(node).unwrap_or(0)
}

/// Number of NUMA nodes, at least 1.
pub(crate) fn nodes() -> usize {
    // SAFETY: Reads a number that is fixed after boot.
    usize::try_from(unsafe { bindings::cc_swiotlb_nr_nodes() }).map_or(1, |count| count.max(1))
}

/// Whether slots are wanted on a NUMA node: it has CPUs.
pub(crate) fn node_has_cpus(node: usize) -> bool {
    // SAFETY: The number is below `nodes()`, or the answer is that there is no such node.
    node < nodes() && unsafe { bindings::cc_swiotlb_node_has_cpus(node as c_uint) }
}

/// Whether the legacy pool is there.
pub(crate) fn has_legacy_pool() -> bool {
    // SAFETY: Reads what was set at boot.
    unsafe { bindings::is_swiotlb_allocated() }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_clock)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_knows_single_milliseconds() {
        // The host may take the CPU for longer, but not always.
        let mut last_ms = now_ms();
        let mut steps = (0..100).map(|_| loop {
            let ms = now_ms();
            if ms != last_ms {
                return ms.wrapping_sub(core::mem::replace(&mut last_ms, ms));
            }
        });
        assert!(steps.any(|step| step == 1));
    }
}
