// SPDX-License-Identifier: GPL-2.0
/*
 * Storms: as many mappings at a time as possible, then none.
 *
 * All are mappings of one buffer of the thread, which the device may only read:
 * such mappings may overlap. If the device writes all the same, the data has to
 * stay where it is.
 */

#include <linux/gfp.h>
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "torture.h"

#define TT_STORM_MAPS	2048

/* Refusals in a row after which a thread has got all that it can get. */
#define TT_REFUSALS	8

struct tt_storm {
	struct tt_map maps[TT_STORM_MAPS];
	struct tt_map *order[TT_STORM_MAPS];
};

/**
 * tt_storm_new() - give a thread what it needs for storms
 * @t: thread
 *
 * Return: 0 or -ENOMEM; tt_storm_free() frees what there is in each case.
 */
int tt_storm_new(struct tt_thread *t)
{
	t->storm = vzalloc(sizeof(*t->storm));
	t->area = (u8 *)__get_free_pages(GFP_KERNEL, get_order(TT_AREA));
	if (!t->storm || !t->area)
		return -ENOMEM;

	t->area_pos = tt_below(&t->rnd, TT_POSITIONS);
	memcpy(t->area, tt_pattern(t->area_pos), TT_AREA);
	return 0;
}

void tt_storm_free(struct tt_thread *t)
{
	free_pages((unsigned long)t->area, get_order(TT_AREA));
	vfree(t->storm);
}

static bool tt_storm_map(struct tt_thread *t, struct tt_map *m, u32 limit)
{
	unsigned int kind = tt_below(&t->rnd, TT_KINDS);
	u32 size = 1 + tt_below(&t->rnd, min(limit, tt_max_size[kind]));
	u32 at = TT_GUARD + tt_below(&t->rnd, TT_AREA - 2 * TT_GUARD - size);

	*m = (struct tt_map) {
		.dev = tt_device_shared(kind),
		.cpu = t->area + at,
		.size = size,
		.dir = DMA_TO_DEVICE,
		.attrs = DMA_ATTR_NO_WARN,
	};
	tt_side_init(&m->original, t->area_pos + at);
	if (!tt_map(m, &t->rnd, tt_some_context(&t->rnd)))
		return false;
	tt_device_writes(m, &t->rnd);
	return true;
}

/* Undoes the first @n mappings in random order. */
static void tt_storm_end(struct tt_thread *t, unsigned int n)
{
	struct tt_map **order = t->storm->order;

	while (n--) {
		unsigned int i = tt_below(&t->rnd, n + 1);

		tt_unmap(order[i], &t->rnd, tt_some_context(&t->rnd));
		order[i] = order[n];
		cond_resched();
	}
	if (memcmp(t->area, tt_pattern(t->area_pos), TT_AREA))
		tt_fail(NULL, "after a storm: a buffer that is only read has changed");
}

/**
 * tt_storm() - make as many mappings as possible, then undo them
 * @t: thread
 *
 * Sizes go up to that of one class, another one each time.
 *
 * Context: may sleep.
 */
void tt_storm(struct tt_thread *t)
{
	u32 limit = SZ_512 << tt_below(&t->rnd, 11);
	unsigned int n = 0, refusals = 0;
	u64 bytes = 0;

	tt_count(TT_STORMS);
	while (n < TT_STORM_MAPS && refusals < TT_REFUSALS &&
	       bytes < tt_storm_bytes && tt_phase() == TT_STORM &&
	       !tt_stopped()) {
		struct tt_map *m = &t->storm->maps[n];

		if (tt_storm_map(t, m, limit)) {
			t->storm->order[n++] = m;
			bytes += m->size;
			refusals = 0;
		} else {
			refusals++;
		}
		cond_resched();
	}

	if (tt_fault == TT_FAULT_STORM && n)
		t->storm->maps[n / 2].shared[0] ^= 0xff;
	/* Others may have their storm at the same time. */
	schedule_timeout_interruptible(tt_below(&t->rnd, HZ / 2));
	tt_storm_end(t, n);
}
