// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings made in one context and undone in another.
 */

#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/hardirq.h>
#include <linux/irq_work.h>
#include <linux/sched.h>
#include <linux/workqueue.h>

#include "dma_test.h"

static const size_t dt_context_sizes[] = {
	1, 512, 2048, 4096, 5000, SZ_16K, SZ_64K, SZ_128K,
};

/* A function that runs in the other context. */
struct dt_call {
	struct dt_map *m;
	void (*run)(struct dt_map *m);
	bool in_context;
	struct irq_work irq_work;
	struct work_struct work;
};

static void dt_do_map(struct dt_map *m)
{
	dt_map(m);
}

static void dt_do_unmap(struct dt_map *m)
{
	dt_unmap(m);
}

static void dt_do_round_trip(struct dt_map *m)
{
	dt_round_trip(m, 0, m->size - m->size / 3);
}

static void dt_run_call(struct dt_call *call, bool in_context)
{
	call->in_context = in_context;
	call->run(call->m);
}

static void dt_irq_work(struct irq_work *work)
{
	struct dt_call *call = container_of(work, struct dt_call, irq_work);

	dt_run_call(call, in_hardirq());
}

static void dt_bh_work(struct work_struct *work)
{
	struct dt_call *call = container_of(work, struct dt_call, work);

	dt_run_call(call, in_serving_softirq());
}

static void dt_in_hardirq(struct dt_map *m, void (*run)(struct dt_map *m))
{
	struct dt_call call = { .m = m, .run = run };

	/*
	 * Not IRQ_WORK_INIT_HARD(): where PREEMPT_RT lets no driver run,
	 * nothing is mapped, and lockdep complains about the locks in
	 * DMA_API_DEBUG.
	 */
	init_irq_work(&call.irq_work, dt_irq_work);
	irq_work_queue(&call.irq_work);
	irq_work_sync(&call.irq_work);
	dt_expect(call.in_context || IS_ENABLED(CONFIG_PREEMPT_RT),
		  "not in hard interrupt context");
}

static void dt_in_softirq(struct dt_map *m, void (*run)(struct dt_map *m))
{
	struct dt_call call = { .m = m, .run = run };

	INIT_WORK_ONSTACK(&call.work, dt_bh_work);
	queue_work(system_bh_wq, &call.work);
	flush_work(&call.work);
	destroy_work_on_stack(&call.work);
	dt_expect(call.in_context, "not in softirq context");
}

static void dt_with_irqs_off(struct dt_map *m, void (*run)(struct dt_map *m))
{
	unsigned long flags;

	local_irq_save(flags);
	run(m);
	local_irq_restore(flags);
}

static void dt_in_process(struct dt_map *m, void (*run)(struct dt_map *m))
{
	run(m);
}

/* Map in one context, unmap in another, and check what came through. */
static void dt_across(struct dt_map *m,
		      void (*map_in)(struct dt_map *m,
				     void (*run)(struct dt_map *m)),
		      void (*unmap_in)(struct dt_map *m,
				       void (*run)(struct dt_map *m)))
{
	u32 filled = dt_next_seed(), written = dt_next_seed();

	dt_fill_cpu(m, filled);
	m->bounce = NULL;
	map_in(m, dt_do_map);
	if (!m->bounce)
		return;

	dt_check_copied_in(m, filled);
	dt_fill_bounce(m, written, 0, m->size);
	unmap_in(m, dt_do_unmap);

	dt_check_guards(m, filled);
	dt_check_cpu(m, m->dir == DMA_TO_DEVICE ? filled : written, 0, m->size,
		     "unmapped in another context");
}

static void dt_context(struct dt *dt,
		       void (*context)(struct dt_map *m,
				       void (*run)(struct dt_map *m)))
{
	unsigned int s, d, n, rounds = dt_quick ? 1 : 16;

	for (s = 0; s < ARRAY_SIZE(dt_context_sizes); s++) {
		for (n = 0; n < rounds * 3 && !dt_failed(); n++) {
			struct dt_map m = {
				.dev = dt->dev,
				.cpu = dt->area + PAGE_SIZE +
				       dt_below(dt, PAGE_SIZE),
				.size = dt_context_sizes[s],
			};

			d = n % 3;
			m.dir = dt_direction(d);
			dt_across(&m, dt_in_process, context);
			dt_across(&m, context, dt_in_process);
			context(&m, dt_do_round_trip);
			cond_resched();
		}
	}
}

/* Map, unmap and both in hard interrupt context. */
void dt_hardirq(struct dt *dt)
{
	dt_context(dt, dt_in_hardirq);
}

/* Map, unmap and both in softirq context. */
void dt_softirq(struct dt *dt)
{
	dt_context(dt, dt_in_softirq);
}

/* Map, unmap and both with interrupts off. */
void dt_irqs_off(struct dt *dt)
{
	dt_context(dt, dt_with_irqs_off);
}

static long dt_unmap_in_interrupt(void *data)
{
	dt_in_hardirq(data, dt_do_unmap);
	return 0;
}

static long dt_unmap_in_thread(void *data)
{
	dt_unmap(data);
	return 0;
}

/* Unmap on another CPU, from an interrupt and from a thread there. */
static void dt_unmap_on(struct dt_map *m, int cpu, bool thread)
{
	u32 filled = dt_next_seed(), written = dt_next_seed();

	dt_fill_cpu(m, filled);
	if (dt_map(m))
		return;

	dt_check_copied_in(m, filled);
	dt_fill_bounce(m, written, 0, m->size);
	if (thread)
		work_on_cpu(cpu, dt_unmap_in_thread, m);
	else
		work_on_cpu(cpu, dt_unmap_in_interrupt, m);

	dt_check_guards(m, filled);
	dt_check_cpu(m, m->dir == DMA_TO_DEVICE ? filled : written, 0, m->size,
		     "unmapped on another CPU");
}

struct dt_pair {
	struct dt *dt;
	int to;
};

static long dt_from_cpu(void *data)
{
	struct dt_pair *pair = data;
	unsigned int s, d, n, rounds = dt_quick ? 1 : 24;

	for (s = 0; s < ARRAY_SIZE(dt_context_sizes); s++) {
		for (n = 0; n < rounds && !dt_failed(); n++) {
			for (d = 0; d < 3; d++) {
				struct dt_map m = {
					.dev = pair->dt->dev,
					.cpu = pair->dt->area + PAGE_SIZE +
					       dt_below(pair->dt, PAGE_SIZE),
					.size = dt_context_sizes[s],
					.dir = dt_direction(d),
				};

				dt_unmap_on(&m, pair->to, n % 2);
			}
		}
		cond_resched();
	}
	return 0;
}

/*
 * Map on each CPU, unmap on every other one. One-sided traffic also moves all
 * free slots to the unmapping CPU, which must not leave the mapping one
 * without.
 */
void dt_other_cpu(struct dt *dt)
{
	struct dt_pair pair = { .dt = dt };
	int from;

	if (num_online_cpus() < 2) {
		dt_skip("one CPU only");
		return;
	}

	for_each_online_cpu(from) {
		for_each_online_cpu(pair.to) {
			if (from != pair.to)
				work_on_cpu(from, dt_from_cpu, &pair);
		}
	}
}
