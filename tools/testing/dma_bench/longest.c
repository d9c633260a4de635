// SPDX-License-Identifier: GPL-2.0
/*
 * By how much the longest map and the longest unmap exceed the quickest ones of
 * the same size: the length of the slow paths, most of which runs with
 * interrupts disabled.  Here all of it does, so that nothing else is measured.
 * Where the clock counts instructions, the result is exact.
 */

#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/limits.h>
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "bench.h"

/* Mappings at a time, more than a CPU keeps, and the most bytes of them. */
#define DB_HELD		1024
#define DB_HELD_BYTES	SZ_8M
#define DB_ROUNDS	4

struct db_span {
	u64 least;
	u64 most;
};

static void db_note(struct db_span *span, u64 ns)
{
	span->least = min(span->least, ns);
	span->most = max(span->most, ns);
}

static bool db_map(struct db_thread *t, size_t size, dma_addr_t *dma,
		   struct db_span *span)
{
	unsigned long flags;
	u64 start;

	local_irq_save(flags);
	start = ktime_get_ns();
	*dma = dma_map_single(t->dev, t->near, size, DMA_TO_DEVICE);
	db_note(span, ktime_get_ns() - start);
	local_irq_restore(flags);
	return !dma_mapping_error(t->dev, *dma);
}

static void db_unmap(struct db_thread *t, size_t size, dma_addr_t dma,
		     struct db_span *span)
{
	unsigned long flags;
	u64 start;

	local_irq_save(flags);
	start = ktime_get_ns();
	dma_unmap_single(t->dev, dma, size, DMA_TO_DEVICE);
	db_note(span, ktime_get_ns() - start);
	local_irq_restore(flags);
}

/**
 * db_longest() - the longest map and unmap of one size
 * @t: thread whose buffer is mapped, over and over
 * @size: bytes of a mapping
 * @map_ns: by how much the longest map exceeds the quickest
 * @unmap_ns: the same for an unmap
 *
 * Context: may sleep.
 * Return: 0, or -ENOMEM.
 */
int db_longest(struct db_thread *t, size_t size, u64 *map_ns, u64 *unmap_ns)
{
	unsigned int held = min_t(size_t, DB_HELD, DB_HELD_BYTES / size);
	struct db_span map = { U64_MAX }, unmap = { U64_MAX };
	unsigned int round, i, n;
	dma_addr_t *dma;

	dma = kcalloc(held, sizeof(*dma), GFP_KERNEL);
	if (!dma)
		return -ENOMEM;
	for (round = 0; round < DB_ROUNDS; round++) {
		for (n = 0; n < held; n++)
			if (!db_map(t, size, &dma[n], &map))
				break;
		for (i = 0; i < n; i++)
			db_unmap(t, size, dma[i], &unmap);
		/* Memory that was missing may be there for the next round. */
		schedule_timeout_uninterruptible(HZ / 10);
	}
	kfree(dma);
	*map_ns = map.most - map.least;
	*unmap_ns = unmap.most - unmap.least;
	return 0;
}
