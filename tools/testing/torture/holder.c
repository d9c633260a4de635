// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings that live long: in boxes, where one thread leaves them for another,
 * and in tables, where they stay for seconds or minutes.
 */

#include <linux/jiffies.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>

#include "torture.h"

#define TT_HELD_BYTES	SZ_64K

/* A box has one mapping at most, which belongs to the thread that takes it. */
static struct tt_map *tt_boxes[TT_BOXES];

/**
 * tt_pass_on() - leave a mapping to any other thread
 * @t: thread
 * @m: mapping, no longer the caller's
 *
 * Return: a mapping that another thread has left, or %NULL.
 */
struct tt_map *tt_pass_on(struct tt_thread *t, struct tt_map *m)
{
	tt_count(TT_PASSED_ON);
	return xchg(&tt_boxes[tt_below(&t->rnd, TT_BOXES)], m);
}

/* Undoes the mappings that remain in the boxes. Context: may sleep. */
void tt_boxes_empty(struct rnd_state *rnd)
{
	unsigned int i;

	for (i = 0; i < TT_BOXES; i++) {
		struct tt_map *m = xchg(&tt_boxes[i], NULL);

		if (m)
			tt_finish(m, rnd);
	}
}

static struct tt_map *tt_hold_new(struct tt_thread *t)
{
	struct tt_map *m = tt_map_any(&t->rnd, TT_HELD_BYTES);

	if (!m)
		return NULL;
	if (!tt_map(m, &t->rnd, tt_some_context(&t->rnd))) {
		tt_map_drop(m);
		return NULL;
	}
	m->due = jiffies + HZ / 2 + tt_below(&t->rnd, tt_hold * HZ);
	tt_count(TT_HELD);
	return m;
}

/* Looks at one mapping of the table: makes, checks or undoes it. */
static void tt_hold_one(struct tt_thread *t, struct tt_map **place)
{
	struct tt_map *m = *place;

	if (!m) {
		*place = tt_hold_new(t);
		return;
	}
	if (tt_fault == TT_FAULT_HELD)
		m->shared[m->size / 2] ^= 0xff;
	tt_check_shared(m, "held");
	tt_check_original(m, "held");
	if (time_before(jiffies, m->due)) {
		tt_play(m, &t->rnd);
		return;
	}
	tt_finish(m, &t->rnd);
	*place = NULL;
}

/**
 * tt_holder() - a thread that holds up to max_held= mappings
 * @data: thread
 *
 * Return: 0.
 */
int tt_holder(void *data)
{
	struct tt_thread *t = data;
	struct tt_map **held = vcalloc(tt_max_held, sizeof(*held));
	unsigned int i;

	while (tt_thread_goes_on()) {
		if (held && tt_phase() != TT_QUIET)
			tt_hold_one(t, &held[tt_below(&t->rnd, tt_max_held)]);
		schedule_timeout_interruptible(1);
	}

	for (i = 0; held && i < tt_max_held; i++) {
		if (held[i])
			tt_finish(held[i], &t->rnd);
	}
	vfree(held);
	return 0;
}
