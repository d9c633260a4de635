// SPDX-License-Identifier: GPL-2.0
/*
 * The writers: threads that make and undo mappings as fast as they can.
 */

#include <linux/dma-mapping.h>
#include <linux/sched.h>

#include "torture.h"

/* The largest size of a small mapping. */
#define TT_SMALL_BYTES	SZ_16K

/* The largest mapping that is left to another thread, in bytes. */
#define TT_PASS_BYTES	SZ_128K

/* Rounds after which a writer goes to another CPU. */
#define TT_LOOPS_ON_A_CPU	64

/* One mapping, or that of another thread in its place. */
static void tt_one(struct tt_thread *t)
{
	/* Large ones take their time: half of all are small. */
	u32 max = tt_one_in(&t->rnd, 2) ? TT_SMALL_BYTES : TT_SIZE_LIMIT;
	struct tt_map *m = tt_map_any(&t->rnd, max);

	if (!m)
		return;
	if (!tt_map(m, &t->rnd, tt_some_context(&t->rnd))) {
		tt_map_drop(m);
		/* The thread that makes slots has to get to run. */
		schedule_timeout_interruptible(1);
		return;
	}

	tt_play(m, &t->rnd);
	if (tt_fault == TT_FAULT_SCRIBBLE)
		m->shared[m->size / 2] ^= 0xff;
	if (m->size <= TT_PASS_BYTES && tt_one_in(&t->rnd, 2)) {
		m = tt_pass_on(t, m);
		if (!m)
			return;
		tt_play(m, &t->rnd);
	}
	tt_finish(m, &t->rnd);
}

/* A mapping that is larger than the maximum has to be refused. */
static void tt_oversize(struct tt_thread *t)
{
	struct device *dev = tt_device_shared(tt_below(&t->rnd, TT_KINDS));
	u32 size = TT_SIZE_LIMIT + 1 + tt_below(&t->rnd, SZ_256K);
	dma_addr_t dma;

	dma = dma_map_single_attrs(dev, t->area, size, DMA_TO_DEVICE,
				   DMA_ATTR_NO_WARN);
	if (tt_fault != TT_FAULT_BLIND)
		tt_count(TT_OVERSIZE);
	if (!dma_mapping_error(dev, dma) || tt_fault == TT_FAULT_OVERSIZE)
		tt_fail(NULL, "%u bytes were mapped", size);
	if (!dma_mapping_error(dev, dma))
		dma_unmap_single_attrs(dev, dma, size, DMA_TO_DEVICE, 0);
}

static void tt_mix(struct tt_thread *t)
{
	u32 kind = tt_below(&t->rnd, 100);

	if (kind < 4)
		tt_list(t);
	else if (kind < 5)
		tt_oversize(t);
	else if (kind < 10)
		tt_lent(t);
	else
		tt_one(t);
}

/**
 * tt_writer() - a thread that makes and undoes mappings
 * @data: thread
 *
 * Return: 0.
 */
int tt_writer(void *data)
{
	struct tt_thread *t = data;

	while (tt_thread_goes_on()) {
		if (t->loops++ % TT_LOOPS_ON_A_CPU == 0)
			tt_thread_move(t);

		switch (tt_phase()) {
		case TT_MIX:
			tt_mix(t);
			break;
		case TT_STORM:
			tt_storm(t);
			break;
		case TT_QUIET:
			schedule_timeout_interruptible(HZ / 20);
			break;
		}
		cond_resched();
	}
	return 0;
}
