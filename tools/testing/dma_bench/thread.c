// SPDX-License-Identifier: GPL-2.0
/*
 * Measures one case on one or more CPUs at the same time.
 */

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "bench.h"

#define DB_ORDER	get_order(DB_MAX_SIZE)
#define DB_PS_IN_NS	1000

/* How often the clock is read at most: it costs as much as a small mapping. */
#define DB_CLOCK_NS	20000

/**
 * struct db_run - threads that measure together
 * @n: number of threads
 * @slice_ns: for how long each slice is measured, in ns
 * @waiting: threads that wait for the others
 * @turn: counts how often all of them were there
 * @discontent: the last turn in which one of them was not content
 * @broken: one of them failed; no thread waits any more
 */
struct db_run {
	unsigned int n;
	u64 slice_ns;
	atomic_t waiting;
	atomic_t turn;
	atomic_t discontent;
	bool broken;
};

struct db_job {
	struct db_run *run;
	struct db_thread *thread;
	struct completion done;
	int ret;
};

static void db_free_areas(u8 **areas)
{
	unsigned int i;

	for (i = 0; i < DB_DEPTH; i++)
		free_pages((unsigned long)areas[i], DB_ORDER);
}

static int db_alloc_areas(u8 **areas)
{
	unsigned int i;

	for (i = 0; i < DB_DEPTH; i++) {
		areas[i] = (u8 *)__get_free_pages(GFP_KERNEL | __GFP_ZERO,
						  DB_ORDER);
		if (!areas[i])
			return -ENOMEM;
	}
	return 0;
}

/**
 * db_thread_free() - free what db_thread_alloc() returned
 * @t: may be NULL
 */
void db_thread_free(struct db_thread *t)
{
	if (!t)
		return;
	free_pages((unsigned long)t->near, DB_ORDER);
	db_free_areas(t->far);
	kfree(t);
}

/**
 * db_thread_alloc() - make a thread's buffers
 * @dev: device that maps
 *
 * Return: NULL when there is not enough memory.
 */
struct db_thread *db_thread_alloc(struct device *dev)
{
	struct db_thread *t = kzalloc(sizeof(*t), GFP_KERNEL);

	if (!t)
		return NULL;
	t->dev = dev;
	t->near = (u8 *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, DB_ORDER);
	if (!t->near || db_alloc_areas(t->far)) {
		db_thread_free(t);
		return NULL;
	}
	return t;
}

/* Waits until all threads are here, so that they measure at the same time. */
static int db_meet(struct db_run *run)
{
	int turn = atomic_read(&run->turn);

	if (atomic_inc_return(&run->waiting) == run->n) {
		atomic_set(&run->waiting, 0);
		atomic_inc(&run->turn);
	}
	while (atomic_read(&run->turn) == turn) {
		if (READ_ONCE(run->broken))
			return -ECANCELED;
		cpu_relax();
		cond_resched();
	}
	return 0;
}

/**
 * db_agree() - wait for all threads, and ask whether all are content
 * @t: this thread
 * @content: whether this one is
 *
 * Context: may sleep.
 * Return: 1 if all are, 0 if not, or -ECANCELED when one of them has failed.
 */
int db_agree(struct db_thread *t, bool content)
{
	struct db_run *run = t->run;
	int turn = atomic_read(&run->turn);
	int ret;

	if (!content)
		atomic_set(&run->discontent, turn);
	ret = db_meet(run);
	return ret ?: atomic_read(&run->discontent) != turn;
}

/* Calls @round for as long as a slice lasts; returns ps for one buffer. */
static u64 db_slice(struct db_run *run, struct db_thread *t,
		    void (*round)(struct db_thread *t))
{
	unsigned long rounds = 0, batch = 1, i;
	u64 start, now, last;

	start = ktime_get_ns();
	last = start;
	do {
		for (i = 0; i < batch; i++)
			round(t);
		rounds += batch;
		now = ktime_get_ns();
		if (now - last < DB_CLOCK_NS / 2)
			batch *= 2;
		last = now;
	} while (now - start < run->slice_ns);

	return div64_u64((now - start) * DB_PS_IN_NS, (u64)rounds * t->c.depth);
}

static int db_measure_here(struct db_run *run, struct db_thread *t)
{
	const struct db_pattern *p = t->c.pattern;
	int i, ret = 0;

	/* Caches and branches are warm for both. */
	db_slice(run, t, p->floor);
	db_slice(run, t, p->round);
	t->refused = 0;
	for (i = 0; i < DB_SLICES && !ret; i++) {
		ret = db_meet(run);
		t->floor_ps[i] = db_slice(run, t, p->floor);
		ret = ret ?: db_meet(run);
		t->round_ps[i] = db_slice(run, t, p->round);
		cond_resched();
	}
	return ret;
}

static int db_thread_main(void *data)
{
	struct db_job *job = data;
	struct db_thread *t = job->thread;

	job->ret = t->c.pattern->prepare(t);
	if (!job->ret) {
		job->ret = db_measure_here(job->run, t);
		if (t->c.pattern->finish)
			t->c.pattern->finish(t);
	}
	if (job->ret)
		WRITE_ONCE(job->run->broken, true);
	complete(&job->done);
	return 0;
}

/**
 * db_measure() - measure a case on the first CPUs at the same time
 * @threads: one for each CPU; round_ps, floor_ps and refused are filled in
 * @n: number of threads
 * @slice_ns: how long each slice lasts at least, in ns
 *
 * Context: may sleep.
 * Return: 0, -ENOMEM when not all buffers could be mapped at once, or another
 * negative error.
 */
int db_measure(struct db_thread **threads, unsigned int n, u64 slice_ns)
{
	struct db_run run = {
		.n = n,
		.slice_ns = slice_ns,
		.discontent = ATOMIC_INIT(-1),
	};
	struct db_job jobs[DB_THREADS] = {};
	unsigned int i, started;
	int ret = 0;

	if (n > DB_THREADS || n > num_online_cpus())
		return -EINVAL;

	for (started = 0; started < n; started++) {
		struct db_job *job = &jobs[started];
		struct task_struct *task;

		job->run = &run;
		job->thread = threads[started];
		job->thread->run = &run;
		init_completion(&job->done);
		task = kthread_create(db_thread_main, job, "bench/%u", started);
		if (IS_ERR(task)) {
			ret = PTR_ERR(task);
			WRITE_ONCE(run.broken, true);
			break;
		}
		kthread_bind(task, started);
		wake_up_process(task);
	}
	for (i = 0; i < started; i++) {
		wait_for_completion(&jobs[i].done);
		/* The first error, but not of threads that waited for it. */
		if (jobs[i].ret && (!ret || ret == -ECANCELED))
			ret = jobs[i].ret;
	}
	return ret;
}
