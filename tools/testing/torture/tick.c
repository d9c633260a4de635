// SPDX-License-Identifier: GPL-2.0
/*
 * A timer that maps and unmaps in hard interrupt context, in the middle of what
 * a writer does. One interrupt makes a mapping, the next one undoes it.
 */

#include <linux/dma-mapping.h>
#include <linux/hrtimer.h>
#include <linux/ktime.h>
#include <linux/slab.h>
#include <linux/smp.h>

#include "torture.h"

#define TT_TICK_BYTES	3000

struct tt_tick {
	struct hrtimer timer;
	struct rnd_state rnd;
	struct tt_map m;
	bool mapped;
	u8 buffer[TT_TICK_BYTES + 2 * TT_GUARD];
};

static void tt_tick_map(struct tt_tick *tick)
{
	struct tt_map *m = &tick->m;
	dma_addr_t dma;

	m->dev = tt_device_get(tt_below(&tick->rnd, TT_KINDS));
	if (!m->dev)
		return;
	m->size = 1 + tt_below(&tick->rnd, TT_TICK_BYTES);
	m->dir = tt_direction(&tick->rnd);
	m->map_cpu = raw_smp_processor_id();
	tt_map_fill(m, &tick->rnd);

	dma = dma_map_single_attrs(m->dev, m->cpu, m->size, m->dir, m->attrs);
	if (dma_mapping_error(m->dev, dma)) {
		tt_count(TT_REFUSED);
		tt_device_put(m->dev);
		return;
	}
	tt_map_made(m, dma);
	tt_check_shared(m, "mapped in a timer");
	tick->mapped = true;
}

static void tt_tick_unmap(struct tt_tick *tick)
{
	struct tt_map *m = &tick->m;

	tt_play(m, &tick->rnd);
	tt_check_shared(m, "before the unmap in a timer");
	tt_live_remove(m);
	dma_unmap_single_attrs(m->dev, m->dma, m->size, m->dir, 0);
	tt_map_undone(m);
	tt_check_original(m, "unmapped in a timer");
	tt_device_put(m->dev);
	tick->mapped = false;
}

static enum hrtimer_restart tt_tick(struct hrtimer *timer)
{
	struct tt_tick *tick = container_of(timer, struct tt_tick, timer);

	tt_count(TT_TICKS);
	if (tick->mapped)
		tt_tick_unmap(tick);
	else if (!tt_stopped())
		tt_tick_map(tick);
	else
		return HRTIMER_NORESTART;

	hrtimer_forward_now(timer, ms_to_ktime(tt_tick_ms));
	return HRTIMER_RESTART;
}

/* Makes a timer that does not run yet. Context: may sleep. */
struct tt_tick *tt_tick_new(struct rnd_state *rnd)
{
	struct tt_tick *tick = kzalloc_obj(*tick);

	if (!tick)
		return NULL;
	prandom_seed_state(&tick->rnd, prandom_u32_state(rnd));
	tick->m.buffer = tick->buffer;
	tick->m.cpu = tick->buffer + TT_GUARD;
	tick->m.attrs = DMA_ATTR_NO_WARN;
	tick->m.context = TT_CONTEXTS;
	hrtimer_setup(&tick->timer, tt_tick, CLOCK_MONOTONIC,
		      HRTIMER_MODE_REL_PINNED);
	return tick;
}

/* Lets a timer run on this CPU from now on. Context: may sleep. */
void tt_tick_start(struct tt_tick *tick)
{
	if (!tick || tt_stopped())
		return;
	hrtimer_cancel(&tick->timer);
	hrtimer_start(&tick->timer, ms_to_ktime(tt_tick_ms),
		      HRTIMER_MODE_REL_PINNED);
}

/* Stops a timer, and undoes its mapping. Context: may sleep. */
void tt_tick_free(struct tt_tick *tick)
{
	if (!tick)
		return;
	hrtimer_cancel(&tick->timer);
	if (tick->mapped)
		tt_tick_unmap(tick);
	kfree(tick);
}
