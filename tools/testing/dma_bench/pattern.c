// SPDX-License-Identifier: GPL-2.0
/*
 * The ways to use the DMA API that are measured, each with its floor: the
 * copies that bouncing cannot do without.
 */

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "bench.h"

/* How long memory may take to grow until all buffers fit, in microseconds. */
#define DB_PATIENCE_US	10000000
#define DB_RETRY_US	2000

static void db_copy_in(struct db_thread *t)
{
	unsigned int i;

	for (i = 0; i < t->c.depth; i++)
		memcpy(db_far(t, i), db_near(t, i), t->c.size);
}

static void db_copy_back(struct db_thread *t)
{
	unsigned int i;

	for (i = 0; i < t->c.depth; i++)
		memcpy(db_near(t, i), db_far(t, i), t->c.size);
}

/*
 * All mappings are copied in, for the device may write less than all of the
 * buffer; those that the device writes to are copied back as well.
 */
static void db_map_floor(struct db_thread *t)
{
	db_copy_in(t);
	if (t->c.dir != DMA_TO_DEVICE)
		db_copy_back(t);
}

/* Returns how many were mapped: all, or those before the first that failed. */
static unsigned int db_map_all(struct db_thread *t)
{
	unsigned int i;

	for (i = 0; i < t->c.depth; i++) {
		t->dma[i] = dma_map_single(t->dev, db_near(t, i), t->c.size,
					   t->c.dir);
		if (unlikely(dma_mapping_error(t->dev, t->dma[i])))
			break;
	}
	return i;
}

static void db_unmap(struct db_thread *t, unsigned int n)
{
	unsigned int i;

	/* First in, first out, as most devices complete. */
	for (i = 0; i < n; i++)
		dma_unmap_single(t->dev, t->dma[i], t->c.size, t->c.dir);
}

/*
 * Makes memory grow until all buffers of all threads fit at the same time: the
 * benchmark measures how fast mappings are, not how fast memory is found.
 */
static int db_grow(struct db_thread *t)
{
	unsigned int us;

	for (us = 0; us < DB_PATIENCE_US; us += DB_RETRY_US) {
		unsigned int n = db_map_all(t);
		int all = db_agree(t, n == t->c.depth);

		/* Sleep while they are mapped: the need has to be seen. */
		usleep_range(DB_RETRY_US, 2 * DB_RETRY_US);
		db_unmap(t, n);
		if (all < 0)
			return all;
		if (all && us)
			return 0;
		/* No thread maps again before all have unmapped. */
		all = db_agree(t, true);
		if (all < 0)
			return all;
	}
	return -ENOMEM;
}

static void db_single_round(struct db_thread *t)
{
	unsigned int n = db_map_all(t);

	t->refused += t->c.depth - n;
	db_unmap(t, n);
}

static int db_sg_prepare(struct db_thread *t)
{
	unsigned int i;

	sg_init_table(t->sgl, t->c.depth);
	for (i = 0; i < t->c.depth; i++)
		sg_set_buf(&t->sgl[i], db_near(t, i), t->c.size);
	return db_grow(t);
}

static void db_sg_round(struct db_thread *t)
{
	if (likely(dma_map_sg(t->dev, t->sgl, t->c.depth, t->c.dir)))
		dma_unmap_sg(t->dev, t->sgl, t->c.depth, t->c.dir);
	else
		t->refused += t->c.depth;
}

/* A network driver keeps its buffers mapped, and syncs each one as it is used. */
static int db_net_prepare(struct db_thread *t)
{
	unsigned int n;
	int ret;

	ret = db_grow(t);
	if (ret)
		return ret;
	n = db_map_all(t);
	if (n == t->c.depth)
		return 0;
	db_unmap(t, n);
	return -ENOMEM;
}

static void db_net_round(struct db_thread *t)
{
	unsigned int i;

	for (i = 0; i < t->c.depth; i++) {
		dma_sync_single_for_cpu(t->dev, t->dma[i], t->c.size, t->c.dir);
		dma_sync_single_for_device(t->dev, t->dma[i], t->c.size,
					   t->c.dir);
	}
}

static void db_net_floor(struct db_thread *t)
{
	unsigned int i;

	for (i = 0; i < t->c.depth; i++) {
		if (t->c.dir != DMA_TO_DEVICE)
			memcpy(db_near(t, i), db_far(t, i), t->c.size);
		if (t->c.dir != DMA_FROM_DEVICE)
			memcpy(db_far(t, i), db_near(t, i), t->c.size);
	}
}

static void db_net_finish(struct db_thread *t)
{
	db_unmap(t, t->c.depth);
}

const struct db_pattern db_patterns[] = {
	{
		.name = "single",
		.prepare = db_grow,
		.round = db_single_round,
		.floor = db_map_floor,
	}, {
		.name = "sg",
		.prepare = db_sg_prepare,
		.round = db_sg_round,
		.floor = db_map_floor,
	}, {
		.name = "net",
		.prepare = db_net_prepare,
		.round = db_net_round,
		.floor = db_net_floor,
		.finish = db_net_finish,
	},
};

const int db_nr_patterns = ARRAY_SIZE(db_patterns);
