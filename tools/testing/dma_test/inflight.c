// SPDX-License-Identifier: GPL-2.0
/*
 * Several thousand mappings of mixed sizes at one time.
 */

#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/vmalloc.h>

#include "dma_test.h"

#define DT_MANY		4000

static atomic_long_t dt_refused;

/* Sizes as storage and network traffic mix them: small ones most often. */
static size_t dt_mixed_size(struct dt *dt)
{
	u32 kind = dt_below(dt, 100);

	if (kind < 50)
		return 1 + dt_below(dt, 512);
	if (kind < 75)
		return 1 + dt_below(dt, SZ_4K);
	if (kind < 92)
		return 1 + dt_below(dt, SZ_16K);
	if (kind < 98)
		return 1 + dt_below(dt, SZ_64K);
	return 1 + dt_below(dt, SZ_128K);
}

static int dt_by_address(const void *a, const void *b)
{
	const struct dt_map *x = *(const struct dt_map **)a;
	const struct dt_map *y = *(const struct dt_map **)b;

	return x->dma < y->dma ? -1 : x->dma > y->dma;
}

/* Two mappings of the same memory are found by sorting the addresses. */
static void dt_check_apart(struct dt_map **sorted, int n)
{
	int i;

	sort(sorted, n, sizeof(*sorted), dt_by_address, NULL);
	for (i = 1; i < n; i++) {
		const struct dt_map *x = sorted[i - 1], *y = sorted[i];

		dt_expect(x->dma + x->size <= y->dma,
			  "%zu bytes at %pad and %zu at %pad overlap",
			  x->size, &x->dma, y->size, &y->dma);
	}
}

static int dt_map_many(struct dt *dt, struct dt_map *maps, int n)
{
	int i;

	for (i = 0; i < n; i++) {
		struct dt_map *m = &maps[i];
		u8 *buffer;

		m->dev = dt->dev;
		m->size = dt_mixed_size(dt);
		m->dir = dt_direction(i);
		m->seed = dt_next_seed();
		buffer = kmalloc(m->size + 2 * DT_GUARD, GFP_KERNEL);
		if (!dt_expect(buffer, "no memory"))
			return i;

		m->cpu = buffer + DT_GUARD;
		dt_fill_cpu(m, m->seed);
		if (dt_map_patiently(m, &dt_refused)) {
			kfree(buffer);
			return i;
		}
		if (dt_fault == DT_FAULT_OVERLAP && i == 7)
			m->bounce = maps[6].bounce;
		dt_check_copied_in(m, m->seed);
		cond_resched();
	}
	return n;
}

static void dt_unmap_many(struct dt *dt, struct dt_map **maps, int n,
			  u32 written)
{
	int i;

	for (i = n - 1; i >= 0; i--) {
		u32 other = dt_below(dt, i + 1);
		struct dt_map *m = maps[other];

		/* A random one of those that are left. */
		maps[other] = maps[i];

		dt_check_bounce(m, written + m->seed, 0, m->size,
				"alone in its slot");
		dt_unmap(m);
		dt_check_guards(m, m->seed);
		dt_check_cpu(m, m->dir == DMA_TO_DEVICE ? m->seed :
			     written + m->seed, 0, m->size, "copied back");
		kfree(m->cpu - DT_GUARD);
		cond_resched();
	}
}

/*
 * Map, let the device write into each, and only then look: a slot that was
 * handed out twice, or too short, holds another mapping's bytes. The mappings
 * are released in random order. All of this is done twice, so that the second
 * round meets what the first one left.
 */
void dt_many(struct dt *dt)
{
	int i, n, round, wanted = dt_quick ? 300 : DT_MANY;
	struct dt_map *maps = vcalloc(wanted, sizeof(*maps));
	struct dt_map **order = vcalloc(wanted, sizeof(*order));

	if (!dt_expect(maps && order, "no memory"))
		goto out;

	atomic_long_set(&dt_refused, 0);
	for (round = 0; round < 2 && !dt_failed(); round++) {
		u32 written = DT_MANY + dt_below(dt, 1000);

		n = dt_map_many(dt, maps, wanted);
		for (i = 0; i < n; i++) {
			order[i] = &maps[i];
			dt_fill_bounce(&maps[i], written + maps[i].seed, 0,
				       maps[i].size);
		}
		dt_check_apart(order, n);
		dt_unmap_many(dt, order, n, written);
	}
	dt_note("%d mappings at a time, refused at first %ld times", wanted,
		atomic_long_read(&dt_refused));
out:
	vfree(order);
	vfree(maps);
}
