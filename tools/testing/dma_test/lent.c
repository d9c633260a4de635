// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that drivers share with a device without a mapping: coherent
 * allocations, and mappings of such memory. Over cc_swiotlb in a confidential
 * guest it is lent; elsewhere it is what the kernel always did.
 */

#include <linux/cc_platform.h>
#include <linux/dma-direct.h>
#include <linux/slab.h>

#include "dma_test.h"

#define DT_LENT		64

/* Whether memory is lent here, and not converted for each allocation. */
static bool dt_lends(struct dt *dt)
{
	return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT) &&
		dma_max_mapping_size(dt->dev) >= DT_SIZE_LIMIT;
}

static bool dt_is_zero(const u8 *bytes, size_t size)
{
	return !memchr_inv(bytes, 0, size);
}

static void dt_one_coherent(struct dt *dt, size_t size, gfp_t gfp)
{
	size_t whole = PAGE_ALIGN(size);
	dma_addr_t dma;
	u8 *cpu;

	cpu = dma_alloc_coherent(dt->dev, size, &dma, gfp);
	if (!dt_expect(cpu, "no %zu bytes, gfp %#x", size, gfp))
		return;
	if (dt_fault == DT_FAULT_LEAK)
		cpu[whole - 1] = 1;
	dt_expect(dt_is_zero(cpu, whole), "%zu bytes are not zeroed", size);
	dt_expect(!(dma & ((PAGE_SIZE << get_order(size)) - 1)),
		  "%zu bytes at %pad are not aligned", size, &dma);
	dt_expect(dt_device_view(dt->dev, dma) == cpu,
		  "the device sees something else at %pad", &dma);
	memset(cpu, 0xa5, whole);
	dma_free_coherent(dt->dev, size, cpu, dma);
}

/* Coherent memory of all sizes is zeroed, aligned, and seen by the device. */
void dt_coherent(struct dt *dt)
{
	static const size_t sizes[] = {
		1, SZ_4K, SZ_4K + 1, 3 * SZ_4K, SZ_16K, SZ_64K, SZ_64K + 512,
		SZ_256K, SZ_512K, SZ_512K + 1, SZ_1M, SZ_2M - 1, SZ_2M, SZ_4M,
	};
	unsigned int i, round;

	for (round = 0; round < 3 && !dt_failed(); round++) {
		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			dt_one_coherent(dt, sizes[i], GFP_KERNEL);
			/* The atomic pools are small. */
			if (sizes[i] <= (dt_lends(dt) ? SZ_256K : SZ_16K))
				dt_one_coherent(dt, sizes[i], GFP_ATOMIC);
		}
	}
}

/* Many allocations in atomic context, at the same time, do not overlap. */
void dt_coherent_atomic(struct dt *dt)
{
	struct {
		dma_addr_t dma;
		u8 *cpu;
		size_t size;
	} *all;
	/* Without lending, as many as the smallest atomic pool holds. */
	unsigned int i, n, most = dt_lends(dt) ? DT_LENT : 4;

	all = kcalloc(DT_LENT, sizeof(*all), GFP_KERNEL);
	if (!dt_expect(all, "no memory"))
		return;
	for (n = 0; n < most; n++) {
		all[n].size = (1 + dt_below(dt, 4)) * SZ_4K;
		all[n].cpu = dma_alloc_coherent(dt->dev, all[n].size,
						&all[n].dma, GFP_ATOMIC);
		if (!dt_expect(all[n].cpu, "only %u of %u", n, most))
			break;
		dt_expect(dt_is_zero(all[n].cpu, all[n].size), "not zeroed");
		memset(all[n].cpu, n + 1, all[n].size);
	}
	if (dt_fault == DT_FAULT_OVERLAP && n)
		all[0].cpu[all[0].size - 1] = 0;
	for (i = 0; i < n; i++) {
		dt_expect(!memchr_inv(all[i].cpu, i + 1, all[i].size),
			  "number %u was overwritten", i);
		dma_free_coherent(dt->dev, all[i].size, all[i].cpu, all[i].dma);
	}
	kfree(all);
}

/* Lent memory is mapped as it is, and unmap and sync leave it alone. */
void dt_lent_mapping(struct dt *dt)
{
	static const size_t sizes[] = { SZ_4K, 5 * SZ_4K, SZ_512K, SZ_1M };
	unsigned int i, n;

	if (!dt_lends(dt)) {
		dt_skip("nothing is lent here");
		return;
	}
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		dma_addr_t own, dma;
		struct page *page;
		u8 *cpu;

		page = dma_alloc_pages(dt->dev, sizes[i], &own,
				       DMA_BIDIRECTIONAL, GFP_KERNEL);
		if (!dt_expect(page, "no %zu bytes", sizes[i]))
			return;
		cpu = page_address(page);
		for (n = 0; n < 30; n++) {
			size_t offset = n ? dt_below(dt, sizes[i]) : 0;
			size_t size = n ? 1 + dt_below(dt, sizes[i] - offset) :
				sizes[i];
			enum dma_data_direction dir = dt_direction(n);

			memset(cpu, n, sizes[i]);
			dma = dma_map_single(dt->dev, cpu + offset, size, dir);
			if (!dt_expect(!dma_mapping_error(dt->dev, dma),
				       "%zu bytes are refused", size))
				break;
			dt_expect(dma == own + offset,
				  "%zu bytes are at %pad, not at %pad + %zu",
				  size, &dma, &own, offset);
			/* The device writes while the CPU has it. */
			cpu[offset] = ~n;
			/* DMA_API_DEBUG takes the allocation for the mapping. */
			if (!IS_ENABLED(CONFIG_DMA_API_DEBUG)) {
				dma_sync_single_for_device(dt->dev, dma, size,
							   dir);
				dma_sync_single_for_cpu(dt->dev, dma, size,
							dir);
			}
			dma_unmap_single(dt->dev, dma, size, dir);
			if (dt_fault == DT_FAULT_COPY_BACK)
				cpu[offset] = n;
			dt_expect(cpu[offset] == (u8)~n,
				  "something was copied");
		}
		dma_free_pages(dt->dev, sizes[i], page, own, DMA_BIDIRECTIONAL);
	}
}

/*
 * Memory that is freed twice, or at a wrong address, is not lent twice, and
 * memory that is still lent stays so.
 */
void dt_free_twice(struct dt *dt)
{
	u8 *all[DT_LENT] = {}, *cpu, *other;
	dma_addr_t dma, other_dma, dmas[DT_LENT];
	unsigned int i;

	if (!dt_lends(dt)) {
		dt_skip("nothing is lent here");
		return;
	}
	other = dma_alloc_coherent(dt->dev, SZ_4K, &other_dma, GFP_KERNEL);
	cpu = dma_alloc_coherent(dt->dev, SZ_16K, &dma, GFP_KERNEL);
	if (!dt_expect(cpu && other, "no memory"))
		return;
	memset(other, 0xee, SZ_4K);
	/* Free a part of it, too much, all of it, and all of it again. */
	dma_free_coherent(dt->dev, SZ_4K, cpu + SZ_4K, dma + SZ_4K);
	dma_free_coherent(dt->dev, SZ_32K, cpu, dma);
	for (i = 0; i < 3; i++)
		dma_free_coherent(dt->dev, SZ_16K, cpu, dma);

	for (i = 0; i < DT_LENT; i++) {
		all[i] = dma_alloc_coherent(dt->dev, SZ_4K, &dmas[i],
					    GFP_KERNEL);
		if (!dt_expect(all[i], "only %u of %u", i, DT_LENT))
			break;
		memset(all[i], i, SZ_4K);
	}
	dt_expect(!memchr_inv(other, 0xee, SZ_4K), "lent twice");
	dma_free_coherent(dt->dev, SZ_4K, other, other_dma);
	for (i = 0; i < DT_LENT && all[i]; i++) {
		dt_expect(!memchr_inv(all[i], i, SZ_4K), "%u is lent twice", i);
		dma_free_coherent(dt->dev, SZ_4K, all[i], dmas[i]);
	}
}
