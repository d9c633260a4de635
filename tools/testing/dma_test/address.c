// SPDX-License-Identifier: GPL-2.0
/*
 * Where a bounce buffer may lie, and how large it may be.
 */

#include <linux/cc_platform.h>
#include <linux/platform_device.h>
#include <linux/sched.h>

#include "dma_test.h"

/* No mapping crosses the device's segment boundary. */
void dt_seg_boundary(struct dt *dt)
{
	static const unsigned long boundaries[] = {
		SZ_4K - 1, SZ_8K - 1, SZ_64K - 1, SZ_1M - 1, U32_MAX,
	};
	unsigned int b, n, rounds = dt_quick ? 32 : 512;

	for (b = 0; b < ARRAY_SIZE(boundaries) && !dt_failed(); b++) {
		size_t limit;

		dma_set_seg_boundary(dt->dev, boundaries[b]);
		limit = min(boundaries[b] + 1, dma_max_mapping_size(dt->dev));

		for (n = 0; n < rounds && !dt_failed(); n++) {
			struct dt_map m = {
				.dev = dt->dev,
				.cpu = dt->area + PAGE_SIZE +
				       dt_below(dt, PAGE_SIZE),
				.size = n ? 1 + dt_below(dt, limit) : limit,
				.dir = dt_direction(n),
			};

			dt_round_trip(&m, 0, m.size / 2);
			cond_resched();
		}
	}
}

/*
 * A mapping that is larger than the maximum is refused: an error, no warning
 * from the kernel, and the next mapping works.
 */
void dt_oversize(struct dt *dt)
{
	static const unsigned int masks[] = { 0, 511, 4095 };
	unsigned int i, s;

	for (i = 0; i < ARRAY_SIZE(masks); i++) {
		size_t most, max, sizes[4];
		struct dt_map m = {
			.dev = dt->dev,
			.cpu = dt->area + PAGE_SIZE,
			.dir = DMA_BIDIRECTIONAL,
		};

		/*
		 * With an alignment mask, the reported maximum is a safe size;
		 * some larger ones fit. Nothing fits that is larger than the
		 * maximum without a mask.
		 */
		dma_set_min_align_mask(dt->dev, 0);
		most = dma_max_mapping_size(dt->dev);
		dma_set_min_align_mask(dt->dev, masks[i]);
		max = dma_max_mapping_size(dt->dev);
		dt_expect(max <= most && max + 2 * PAGE_SIZE > most,
			  "largest mapping is %zu with mask %u, %zu without",
			  max, masks[i], most);

		sizes[0] = most + 1;
		sizes[1] = most + PAGE_SIZE;
		sizes[2] = most + SZ_256K;
		sizes[3] = SZ_1M - 3 * PAGE_SIZE;
		for (s = 0; s < ARRAY_SIZE(sizes); s++) {
			m.size = sizes[s];
			dt_expect(dt_map_oversize(&m) == 0,
				  "%zu bytes are mapped, %zu is the largest",
				  m.size, max);
		}

		m.size = max;
		dt_round_trip(&m, 0, max);
	}
}

/* A device that reaches only 32 bits is given no address beyond them. */
void dt_dma_mask(struct dt *dt)
{
	unsigned int n;

	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		dt_skip("shared memory may have no 32-bit address");
		return;
	}

	if (dma_set_mask(dt->dev, DMA_BIT_MASK(32))) {
		dt_skip("32-bit DMA is not supported");
		return;
	}

	for (n = 0; n < 256 && !dt_failed(); n++) {
		struct dt_map m = {
			.dev = dt->dev,
			.cpu = dt->area + PAGE_SIZE,
			.size = 1 + dt_below(dt, SZ_128K),
			.dir = dt_direction(n),
		};

		dt_round_trip(&m, 0, m.size);
		cond_resched();
	}

	dt_expect(!dma_set_mask(dt->dev, DMA_BIT_MASK(64)), "64-bit DMA");
}

/* A bounced mapping needs its syncs, whatever the device was told before. */
void dt_need_sync(struct dt *dt)
{
	static const size_t sizes[] = { 1, 512, SZ_4K, SZ_64K };
	unsigned int s, d;

	for (s = 0; s < ARRAY_SIZE(sizes); s++) {
		for (d = 0; d < 3; d++) {
			struct dt_map m = {
				.dev = dt->dev,
				.cpu = dt->area + PAGE_SIZE,
				.size = sizes[s],
				.dir = dt_direction(d),
			};
			bool need;

			dt_fill_cpu(&m, 1);
			if (dt_map(&m))
				return;
			need = dma_need_sync(dt->dev, m.dma);
			if (dt_fault == DT_FAULT_NEED_SYNC)
				need = false;
			dt_expect(need, "%zu bytes need no sync", m.size);
			dt_unmap(&m);
		}
	}
}

/*
 * A driver that is content with the mask that its bus has set never calls
 * dma_set_mask(). Its mappings need their syncs all the same.
 */
void dt_no_mask_set(struct dt *dt)
{
	struct platform_device_info info = {
		.name = "cc_swiotlb_dma_test_plain",
		.id = PLATFORM_DEVID_NONE,
		.dma_mask = DMA_BIT_MASK(64),
	};
	struct platform_device *pdev = platform_device_register_full(&info);
	unsigned int d;

	if (!dt_expect(!IS_ERR(pdev), "no device"))
		return;
	for (d = 0; d < 3; d++) {
		u32 written = dt_next_seed();
		struct dt_map m = {
			.dev = &pdev->dev,
			.cpu = dt->area + PAGE_SIZE,
			.size = 3000,
			.dir = dt_direction(d),
			.seed = dt_next_seed(),
		};
		bool need;

		dt_fill_cpu(&m, m.seed);
		if (dt_map(&m))
			break;
		need = dma_need_sync(m.dev, m.dma);
		if (dt_fault == DT_FAULT_NEED_SYNC)
			need = false;
		dt_expect(need, "no sync is needed, direction %d", m.dir);
		if (m.dir != DMA_TO_DEVICE) {
			dt_fill_bounce(&m, written, 0, m.size);
			dt_sync_for_cpu(&m, 0, m.size);
			dt_check_cpu(&m, written, 0, m.size, "synced");
		}
		dt_unmap(&m);
	}
	platform_device_unregister(pdev);
}
