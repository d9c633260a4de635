// SPDX-License-Identifier: GPL-2.0
/*
 * Threads on all CPUs at once, and interrupts among them.
 *
 * Each thread makes mappings and leaves them in boxes that all share. It checks
 * and undoes the mappings that it finds there, often made on another CPU. A
 * timer on each CPU maps and unmaps in hard interrupt context (as far as a
 * kernel lets drivers run there: not on PREEMPT_RT), in the middle of all that.
 */

#include <linux/cpu.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/smp.h>

#include "dma_test.h"

#define DT_BOXES	64
#define DT_TICK_NS	(2 * NSEC_PER_MSEC)
#define DT_TICK_BYTES	3000

/* A mapping on its way from one thread to another. */
struct dt_parcel {
	struct dt_map m;
	u32 written;
	u8 buffer[];
};

static struct dt_parcel *dt_boxes[DT_BOXES];
static atomic_long_t dt_parcels, dt_remote, dt_ticks, dt_refused;

struct dt_worker {
	struct device *dev;
	struct task_struct *task;
	struct rnd_state rnd;
};

struct dt_ticker {
	struct hrtimer timer;
	struct dt_map m;
	unsigned int n;
	u8 buffer[DT_TICK_BYTES + 2 * DT_GUARD];
};

static struct dt_parcel *dt_parcel_new(struct dt_worker *w)
{
	static const size_t limits[] = {
		512, 512, SZ_2K, SZ_4K, SZ_4K, SZ_16K, SZ_64K, SZ_128K,
	};
	size_t size = 1 + prandom_u32_state(&w->rnd) %
		      limits[prandom_u32_state(&w->rnd) % ARRAY_SIZE(limits)];
	struct dt_parcel *p;

	p = kmalloc(sizeof(*p) + size + 2 * DT_GUARD, GFP_KERNEL);
	if (!dt_expect(p, "no memory"))
		return NULL;

	p->m = (struct dt_map) {
		.dev = w->dev,
		.cpu = p->buffer + DT_GUARD,
		.size = size,
		.dir = dt_direction(prandom_u32_state(&w->rnd)),
		.seed = dt_next_seed(),
	};
	p->written = dt_next_seed();
	dt_fill_cpu(&p->m, p->m.seed);
	if (dt_map_patiently(&p->m, &dt_refused)) {
		kfree(p);
		return NULL;
	}

	dt_check_copied_in(&p->m, p->m.seed);
	dt_fill_bounce(&p->m, p->written, 0, size);
	return p;
}

static void dt_parcel_end(struct dt_parcel *p)
{
	struct dt_map *m = &p->m;

	dt_check_bounce(m, p->written, 0, m->size, "alone in its slot");
	if (m->map_cpu != raw_smp_processor_id())
		atomic_long_inc(&dt_remote);
	dt_unmap(m);
	dt_check_guards(m, m->seed);
	dt_check_cpu(m, m->dir == DMA_TO_DEVICE ? m->seed : p->written, 0,
		     m->size, "copied back");
	atomic_long_inc(&dt_parcels);
	kfree(p);
}

static int dt_work(void *data)
{
	struct dt_worker *w = data;

	while (!kthread_should_stop()) {
		struct dt_parcel *p = dt_parcel_new(w);

		if (p)
			p = xchg(&dt_boxes[prandom_u32_state(&w->rnd) %
					   DT_BOXES], p);
		if (p)
			dt_parcel_end(p);
		cond_resched();
	}
	return 0;
}

static enum hrtimer_restart dt_tick(struct hrtimer *timer)
{
	struct dt_ticker *t = container_of(timer, struct dt_ticker, timer);

	t->m.size = 1 + t->n * 97 % DT_TICK_BYTES;
	t->m.dir = dt_direction(t->n++);
	dt_round_trip(&t->m, 0, t->m.size / 2);
	atomic_long_inc(&dt_ticks);

	hrtimer_forward_now(timer, ns_to_ktime(DT_TICK_NS));
	return HRTIMER_RESTART;
}

static void dt_tick_start(void *data)
{
	struct dt_ticker *t = data;

	hrtimer_start(&t->timer, ns_to_ktime(DT_TICK_NS),
		      HRTIMER_MODE_REL_PINNED);
}

static void dt_tickers_start(struct dt *dt, struct dt_ticker *tickers)
{
	int cpu;

	for_each_online_cpu(cpu) {
		struct dt_ticker *t = &tickers[cpu];

		t->m.dev = dt->dev;
		t->m.cpu = t->buffer + DT_GUARD;
		hrtimer_setup(&t->timer, dt_tick, CLOCK_MONOTONIC,
			      HRTIMER_MODE_REL_PINNED);
		smp_call_function_single(cpu, dt_tick_start, t, true);
	}
}

static void dt_tickers_stop(struct dt_ticker *tickers)
{
	int cpu;

	for_each_online_cpu(cpu)
		hrtimer_cancel(&tickers[cpu].timer);
}

/* Starts two threads on each CPU. Returns how many run. */
static int dt_workers_start(struct dt *dt, struct dt_worker *workers)
{
	int cpu, i, n = 0;

	for_each_online_cpu(cpu) {
		for (i = 0; i < 2; i++) {
			struct dt_worker *w = &workers[n];

			w->dev = dt->dev;
			prandom_seed_state(&w->rnd,
					   prandom_u32_state(&dt->rnd));
			w->task = kthread_create_on_cpu(dt_work, w, cpu,
							"dma_test/%u");
			if (!dt_expect(!IS_ERR(w->task), "no thread"))
				return n;
			wake_up_process(w->task);
			n++;
		}
	}
	return n;
}

void dt_parallel(struct dt *dt)
{
	struct dt_worker *workers;
	struct dt_ticker *tickers;
	int i, n;

	atomic_long_set(&dt_parcels, 0);
	atomic_long_set(&dt_remote, 0);
	atomic_long_set(&dt_ticks, 0);
	atomic_long_set(&dt_refused, 0);

	workers = kzalloc_objs(*workers, 2 * nr_cpu_ids);
	tickers = kzalloc_objs(*tickers, nr_cpu_ids);
	if (!dt_expect(workers && tickers, "no memory"))
		goto out;

	cpus_read_lock();
	dt_tickers_start(dt, tickers);
	n = dt_workers_start(dt, workers);
	schedule_timeout_uninterruptible((dt_quick ? 1 : dt_seconds) * HZ);
	for (i = 0; i < n; i++)
		kthread_stop(workers[i].task);
	dt_tickers_stop(tickers);
	cpus_read_unlock();

	for (i = 0; i < DT_BOXES; i++) {
		struct dt_parcel *p = xchg(&dt_boxes[i], NULL);

		if (p)
			dt_parcel_end(p);
	}

	if (num_online_cpus() > 1)
		dt_expect(atomic_long_read(&dt_remote),
			  "no mapping was undone on another CPU");
	dt_expect(atomic_long_read(&dt_ticks), "no mapping in interrupts");
	dt_note("%ld mappings, %ld undone on another CPU, %ld in interrupts",
		atomic_long_read(&dt_parcels), atomic_long_read(&dt_remote),
		atomic_long_read(&dt_ticks));
	dt_note("refused at first %ld times", atomic_long_read(&dt_refused));
out:
	kfree(tickers);
	kfree(workers);
}
