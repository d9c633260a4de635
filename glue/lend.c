// SPDX-License-Identifier: GPL-2.0
/*
 * Lent memory for drivers, see include/linux/dma-lent.h; and for dm-crypt.
 */

#include <linux/cc_swiotlb.h>
#include <linux/dma-direct.h>
#include <linux/dma-lent.h>
#include <linux/dma-map-ops.h>
#include <linux/error-injection.h>
#include <linux/export.h>
#include <linux/io.h>
#include <linux/iommu-dma.h>
#include <linux/swiotlb.h>

/**
 * cc_swiotlb_bounces() - Whether private memory is bounced for a device.
 * @dev: Device that does DMA.
 *
 * Return: %false as well if it does not go through dma-direct, or if lent
 * memory is bounced too.
 */
bool cc_swiotlb_bounces(struct device *dev)
{
	return cc_swiotlb_enabled() && force_dma_unencrypted(dev) &&
		!is_swiotlb_force_bounce(dev) && dev_is_dma_coherent(dev) &&
		!use_dma_iommu(dev) && !get_dma_ops(dev);
}
EXPORT_SYMBOL_GPL(cc_swiotlb_bounces);

/**
 * cc_swiotlb_lend_buffer() - Lend a buffer whose pages others may refer to.
 * @size: Size in bytes.
 *
 * It is not zeroed, and contains what the host has seen before. Any context but
 * NMI.
 *
 * Return: Physical address, or 0 if there is none.
 */
phys_addr_t cc_swiotlb_lend_buffer(size_t size)
{
	return __cc_swiotlb_lend_buffer(size);
}
EXPORT_SYMBOL_GPL(cc_swiotlb_lend_buffer);

/**
 * cc_swiotlb_take_back_buffer() - Take a buffer back once its pages are unused.
 * @addr: Address from cc_swiotlb_lend_buffer(), or any other address.
 * @size: Size in bytes, as it was lent.
 *
 * Any context but NMI.
 *
 * Return: Whether the address belongs to cc_swiotlb.
 */
bool cc_swiotlb_take_back_buffer(phys_addr_t addr, size_t size)
{
	return __cc_swiotlb_take_back_buffer(addr, size);
}
EXPORT_SYMBOL_GPL(cc_swiotlb_take_back_buffer);

/**
 * dma_alloc_lent() - Allocate memory that a device reaches without bouncing.
 * @dev: Device that is going to access it.
 * @size: Size in bytes, at most 2 MiB; it is rounded up to pages of 4 KiB.
 * @dma_handle: Set to its address for the device.
 * @gfp: Whether the caller may sleep.
 *
 * For a driver that would otherwise map, and bounce, small objects again and
 * again. The memory is filled with zeroes. It may be mapped as well: that costs
 * no copy.
 *
 * Return: Address of the memory, or %NULL, always so where private memory is
 * not bounced; the driver does without it then.
 */
noinline void *dma_alloc_lent(struct device *dev, size_t size,
			      dma_addr_t *dma_handle, gfp_t gfp)
{
	phys_addr_t phys;

	if (!cc_swiotlb_bounces(dev))
		return NULL;
	phys = cc_swiotlb_lend_pages(dev_to_node(dev), size, gfp);
	if (!phys)
		return NULL;
	if (!dma_coherent_ok(dev, phys, size)) {
		cc_swiotlb_take_back(phys, size);
		return NULL;
	}
	*dma_handle = phys_to_dma_unencrypted(dev, phys);
	return phys_to_virt(phys);
}
EXPORT_SYMBOL_GPL(dma_alloc_lent);
ALLOW_ERROR_INJECTION(dma_alloc_lent, NULL);

/**
 * dma_free_lent() - Free memory that dma_alloc_lent() has allocated.
 * @cpu_addr: Address of the memory, no longer used by its device, or %NULL.
 * @size: Size that was asked for.
 */
void dma_free_lent(void *cpu_addr, size_t size)
{
	if (cpu_addr)
		cc_swiotlb_take_back(virt_to_phys(cpu_addr), size);
}
EXPORT_SYMBOL_GPL(dma_free_lent);
