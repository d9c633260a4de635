// SPDX-License-Identifier: GPL-2.0
/*
 * Behind an IOMMU: a device that is not trusted.
 *
 * dma-iommu bounces buffers that do not start and end with a page, so that such
 * a device cannot see their neighbours. It aligns bounce buffers to the IOMMU's
 * granule and clears the part of it that the mapping does not use.
 *
 * The device is QEMU's "edu". It has no driver, and takes no part: the module
 * sees the memory that the device would see, through the IOMMU's page tables.
 */

#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/pci.h>
#include <linux/sched.h>

#include "dma_test.h"

#define DT_EDU_VENDOR	0x1234
#define DT_EDU_DEVICE	0x11e8

/**
 * dt_iommu_device() - find the device, and mark it as untrusted
 *
 * Return: the device, with a reference, or NULL when there is none behind an
 * IOMMU.
 */
struct pci_dev *dt_iommu_device(void)
{
	struct pci_dev *pdev = pci_get_device(DT_EDU_VENDOR, DT_EDU_DEVICE, NULL);
	struct iommu_domain *domain;

	if (!pdev)
		return NULL;
	domain = iommu_get_domain_for_dev(&pdev->dev);
	if (!domain || !(domain->type & __IOMMU_DOMAIN_DMA_API)) {
		pci_dev_put(pdev);
		return NULL;
	}
	pdev->untrusted = 1;
	return pdev;
}

/* The memory that the device finds at an address, up to the end of the page. */
static u8 *dt_iommu_view(struct device *dev, dma_addr_t dma)
{
	phys_addr_t phys;

	phys = iommu_iova_to_phys(iommu_get_domain_for_dev(dev), dma);
	return phys ? phys_to_virt(phys) : NULL;
}

/* The device sees only zeroes in the rest of the first and of the last page. */
static void dt_check_padding(struct dt_map *m)
{
	size_t before = offset_in_page(m->dma);
	size_t after = -(m->dma + m->size) & ~PAGE_MASK;

	if (dt_fault == DT_FAULT_LEAK && after)
		m->bounce[m->size] = m->cpu[m->size] | 1;
	dt_expect(!memchr_inv(m->bounce - before, 0, before),
		  "%zu bytes at %pad: bytes before it can be seen", m->size,
		  &m->dma);
	dt_expect(!memchr_inv(m->bounce + m->size, 0, after),
		  "%zu bytes at %pad: bytes after it can be seen", m->size,
		  &m->dma);
}

static void dt_one_untrusted(struct dt_map *m)
{
	u32 filled = dt_next_seed(), written = dt_next_seed();
	unsigned int mask = dma_get_min_align_mask(m->dev);
	dma_addr_t dma;

	dt_fill_cpu(m, filled);
	dma = dma_map_single(m->dev, m->cpu, m->size, m->dir);
	if (!dt_expect(!dma_mapping_error(m->dev, dma), "%zu bytes refused",
		       m->size))
		return;

	m->dma = dma;
	m->bounce = dt_iommu_view(m->dev, dma);
	if (dt_fault == DT_FAULT_UNBOUNCED)
		m->bounce = m->cpu;
	dt_expect(m->bounce && m->bounce != m->cpu, "%zu bytes are not bounced",
		  m->size);
	if (dt_fault == DT_FAULT_ALIGN)
		dma += 512;
	dt_expect(!((dma ^ virt_to_phys(m->cpu)) & mask),
		  "%zu bytes: min_align_mask %#x not kept by %pad", m->size,
		  mask, &dma);

	dt_check_copied_in(m, filled);
	dt_check_padding(m);
	dt_fill_bounce(m, written, 0, m->size);
	/* An untrusted device writes beside the mapping. */
	memset(m->bounce - offset_in_page(m->dma), 0x5a, offset_in_page(m->dma));
	dt_unmap(m);

	dt_check_guards(m, filled);
	dt_check_cpu(m, m->dir == DMA_TO_DEVICE ? filled : written, 0, m->size,
		     "unmapped");
}

/* All offsets in a page, with each mask; whole pages are not bounced. */
void dt_untrusted(struct dt *dt)
{
	static const size_t sizes[] = {
		1, 511, 512, 3000, 4095, 4097, 9000, 70001,
	};
	static const unsigned int masks[] = { 0, 511, 4095 };
	unsigned int i, s, n = 0;
	size_t offset;

	for (i = 0; i < ARRAY_SIZE(masks); i++) {
		dma_set_min_align_mask(dt->dev, masks[i]);
		for (offset = 0; offset < PAGE_SIZE && !dt_failed();
		     offset += dt_quick ? 517 : 41) {
			for (s = 0; s < ARRAY_SIZE(sizes); s++) {
				struct dt_map m = {
					.dev = dt->dev,
					.cpu = dt->area + PAGE_SIZE + offset,
					.size = sizes[s],
					.dir = dt_direction(n++),
				};

				dt_one_untrusted(&m);
			}
			cond_resched();
		}
	}
}

/* The device writes @seed's bytes, page by page as its page tables have them. */
static bool dt_linked_write(struct dt_map *m, u32 seed)
{
	const u8 *pattern = dt_pattern(seed);
	size_t done, part;

	for (done = 0; done < m->size; done += part) {
		u8 *view = dt_iommu_view(m->dev, m->dma + done);

		part = min(m->size - done,
			   PAGE_SIZE - offset_in_page(m->dma + done));
		if (!dt_expect(view, "%zu bytes: nothing at byte %zu", m->size,
			       done))
			return false;
		if (memcmp(view, m->cpu + done, part)) {
			dt_report("%zu bytes: byte %zu is not what was linked",
				  m->size, done);
			return false;
		}
		memcpy(view, pattern + done, part);
	}
	return true;
}

static void dt_one_linked(struct dt_map *m)
{
	u32 filled = dt_next_seed(), written = dt_next_seed();
	phys_addr_t phys = virt_to_phys(m->cpu);
	struct dma_iova_state state = {};
	int ret;

	dt_fill_cpu(m, filled);
	if (!dt_expect(dma_iova_try_alloc(m->dev, &state, phys, m->size),
		       "no address for %zu bytes", m->size))
		return;
	m->dma = state.addr;
	ret = dma_iova_link(m->dev, &state, phys, 0, m->size, m->dir, 0);
	if (!dt_expect(!ret, "%zu bytes cannot be linked: %d", m->size, ret)) {
		dma_iova_free(m->dev, &state);
		return;
	}
	ret = dma_iova_sync(m->dev, &state, 0, m->size);
	dt_expect(!ret, "%zu bytes cannot be synced: %d", m->size, ret);

	dt_linked_write(m, written);
	dma_iova_destroy(m->dev, &state, m->size, m->dir, 0);
	if (dt_fault == DT_FAULT_COPY_BACK)
		m->cpu[m->size - 1] ^= 0xff;
	dt_check_guards(m, filled);
	dt_check_cpu(m, written, 0, m->size, "linked");
}

/*
 * A linked range has a bounced start, a middle of whole pages that is mapped as
 * it is, and a bounced end. Each of them may be missing.
 */
void dt_linked(struct dt *dt)
{
	static const struct {
		size_t offset;
		size_t size;
	} ranges[] = {
		{ 100, 200 },		/* within a page */
		{ 100, 5000 },		/* start and end, no middle */
		{ 4000, 96 + 4000 },	/* the same, an end of almost a page */
		{ 100, 12000 },		/* all three */
		{ 0, 5000 },		/* no start */
		{ 100, 3996 + 8192 },	/* no end */
		{ 0, 8192 },		/* nothing is bounced */
	};
	unsigned int i;

	/* Drivers that link ranges keep the offset in a page. */
	dma_set_min_align_mask(dt->dev, SZ_4K - 1);
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		struct dt_map m = {
			.dev = dt->dev,
			.cpu = dt->area + PAGE_SIZE + ranges[i].offset,
			.size = ranges[i].size,
			.dir = DMA_FROM_DEVICE,
		};

		dt_one_linked(&m);
		m.dir = DMA_BIDIRECTIONAL;
		dt_one_linked(&m);
	}
}
