// SPDX-License-Identifier: GPL-2.0
/*
 * The shrinker, the CPU hotplug callback and work on other CPUs, which the
 * kernel crate has no abstractions for.
 */

#define pr_fmt(fmt) "cc_swiotlb: " fmt

#include <linux/cpuhotplug.h>
#include <linux/percpu.h>
#include <linux/printk.h>
#include <linux/shrinker.h>
#include <linux/sizes.h>

#include "cc_swiotlb_glue.h"

static DEFINE_PER_CPU(struct work_struct, drain_work);

/**
 * cc_swiotlb_drain() - Make a CPU return the slots that it holds.
 * @cpu: Number of a possible CPU. If it is offline another one runs the work.
 *
 * Context: any but NMI.
 */
void cc_swiotlb_drain(unsigned int cpu)
{
	queue_work_on(cpu, system_percpu_wq, per_cpu_ptr(&drain_work, cpu));
}

/**
 * cc_swiotlb_drain_all() - Make all CPUs return the slots that they hold.
 *
 * Context: may sleep; waits until they have.
 */
void cc_swiotlb_drain_all(void)
{
	if (schedule_on_each_cpu(cc_swiotlb_drain_this_cpu))
		pr_warn("no memory to drain the CPUs\n");
}

static unsigned long count(struct shrinker *shrinker, struct shrink_control *sc)
{
	return cc_swiotlb_spare_pages();
}

/*
 * Converting sleeps and allocates, so kccd does it, as much as is asked for.
 * This does not wait: nothing has been freed yet when it returns.
 */
static unsigned long scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	cc_swiotlb_give_back(sc->nr_to_scan);
	return 0;
}

static int cpu_dead(unsigned int cpu)
{
	cc_swiotlb_cpu_dead(cpu);
	return 0;
}

/**
 * cc_swiotlb_register() - Register the shrinker and the hotplug callback.
 *
 * To be called once, before anything is drained. Context: may sleep.
 * Return: 0 or a negative error; what could be registered stays registered.
 */
int cc_swiotlb_register(void)
{
	struct shrinker *shrinker = shrinker_alloc(0, "cc_swiotlb");
	int cpu, ret;

	for_each_possible_cpu(cpu)
		INIT_WORK(per_cpu_ptr(&drain_work, cpu), cc_swiotlb_drain_this_cpu);
	if (shrinker) {
		shrinker->count_objects = count;
		shrinker->scan_objects = scan;
		/* Memory is given back a chunk at a time. */
		shrinker->batch = SZ_2M / PAGE_SIZE;
		shrinker_register(shrinker);
	}
	/* In the prepare section a CPU that goes down is already dead. */
	ret = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN,
					"cc_swiotlb:dead", NULL, cpu_dead);
	if (ret < 0)
		return ret;
	return shrinker ? 0 : -ENOMEM;
}
