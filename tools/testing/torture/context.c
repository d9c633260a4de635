// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a function in another context, or on another CPU, and waits for it.
 */

#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/hardirq.h>
#include <linux/irq_work.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/workqueue.h>

#include "torture.h"

/* A function that runs in the other context. */
struct tt_call {
	void (*run)(struct tt_map *m);
	struct tt_map *m;
	struct irq_work irq_work;
	struct work_struct work;
};

static void tt_call_irq_work(struct irq_work *work)
{
	struct tt_call *call = container_of(work, struct tt_call, irq_work);

	call->run(call->m);
}

static void tt_call_bh(struct work_struct *work)
{
	struct tt_call *call = container_of(work, struct tt_call, work);

	call->run(call->m);
}

static long tt_call_task(void *data)
{
	struct tt_call *call = data;

	call->run(call->m);
	return 0;
}

/* Drivers do not run in an IPI; they do in the irq_work that this queues. */
static void tt_call_ipi(void *data)
{
	struct tt_call *call = data;

	irq_work_queue(&call->irq_work);
}

static void tt_in_hardirq(struct tt_call *call, int cpu)
{
	init_irq_work(&call->irq_work, tt_call_irq_work);
	if (cpu < 0)
		irq_work_queue(&call->irq_work);
	else
		smp_call_function_single(cpu, tt_call_ipi, call, true);
	irq_work_sync(&call->irq_work);
}

static void tt_in_softirq(struct tt_call *call, int cpu)
{
	INIT_WORK_ONSTACK(&call->work, tt_call_bh);
	if (cpu < 0)
		queue_work(system_bh_wq, &call->work);
	else
		queue_work_on(cpu, system_bh_wq, &call->work);
	flush_work(&call->work);
	destroy_work_on_stack(&call->work);
}

static void tt_with_irqs_off(struct tt_call *call)
{
	unsigned long flags;

	local_irq_save(flags);
	call->run(call->m);
	local_irq_restore(flags);
}

/* Returns a random CPU that is online and not this one, or -1. */
static int tt_other_cpu(struct rnd_state *rnd)
{
	int this = raw_smp_processor_id();
	unsigned int others = num_online_cpus() - cpu_online(this);
	unsigned int n;
	int cpu;

	if (!others)
		return -1;
	n = tt_below(rnd, others);
	for_each_online_cpu(cpu) {
		if (cpu != this && !n--)
			return cpu;
	}
	return -1;
}

static void tt_run_remote(enum tt_context context, struct rnd_state *rnd,
			  struct tt_call *call)
{
	int cpu;

	/* The CPU must not go away meanwhile. */
	cpus_read_lock();
	cpu = tt_other_cpu(rnd);
	if (cpu < 0)
		call->run(call->m);
	else if (context == TT_REMOTE_TASK)
		work_on_cpu(cpu, tt_call_task, call);
	else if (context == TT_REMOTE_SOFTIRQ)
		tt_in_softirq(call, cpu);
	else
		tt_in_hardirq(call, cpu);
	cpus_read_unlock();

	if (cpu >= 0)
		tt_count(TT_IN_TASK + context);
}

/* Chooses a context: usually the thread itself, others in irq= percent. */
enum tt_context tt_some_context(struct rnd_state *rnd)
{
	if (tt_below(rnd, 100) >= tt_irq)
		return TT_TASK;
	return 1 + tt_below(rnd, TT_CONTEXTS - 1);
}

/**
 * tt_run_in() - run a function in a context, and wait for it
 * @context: where
 * @rnd: random numbers
 * @run: function
 * @m: what it is given
 *
 * Where no other CPU is online, the remote contexts are the thread itself.
 *
 * Context: may sleep.
 */
void tt_run_in(enum tt_context context, struct rnd_state *rnd,
	       void (*run)(struct tt_map *m), struct tt_map *m)
{
	struct tt_call call = { .run = run, .m = m };

	switch (context) {
	case TT_IRQS_OFF:
		tt_with_irqs_off(&call);
		break;
	case TT_SOFTIRQ:
		tt_in_softirq(&call, -1);
		break;
	case TT_HARDIRQ:
		tt_in_hardirq(&call, -1);
		break;
	case TT_REMOTE_TASK:
	case TT_REMOTE_SOFTIRQ:
	case TT_REMOTE_HARDIRQ:
		tt_run_remote(context, rnd, &call);
		return;
	default:
		run(m);
		break;
	}
	tt_count(TT_IN_TASK + context);
}
