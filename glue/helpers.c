// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions and macros that cc_swiotlb calls from Rust. Included by
 * rust/helpers/helpers.c, so that they are inlined where the kernel is built
 * with RUST_INLINE_HELPERS.
 */

#ifdef CONFIG_CC_SWIOTLB

#include <linux/cpumask.h>
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/iommu-dma.h>
#include <linux/irqflags.h>
#include <linux/kmsan-checks.h>
#include <linux/mm.h>
#include <linux/page_ref.h>
#include <linux/preempt.h>
#include <linux/timekeeping.h>
#include <linux/topology.h>

__rust_helper void *rust_helper_cc_swiotlb_phys_to_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

__rust_helper void rust_helper_cc_swiotlb_copy(phys_addr_t to, phys_addr_t from, size_t size)
{
	memcpy(phys_to_virt(to), phys_to_virt(from), size);
}

/* Copies back what a device wrote, see swiotlb_bounce(). */
__rust_helper void
rust_helper_cc_swiotlb_copy_back(struct device *dev, phys_addr_t to, phys_addr_t from, size_t size)
{
	if (!dev_is_dma_coherent(dev))
		arch_sync_dma_flush();
	kmsan_unpoison_memory(phys_to_virt(from), size);
	memcpy(phys_to_virt(to), phys_to_virt(from), size);
}

/* Each page of a chunk has its own count, 1 if only we refer to it. */
__rust_helper bool rust_helper_cc_swiotlb_is_used(phys_addr_t phys, size_t size)
{
	struct page *page = phys_to_page(phys), *end = phys_to_page(phys + size - 1);

	while (page <= end && page_ref_count(page) == 1)
		page++;
	return page <= end;
}

/* dma_get_min_align_mask() and dma_get_seg_boundary() in one call. */
__rust_helper unsigned int
rust_helper_cc_swiotlb_constraints(struct device *dev, unsigned long *seg_boundary)
{
	*seg_boundary = dma_get_seg_boundary(dev);
	return dma_get_min_align_mask(dev);
}

/* Where the device sees shared memory, see swiotlb_map(). */
__rust_helper dma_addr_t
rust_helper_cc_swiotlb_dma_addr(struct device *dev, phys_addr_t phys)
{
	return phys_to_dma_unencrypted(dev, phys);
}

/* The address of the last byte of memory, as a device sees it when shared. */
__rust_helper dma_addr_t rust_helper_cc_swiotlb_last_dma_addr(phys_addr_t last)
{
	return dma_addr_unencrypted(last);
}

/* Whether the device has no pool of its own. */
__rust_helper bool rust_helper_cc_swiotlb_serves(struct device *dev)
{
	return !dev->dma_io_tlb_mem->for_alloc;
}

/* Whether it also reaches all up to @last, and needs nothing else. */
__rust_helper bool rust_helper_cc_swiotlb_reaches_all(struct device *dev, dma_addr_t last)
{
	return !dev->dma_io_tlb_mem->for_alloc &&
		!IS_ENABLED(CONFIG_ARCH_HAS_PHYS_TO_DMA) &&
		dev_is_dma_coherent(dev) &&
		*dev->dma_mask >= last && !dev->bus_dma_limit &&
		!dev->dma_range_map;
}

/* Behind an IOMMU the mask limits the IOVA, not where the memory is. */
__rust_helper u64 rust_helper_cc_swiotlb_dma_limit(struct device *dev)
{
	if (use_dma_iommu(dev))
		return U64_MAX;
	if (!dev->dma_mask)
		return 0;
	return min_not_zero(*dev->dma_mask, dev->bus_dma_limit);
}

__rust_helper void rust_helper_cc_swiotlb_reset_need_sync(struct device *dev)
{
	dma_reset_need_sync(dev);
}

__rust_helper unsigned long rust_helper_cc_swiotlb_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

__rust_helper void rust_helper_cc_swiotlb_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

__rust_helper unsigned int rust_helper_cc_swiotlb_online_cpus(void)
{
	return num_online_cpus();
}

__rust_helper bool rust_helper_cc_swiotlb_in_interrupt(void)
{
	return in_interrupt();
}

__rust_helper u64 rust_helper_cc_swiotlb_now_ms(void)
{
	return ktime_get_mono_fast_ns() / NSEC_PER_MSEC;
}

__rust_helper int rust_helper_cc_swiotlb_cpu_to_node(int cpu)
{
	return cpu_to_node(cpu);
}

#endif /* CONFIG_CC_SWIOTLB */
