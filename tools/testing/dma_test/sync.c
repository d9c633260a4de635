// SPDX-License-Identifier: GPL-2.0
/*
 * Partial syncs, and mappings that the driver syncs itself.
 */

#include <linux/sched.h>

#include "dma_test.h"

/*
 * The device writes everything, the driver asks for [offset, offset + len):
 * only that part of the original buffer may change.
 */
static void dt_check_sync_for_cpu(struct dt_map *m, size_t offset, size_t len)
{
	u32 written = dt_next_seed();

	dt_fill_cpu(m, m->seed);
	dt_fill_bounce(m, written, 0, m->size);
	dt_sync_for_cpu(m, offset, len);

	dt_check_cpu(m, m->seed, -DT_GUARD, offset, "before the synced part");
	dt_check_cpu(m, written, offset, offset + len, "the synced part");
	dt_check_cpu(m, m->seed, offset + len, m->size + DT_GUARD,
		     "after the synced part");
	dt_check_bounce(m, written, 0, m->size, "only read");
}

/*
 * The driver writes everything and hands over [offset, offset + len): only
 * that part of the bounce buffer may change.
 */
static void dt_check_sync_for_device(struct dt_map *m, size_t offset,
				     size_t len)
{
	u32 written = dt_next_seed(), before = dt_next_seed();

	dt_fill_bounce(m, before, 0, m->size);
	dt_fill_cpu(m, written);
	dt_sync_for_device(m, offset, len);

	dt_check_bounce(m, before, 0, offset, "before the synced part");
	dt_check_bounce(m, written, offset, offset + len, "the synced part");
	dt_check_bounce(m, before, offset + len, m->size,
			"after the synced part");
	dt_check_cpu(m, written, -DT_GUARD, m->size + DT_GUARD, "only read");
	m->seed = written;
}

/*
 * A sync against the direction of the mapping copies nothing. DMA_API_DEBUG
 * calls it a driver's fault, so it is not tried there.
 */
static void dt_check_sync_against(struct dt_map *m, size_t offset, size_t len)
{
	u32 written = dt_next_seed(), device = dt_next_seed();

	if (IS_ENABLED(CONFIG_DMA_API_DEBUG))
		return;

	dt_fill_cpu(m, written);
	dt_fill_bounce(m, device, 0, m->size);
	if (m->dir == DMA_TO_DEVICE)
		dt_sync_for_cpu(m, offset, len);
	else
		dt_sync_for_device(m, offset, len);
	dt_check_cpu(m, written, -DT_GUARD, m->size + DT_GUARD,
		     "sync against the direction");
	dt_check_bounce(m, device, 0, m->size, "sync against the direction");
	m->seed = written;
}

static void dt_one_range(struct dt_map *m, size_t offset, size_t len)
{
	if (m->dir != DMA_TO_DEVICE)
		dt_check_sync_for_cpu(m, offset, len);
	if (m->dir != DMA_FROM_DEVICE)
		dt_check_sync_for_device(m, offset, len);
	if (m->dir != DMA_BIDIRECTIONAL)
		dt_check_sync_against(m, offset, len);
}

static int dt_begin(struct dt *dt, struct dt_map *m, size_t offset, size_t size,
		    enum dma_data_direction dir)
{
	*m = (struct dt_map) {
		.dev = dt->dev,
		.cpu = dt->area + PAGE_SIZE + offset,
		.size = size,
		.dir = dir,
		.seed = dt_next_seed(),
	};
	dt_fill_cpu(m, m->seed);
	return dt_map(m);
}

/* Syncs do not end the mapping: the unmap still copies all of it. */
static void dt_end(struct dt_map *m)
{
	u32 last = dt_next_seed();

	dt_fill_bounce(m, last, 0, m->size);
	dt_unmap(m);
	dt_check_guards(m, m->seed);
	dt_check_cpu(m, m->dir == DMA_TO_DEVICE ? m->seed : last, 0, m->size,
		     "unmap after syncs");
}

/* Every part of a small mapping: 2080 parts of 64 bytes, in each direction. */
void dt_sync_every_range(struct dt *dt)
{
	static const unsigned int masks[] = { 0, 511, 4095 };
	size_t offset, len, size = dt_quick ? 12 : 64;
	unsigned int i, d;

	for (i = 0; i < ARRAY_SIZE(masks); i++) {
		dma_set_min_align_mask(dt->dev, masks[i]);
		for (d = 0; d < 3; d++) {
			struct dt_map m;

			/* With a mask, the mapping does not start its slot. */
			if (dt_begin(dt, &m, 333, size, dt_direction(d)))
				return;
			for (offset = 0; offset < size; offset++) {
				for (len = 1; offset + len <= size; len++)
					dt_one_range(&m, offset, len);
				cond_resched();
				if (dt_failed())
					break;
			}
			dt_end(&m);
		}
	}
}

/* Random parts of mappings of all sizes, at all offsets. */
void dt_sync_random_range(struct dt *dt)
{
	static const unsigned int masks[] = { 0, 511, 4095 };
	static const size_t sizes[] = {
		100, 512, 2047, 2048, 3000, 4096, 4097, 10000, 30000, SZ_64K,
		SZ_128K, 0 /* the largest */,
	};
	unsigned int i, s, d, n;

	for (i = 0; i < ARRAY_SIZE(masks) * ARRAY_SIZE(sizes); i++) {
		size_t size = sizes[i % ARRAY_SIZE(sizes)];
		unsigned int rounds;

		s = i / ARRAY_SIZE(sizes);
		dma_set_min_align_mask(dt->dev, masks[s]);
		if (!size)
			size = dma_max_mapping_size(dt->dev);
		rounds = dt_quick ? 2 : size > SZ_32K ? 8 : 64;

		for (d = 0; d < 3 && !dt_failed(); d++) {
			struct dt_map m;

			if (dt_begin(dt, &m, dt_below(dt, PAGE_SIZE), size,
				     dt_direction(d)))
				return;
			for (n = 0; n < rounds; n++) {
				size_t offset = dt_below(dt, size);

				dt_one_range(&m, offset,
					     1 + dt_below(dt, size - offset));
				cond_resched();
			}
			dt_end(&m);
		}
	}
}

/*
 * With DMA_ATTR_SKIP_CPU_SYNC an unmap copies nothing back, and the driver's
 * own syncs do. What such a mapping shows the device before its first sync is
 * the implementation's choice.
 */
void dt_skip_cpu_sync(struct dt *dt)
{
	static const size_t sizes[] = { 1, 512, 2049, SZ_4K, 30000, SZ_128K };
	unsigned int s, d;

	for (s = 0; s < ARRAY_SIZE(sizes); s++) {
		for (d = 0; d < 3 && !dt_failed(); d++) {
			size_t half = sizes[s] / 2;
			u32 written = dt_next_seed();
			struct dt_map m = {
				.dev = dt->dev,
				.cpu = dt->area + PAGE_SIZE + 64,
				.size = sizes[s],
				.dir = dt_direction(d),
				.attrs = DMA_ATTR_SKIP_CPU_SYNC,
				.seed = dt_next_seed(),
			};

			dt_fill_cpu(&m, m.seed);
			if (dt_map(&m))
				return;

			if (m.dir != DMA_FROM_DEVICE) {
				dt_sync_for_device(&m, 0, m.size);
				dt_check_bounce(&m, m.seed, 0, m.size,
						"synced by the driver");
			}

			dt_fill_bounce(&m, written, 0, m.size);
			if (m.dir != DMA_TO_DEVICE && half)
				dt_sync_for_cpu(&m, 0, half);
			dt_unmap(&m);

			if (m.dir != DMA_TO_DEVICE && half)
				dt_check_cpu(&m, written, 0, half,
					     "synced by the driver");
			else
				half = 0;
			dt_check_cpu(&m, m.seed, half, m.size,
				     "DMA_ATTR_SKIP_CPU_SYNC");
			dt_check_guards(&m, m.seed);
		}
	}
}

/*
 * A buffer of DMA_FROM_DEVICE that driver and device use in turn: the driver
 * looks at it, hands it back unchanged, and the device writes another part.
 * Handing it back must copy nothing, or the data that the device has written
 * meanwhile and before would be lost.
 */
void dt_sync_in_turn(struct dt *dt)
{
	static const size_t sizes[] = { 64, 512, 1500, SZ_4K, SZ_16K };
	unsigned int s;

	for (s = 0; s < ARRAY_SIZE(sizes) && !dt_failed(); s++) {
		size_t size = sizes[s], third = size / 3;
		u32 one = dt_next_seed(), two = dt_next_seed();
		struct dt_map m;

		if (dt_begin(dt, &m, 64, size, DMA_FROM_DEVICE))
			return;

		dt_fill_bounce(&m, one, 0, third);
		dt_sync_for_cpu(&m, 0, size);
		dt_check_cpu(&m, one, 0, third, "the device's first part");

		/* Before the driver hands it back: devices are fast. */
		dt_fill_bounce(&m, two, third, 2 * third);
		dt_sync_for_device(&m, 0, size);
		if (dt_fault == DT_FAULT_SYNC_BACK)
			memcpy(m.bounce, m.cpu, size);
		dt_check_bounce(&m, one, 0, third, "handed back");
		dt_check_bounce(&m, two, third, 2 * third, "handed back");

		dt_sync_for_cpu(&m, 0, size);
		dt_check_cpu(&m, one, 0, third, "the device's first part");
		dt_check_cpu(&m, two, third, 2 * third,
			     "the device's second part");
		dt_end(&m);
	}
}
