// SPDX-License-Identifier: GPL-2.0
/*
 * Mistakes of a faulty driver. swiotlb does not survive them, so they are not
 * among the cases that run over both implementations.
 *
 * Each case breaks a rule of the DMA API on purpose, then checks that no byte
 * outside a mapping changed, that other mappings go on, and that no slot is
 * handed out twice. The messages in the kernel log are checked from outside.
 */

#include <linux/slab.h>

#include "dma_test.h"

#define DT_WITNESSES	96

static struct dt_map dt_victim_at(struct dt *dt, size_t offset, size_t size)
{
	struct dt_map m = {
		.dev = dt->dev,
		.cpu = dt->area + offset,
		.size = size,
		.dir = DMA_BIDIRECTIONAL,
		.seed = dt_next_seed(),
	};

	dt_fill_cpu(&m, m.seed);
	return m;
}

static struct dt_map dt_victim(struct dt *dt, size_t size)
{
	return dt_victim_at(dt, PAGE_SIZE, size);
}

/*
 * Many mappings of one size: when a slot is in a free list twice, two of them
 * share it.
 */
static void dt_check_slots(struct dt *dt, size_t size)
{
	struct dt_map *maps;
	int i, n = 0;

	maps = kzalloc_objs(*maps, DT_WITNESSES);
	if (!dt_expect(maps, "no memory"))
		return;

	for (n = 0; n < DT_WITNESSES; n++) {
		struct dt_map *m = &maps[n];

		*m = dt_victim_at(dt, SZ_512K, size);
		m->dir = DMA_TO_DEVICE;
		if (dt_map(m))
			break;
		dt_fill_bounce(m, m->seed, 0, size);
		if (dt_fault == DT_FAULT_OVERLAP && n == 5)
			m->bounce = maps[4].bounce;
	}

	for (i = 0; i < n; i++) {
		dt_check_bounce(&maps[i], maps[i].seed, 0, size,
				"alone in its slot");
		dt_unmap(&maps[i]);
	}
	kfree(maps);
}

/* A second unmap changes nothing, and frees nothing. */
void dt_double_unmap(struct dt *dt)
{
	struct dt_map m = dt_victim(dt, SZ_4K);
	u32 after = dt_next_seed();
	int i;

	if (dt_map(&m))
		return;
	dt_fill_bounce(&m, dt_next_seed(), 0, m.size);
	dt_unmap(&m);

	dt_fill_cpu(&m, after);
	for (i = 0; i < 3; i++)
		dt_unmap(&m);
	dt_check_cpu(&m, after, -DT_GUARD, m.size + DT_GUARD, "second unmap");
	dt_check_slots(dt, SZ_4K);
}

/* An unmap that names the middle of a mapping leaves the mapping alone. */
void dt_unmap_inside(struct dt *dt)
{
	struct dt_map m = dt_victim(dt, SZ_4K);
	u32 written = dt_next_seed();

	if (dt_map(&m))
		return;
	dt_fill_bounce(&m, written, 0, m.size);

	dma_unmap_single(m.dev, m.dma + 128, 512, m.dir);
	dt_check_cpu(&m, m.seed, -DT_GUARD, m.size + DT_GUARD,
		     "unmap of its middle");
	dt_check_slots(dt, SZ_4K);
	dt_check_bounce(&m, written, 0, m.size, "still mapped");

	dt_unmap(&m);
	dt_check_guards(&m, m.seed);
	dt_check_cpu(&m, written, 0, m.size, "still mapped");
}

/*
 * An unmap of a slot that no mapping has. Of five 128 KiB mappings at least one
 * has a neighbour that is free: nothing else in a test guest is that large.
 */
void dt_unmap_never_mapped(struct dt *dt)
{
	struct dt_map maps[5];
	dma_addr_t wrong = 0;
	int i, j, n;

	for (n = 0; n < ARRAY_SIZE(maps); n++) {
		maps[n] = dt_victim(dt, SZ_128K);
		maps[n].dir = DMA_TO_DEVICE;
		if (dt_map(&maps[n]))
			break;
		dt_fill_bounce(&maps[n], maps[n].seed, 0, SZ_128K);
	}

	for (i = 0; i < n; i++) {
		dma_addr_t next = maps[i].dma ^ SZ_128K;

		for (j = 0; j < n && maps[j].dma != next; j++)
			;
		if (j == n)
			wrong = next;
	}

	if (dt_expect(wrong, "no free neighbour"))
		dma_unmap_single(dt->dev, wrong, SZ_128K, DMA_BIDIRECTIONAL);

	for (i = 0; i < n; i++) {
		dt_check_bounce(&maps[i], maps[i].seed, 0, SZ_128K,
				"alone in its slot");
		dt_unmap(&maps[i]);
	}
}

/* Bytes past the end of a mapping are not copied, in any direction. */
void dt_sync_past_end(struct dt *dt)
{
	struct dt_map m = dt_victim(dt, 1000);
	u32 written = dt_next_seed(), again = dt_next_seed();
	size_t past = 24;

	if (dt_map(&m))
		return;

	memset(m.bounce + m.size, 0x5a, past);
	dt_fill_bounce(&m, written, 0, m.size);
	dt_sync_for_cpu(&m, 500, 500 + past);
	dt_check_guards(&m, m.seed);
	dt_check_cpu(&m, m.seed, 0, 500, "before the synced part");

	dt_fill_cpu(&m, again);
	dt_sync_for_device(&m, 500, 500 + past);
	dt_expect(!memchr_inv(m.bounce + m.size, 0x5a, past),
		  "bytes after the mapping are shared");

	dt_fill_bounce(&m, written, 0, m.size);
	dma_unmap_single(m.dev, m.dma, m.size + past, m.dir);
	if (dt_fault == DT_FAULT_OVERRUN)
		m.cpu[m.size] ^= 0xff;
	dt_check_guards(&m, again);
	dt_check_slots(dt, 1000);
}

/* A sync of a buffer that is no longer mapped changes nothing. */
void dt_sync_unmapped(struct dt *dt)
{
	struct dt_map m = dt_victim(dt, SZ_2K);
	u32 after = dt_next_seed();

	if (dt_map(&m))
		return;
	dt_fill_bounce(&m, dt_next_seed(), 0, m.size);
	dt_unmap(&m);

	dt_fill_cpu(&m, after);
	dt_sync_for_cpu(&m, 0, m.size);
	dt_check_cpu(&m, after, -DT_GUARD, m.size + DT_GUARD,
		     "sync after unmap");
	dt_check_slots(dt, SZ_2K);
}

/*
 * A length that came from the host: more than the slot has, more than memory
 * has, less. The original buffer has its own length.
 */
void dt_unmap_other_length(struct dt *dt)
{
	static const size_t lengths[] = {
		1001, SZ_2K, SZ_4K, SZ_512K, SZ_1G, 999, 1,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct dt_map m = dt_victim(dt, 1000);
		u32 written = dt_next_seed();

		if (dt_map(&m))
			return;
		dt_fill_bounce(&m, written, 0, m.size);
		dma_unmap_single(m.dev, m.dma, lengths[i], m.dir);
		if (dt_fault == DT_FAULT_OVERRUN)
			m.cpu[m.size] ^= 0xff;
		dt_check_guards(&m, m.seed);
	}
	dt_check_slots(dt, 1000);
}
