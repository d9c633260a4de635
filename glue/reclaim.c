// SPDX-License-Identifier: GPL-2.0
/*
 * The shrinker and the CPU hotplug callback, which the kernel crate has no
 * means for, and what a CPU may do in its present context.
 */

#include <linux/cpuhotplug.h>
#include <linux/jiffies.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/rt.h>
#include <linux/shrinker.h>
#include <linux/stop_machine.h>

#include "cc_swiotlb_glue.h"

/**
 * cc_swiotlb_may_wait() - Whether the current context may spin for a while.
 *
 * A task that can be preempted holds no spinlock, so that no CPU is stuck with
 * its interrupts disabled for us: kccd's TLB shootdown needs all of them. And
 * it does not keep kccd from its own CPU, as a real-time task would. Whoever
 * reclaims memory does not wait for kccd, which may be waiting for memory, or
 * be the one that reclaims.
 *
 * Return: %true if it may.
 */
bool cc_swiotlb_may_wait(void)
{
	return preemptible() && !(current->flags & PF_MEMALLOC) &&
		!rt_or_dl_task(current);
}

/**
 * cc_swiotlb_no_io() - The current task's allocations start no I/O any more.
 *
 * For kccd: I/O may be waiting for it.
 */
void cc_swiotlb_no_io(void)
{
	memalloc_noio_save();
}

/**
 * cc_swiotlb_run_on() - Call a function on another CPU.
 * @cpu: Number of the CPU.
 * @function: What to call, with preemption disabled. It returns 0.
 * @call: What is passed to it.
 *
 * Context: may sleep.
 * Return: 0 when it has returned, -ENOENT if the CPU is not online.
 */
int cc_swiotlb_run_on(unsigned int cpu, int (*function)(void *call), void *call)
{
	return stop_one_cpu(cpu, function, call);
}

static unsigned long count(struct shrinker *shrinker, struct shrink_control *sc)
{
	return cc_swiotlb_surplus_pages();
}

/*
 * Converting sleeps and allocates: kccd does it, and this does not wait. Those
 * who reclaim come by the hundred, and kccd itself may be one of them: it is
 * not asked again before it can have done something.
 */
static unsigned long scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	static unsigned long next = INITIAL_JIFFIES;

	if (time_after_eq(jiffies, READ_ONCE(next))) {
		WRITE_ONCE(next, jiffies + HZ / 5);
		cc_swiotlb_give_back();
	}
	return SHRINK_STOP;
}

static int cpu_dead(unsigned int cpu)
{
	cc_swiotlb_cpu_dead(cpu);
	return 0;
}

/**
 * cc_swiotlb_register() - Register the shrinker and the hotplug callback.
 *
 * To be called once. Context: may sleep.
 * Return: 0 or a negative error, and what could be registered is.
 */
int cc_swiotlb_register(void)
{
	struct shrinker *shrinker = shrinker_alloc(0, "cc_swiotlb");
	int ret;

	if (shrinker) {
		shrinker->count_objects = count;
		shrinker->scan_objects = scan;
		shrinker_register(shrinker);
	}
	/* In the prepare section, where a CPU that goes down is dead already. */
	ret = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN,
					"cc_swiotlb:dead", NULL, cpu_dead);
	if (ret < 0)
		return ret;
	return shrinker ? 0 : -ENOMEM;
}
