// SPDX-License-Identifier: GPL-2.0

//! Chunks of memory, and their conversion between private and shared.
//!
//! A block is either private or shared, and is of another type in each state. A block whose
//! conversion failed is in neither. If it can be made private it is freed, otherwise it is leaked on
//! purpose, for its pages must never be used again: as alloc_dma_pages() in swiotlb.c does it.

use crate::pool::{
    address::Phys,
    class::{
        CHUNK_BYTES,
        CHUNK_SHIFT, //
    },
};
use core::{
    mem,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    page::PAGE_SHIFT,
    prelude::*, //
};

const ORDER: u32 = CHUNK_SHIFT - PAGE_SHIFT as u32;
const PAGES: c_int = (CHUNK_BYTES >> PAGE_SHIFT) as c_int;

/// The pages of a chunk.
///
/// # Invariants
///
/// `page` is the first of a block of order [`ORDER`], which is ours.
struct Block {
    page: NonNull<bindings::page>,
}

// SAFETY: Pages can be used and freed on any CPU.
unsafe impl Send for Block {}

// SAFETY: All that can be done by a shared reference is to read the address.
unsafe impl Sync for Block {}

impl Block {
    fn base(&self) -> Phys {
        // SAFETY: By the type invariant, `page` is a valid page.
        Phys::new(unsafe { bindings::cc_swiotlb_page_to_phys(self.page.as_ptr()) })
    }

    fn vaddr(&self) -> *mut c_void {
        // SAFETY: The block is memory, which 64-bit kernels map as a whole.
        unsafe { bindings::cc_swiotlb_phys_to_virt(self.base().raw()) }
    }

    fn zero(&self) {
        // SAFETY: By the type invariant the block is ours and as large as that. Nobody else
        // accesses it but the host, which finds zeroes.
        unsafe { bindings::memset(self.vaddr(), 0, CHUNK_BYTES) };
    }
}

/// Memory that nobody but us can read.
pub(crate) struct PrivateChunk {
    block: Block,
}

/// Memory that the host can read and write.
///
/// Not freed when dropped: the host can reach it.
pub(crate) struct SharedChunk {
    block: Block,
}

/// A conversion failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotShared {
    /// The memory is private, and freed.
    Freed(Error),
    /// The memory is lost.
    Leaked(Error),
}

impl PrivateChunk {
    /// Allocates a chunk, on `node` if possible.
    ///
    /// May sleep. Tries not too hard: [`None`] is common when memory is short or fragmented.
    pub(crate) fn new(node: usize) -> Option<Self> {
        let node = c_int::try_from(node).ok()?;
        // SAFETY: Any node number will do: one that is not online is not passed on.
        let page = unsafe { bindings::cc_swiotlb_alloc_block(node, ORDER) };
        // INVARIANT: Just allocated, with that order.
        let block = Block {
            page: NonNull::new(page)?,
        };
        Some(Self { block })
    }

    /// Start of the chunk.
    pub(crate) fn base(&self) -> Phys {
        self.block.base()
    }

    /// Shares the chunk with the host, filled with zeroes.
    ///
    /// May sleep, and takes long: a confidential guest pays 10 to 100 ms for it.
    pub(crate) fn share(self) -> Result<SharedChunk, NotShared> {
        // What is private is gone before the host can look, whatever the conversion does to it.
        self.block.zero();
        // SAFETY: The range is a block of the direct map, page-aligned, and ours.
        let ret = unsafe { bindings::cc_swiotlb_share(self.block.vaddr(), PAGES) };
        if ret != 0 {
            let error = Error::from_errno(ret);
            // SAFETY: As above.
            if unsafe { bindings::cc_swiotlb_unshare(self.block.vaddr(), PAGES) } == 0 {
                return Err(NotShared::Freed(error));
            }
            // In neither state: leaked.
            mem::forget(self);
            return Err(NotShared::Leaked(error));
        }
        // Conversion leaves anything in it, depending on the platform.
        self.block.zero();
        Ok(SharedChunk {
            block: self.into_block(),
        })
    }

    /// The block, which is not freed with `self`.
    fn into_block(self) -> Block {
        let chunk = mem::ManuallyDrop::new(self);
        // INVARIANT: The same block; `chunk` is not used again.
        Block {
            page: chunk.block.page,
        }
    }
}

impl SharedChunk {
    /// Start of the chunk.
    pub(crate) fn base(&self) -> Phys {
        self.block.base()
    }

    /// Makes the chunk private again and frees it. If that fails it is lost: nobody knows what state
    /// it is in.
    ///
    /// May sleep, and takes long, as [`PrivateChunk::share`].
    ///
    /// # Safety
    ///
    /// Nobody else may access the chunk any more.
    pub(crate) unsafe fn unshare(self) -> Result {
        // What was bounced is gone before the pages change hands, whatever the conversion does.
        self.block.zero();
        // SAFETY: The range is a block of the direct map, page-aligned, and ours.
        let ret = unsafe { bindings::cc_swiotlb_unshare(self.block.vaddr(), PAGES) };
        if ret != 0 {
            // In neither state: leaked, as there is no `Drop`.
            return Err(Error::from_errno(ret));
        }
        let chunk = PrivateChunk { block: self.block };
        // Conversion leaves anything in it, depending on the platform and the host.
        chunk.block.zero();
        Ok(())
    }
}

impl Drop for PrivateChunk {
    fn drop(&mut self) {
        // SAFETY: By the type invariant of `Block` it is ours and of that order; it is private,
        // so that anybody may use it.
        unsafe { bindings::__free_pages(self.block.page.as_ptr(), ORDER) };
    }
}

/// Page frames up to the last one that can ever be memory.
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
#[inline]
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
