// SPDX-License-Identifier: GPL-2.0
/*
 * The threads: how they start, on which CPU they run, how they end.
 */

#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "torture.h"

static struct tt_thread *tt_threads;
static unsigned int tt_nr_threads;

/**
 * tt_thread_goes_on() - whether the calling thread has more to do
 *
 * After the first error, and after the time is up, it waits here until it is
 * collected.
 *
 * Context: may sleep.
 * Return: %false if it has to return.
 */
bool tt_thread_goes_on(void)
{
	while (tt_stopped() && !kthread_should_stop())
		schedule_timeout_interruptible(HZ / 50);
	return !kthread_should_stop();
}

/**
 * tt_thread_move() - go to another CPU
 * @t: thread, the calling one
 *
 * The thread is not bound to its CPU like the threads that belong to a CPU:
 * when the CPU goes away, the thread runs elsewhere.
 *
 * Context: may sleep.
 */
void tt_thread_move(struct tt_thread *t)
{
	unsigned int n = tt_below(&t->rnd, num_online_cpus());
	int cpu;

	for_each_online_cpu(cpu) {
		if (!n--)
			break;
	}
	/* The CPU may be gone by now: then the thread stays. */
	if (cpu < nr_cpu_ids && !set_cpus_allowed_ptr(current, cpumask_of(cpu)))
		tt_count(TT_MOVES);
	tt_tick_start(t->tick);
}

static int tt_thread_start(int (*run)(void *data), u32 seed)
{
	struct tt_thread *t = &tt_threads[tt_nr_threads];
	struct task_struct *task;
	int ret;

	prandom_seed_state(&t->rnd, seed + tt_nr_threads);
	if (run == tt_writer) {
		ret = tt_storm_new(t);
		if (!ret && tt_tick_ms) {
			t->tick = tt_tick_new(&t->rnd);
			ret = t->tick ? 0 : -ENOMEM;
		}
		if (ret)
			goto failed;
	}

	task = kthread_run(run, t, "torture/%u", tt_nr_threads);
	if (IS_ERR(task)) {
		ret = PTR_ERR(task);
		goto failed;
	}
	t->task = task;
	tt_nr_threads++;
	return 0;

failed:
	tt_tick_free(t->tick);
	tt_storm_free(t);
	return ret;
}

/**
 * tt_threads_start() - start all threads
 * @writers: number of writers
 * @holders: number of holders
 * @seed: where their random numbers start
 *
 * Context: may sleep.
 * Return: 0 or a negative error, and then no thread runs.
 */
int tt_threads_start(unsigned int writers, unsigned int holders, u32 seed)
{
	unsigned int i;
	int ret = 0;

	/* One more fragments memory. */
	tt_threads = kzalloc_objs(*tt_threads, writers + holders + 1);
	if (!tt_threads)
		return -ENOMEM;

	for (i = 0; i < writers + holders && !ret; i++)
		ret = tt_thread_start(i < writers ? tt_writer : tt_holder,
				      seed);
	if (!ret && tt_fragment_s)
		ret = tt_thread_start(tt_fragmenter, seed);
	if (ret)
		tt_threads_stop();
	return ret;
}

/**
 * tt_threads_stop() - stop all threads, and undo all mappings
 *
 * Context: may sleep.
 */
void tt_threads_stop(void)
{
	unsigned int i;

	for (i = 0; i < tt_nr_threads; i++)
		kthread_stop(tt_threads[i].task);
	for (i = 0; i < tt_nr_threads; i++) {
		tt_tick_free(tt_threads[i].tick);
		tt_storm_free(&tt_threads[i]);
	}
	if (tt_nr_threads) {
		tt_boxes_empty(&tt_threads[0].rnd);
		tt_lent_boxes_empty(&tt_threads[0]);
	}
	kfree(tt_threads);
	tt_nr_threads = 0;
}
