// SPDX-License-Identifier: GPL-2.0
/*
 * Torture for bounce buffers, in the manner of rcutorture: it starts when it is
 * loaded, ends by itself after a time, on the first error, or when it is
 * unloaded, and says how it ended in one line.
 */

#define pr_fmt(fmt) "cc_swiotlb_torture: " fmt

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/seq_buf.h>
#include <linux/sysfs.h>

#include "torture.h"

static unsigned int seconds = 60;
module_param(seconds, uint, 0444);
MODULE_PARM_DESC(seconds, "how long it runs");

static bool more;
module_param(more, bool, 0644);
MODULE_PARM_DESC(more, "go on after that until this is cleared");

static unsigned int seed;
module_param(seed, uint, 0444);
MODULE_PARM_DESC(seed, "what random numbers start from; 0 for a random one");

static unsigned int writers;
module_param(writers, uint, 0444);
MODULE_PARM_DESC(writers, "threads that map and unmap; 0 for one for each CPU");

static unsigned int holders = 1;
module_param(holders, uint, 0444);
MODULE_PARM_DESC(holders, "threads that hold mappings for long");

unsigned int tt_max_held = 256;
module_param_named(max_held, tt_max_held, uint, 0444);
MODULE_PARM_DESC(max_held, "most mappings that one of them holds");

unsigned int tt_hold = 120;
module_param_named(hold, tt_hold, uint, 0444);
MODULE_PARM_DESC(hold, "longest time that it holds one, in seconds");

unsigned int tt_irq = 30;
module_param_named(irq, tt_irq, uint, 0444);
MODULE_PARM_DESC(irq, "percent of calls in interrupts or on another CPU");

unsigned int tt_tick_ms = 3;
module_param_named(tick, tt_tick_ms, uint, 0444);
MODULE_PARM_DESC(tick, "milliseconds between a writer's interrupts; 0 for none");

unsigned int tt_fragment_s;
module_param_named(fragment, tt_fragment_s, uint, 0444);
MODULE_PARM_DESC(fragment, "seconds for which free memory is single pages, and then is not; 0 for never");

bool tt_zero;
module_param_named(zero, tt_zero, bool, 0444);
MODULE_PARM_DESC(zero, "expect cc_swiotlb.from_device=zero");

static unsigned int storm = 96;
module_param(storm, uint, 0444);
MODULE_PARM_DESC(storm, "most that is mapped at a time in a storm, in MiB");

static unsigned int cycle = 10000;
module_param(cycle, uint, 0444);
MODULE_PARM_DESC(cycle, "milliseconds from one storm to the next");

static unsigned int stat_interval = 15;
module_param(stat_interval, uint, 0444);
MODULE_PARM_DESC(stat_interval, "seconds from one report to the next; 0 for none");

static char *fault = "none";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "a fault to imitate, so that checks are seen to fail");

/* The names of the counters, as they are shown. */
static const char * const tt_count_names[TT_COUNTS] = {
	[TT_MAPS] = "maps",
	[TT_UNMAPS] = "unmaps",
	[TT_SYNCS] = "syncs",
	[TT_REFUSED] = "refused",
	[TT_OVERSIZE] = "oversize",
	[TT_LISTS] = "lists",
	[TT_STORMS] = "storms",
	[TT_HELD] = "held",
	[TT_PASSED_ON] = "passed_on",
	[TT_CROSSED] = "crossed",
	[TT_TICKS] = "ticks",
	[TT_IN_TASK] = "in_task",
	[TT_IN_IRQS_OFF] = "in_irqs_off",
	[TT_IN_SOFTIRQ] = "in_softirq",
	[TT_IN_HARDIRQ] = "in_hardirq",
	[TT_IN_REMOTE_TASK] = "in_remote_task",
	[TT_IN_REMOTE_SOFTIRQ] = "in_remote_softirq",
	[TT_IN_REMOTE_HARDIRQ] = "in_remote_hardirq",
	[TT_MOVES] = "moves",
	[TT_NO_MEMORY] = "no_memory",
	[TT_FRAGMENTED] = "fragmented",
	[TT_LENT] = "lent",
	[TT_LENT_MAPPED] = "lent_mapped",
	[TT_LENT_BOUNCED] = "lent_bounced",
};

static const char * const tt_context_names[] = {
	"task", "irqs off", "softirq", "hardirq", "remote task",
	"remote softirq", "remote hardirq", "timer",
};

DEFINE_PER_CPU(unsigned long [TT_COUNTS], tt_counts);

u64 tt_storm_bytes;
enum tt_fault tt_fault;

static struct task_struct *tt_main_task;
static unsigned long tt_started;
static atomic_t tt_errors;
static bool tt_stop, tt_over;

/* The present phase of the writers. Context: any. */
enum tt_phase tt_phase(void)
{
	unsigned int ms = jiffies_to_msecs(jiffies - tt_started) % cycle;

	if (ms < cycle / 10 * 6)
		return TT_MIX;
	return ms < cycle / 10 * 8 ? TT_STORM : TT_QUIET;
}

/* Whether no new mappings are to be made. Context: any. */
bool tt_stopped(void)
{
	return READ_ONCE(tt_stop);
}

/**
 * tt_fail() - report an error, and end the test
 * @m: mapping, or %NULL
 * @fmt: what is wrong with it
 *
 * Only the first error is shown: those that follow may be its consequences.
 *
 * Context: any.
 */
void tt_fail(const struct tt_map *m, const char *fmt, ...)
{
	struct va_format vaf;
	va_list args;

	if (atomic_inc_return(&tt_errors) > 1)
		return;
	WRITE_ONCE(tt_stop, true);

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	pr_err("ERROR: %s%pV\n", m ? "a mapping: " : "", &vaf);
	va_end(args);
	if (m)
		pr_err("%s: %u bytes at %#lx in a page, direction %d, attributes %#lx %#lx, address %pad, mapped on CPU %d, now on CPU %d, context %s\n",
		       dev_name(m->dev), m->size, offset_in_page(m->cpu),
		       m->dir, m->attrs, m->unmap_attrs, &m->dma, m->map_cpu,
		       raw_smp_processor_id(), tt_context_names[m->context]);
	pr_err("seed=%u, after %u ms\n", seed,
	       jiffies_to_msecs(jiffies - tt_started));
}

static unsigned long tt_total(enum tt_count what)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(tt_counts[what], cpu);
	return sum;
}

/* The number of calls into the DMA API that did something. */
static unsigned long tt_operations(void)
{
	return tt_total(TT_MAPS) + tt_total(TT_UNMAPS) + tt_total(TT_SYNCS);
}

static void tt_show(struct seq_buf *out, char separator, char assignment)
{
	enum tt_count what;

	seq_buf_printf(out, "ops%c%lu", assignment, tt_operations());
	for (what = 0; what < TT_COUNTS; what++)
		seq_buf_printf(out, "%c%s%c%lu", separator,
			       tt_count_names[what], assignment,
			       tt_total(what));
}

static void tt_say(const char *what)
{
	char text[768];
	struct seq_buf out;

	seq_buf_init(&out, text, sizeof(text));
	tt_show(&out, ' ', '=');
	pr_info("%s %s seed=%u\n", what, seq_buf_str(&out), seed);
}

static int tt_stats_get(char *page, const struct kernel_param *kp)
{
	struct seq_buf out;

	seq_buf_init(&out, page, PAGE_SIZE);
	seq_buf_printf(&out, "state: %s\n",
		       !READ_ONCE(tt_over) ? "running" :
		       atomic_read(&tt_errors) ? "failure" : "success");
	seq_buf_printf(&out, "errors: %d\n", atomic_read(&tt_errors));
	tt_show(&out, '\n', ' ');
	seq_buf_putc(&out, '\n');
	return seq_buf_used(&out);
}

static const struct kernel_param_ops tt_stats_ops = {
	.get = tt_stats_get,
};
module_param_cb(stats, &tt_stats_ops, NULL, 0444);
MODULE_PARM_DESC(stats, "whether it runs, and what it has done so far");

/* At the end, all mappings that were made have to be undone. */
static void tt_check_sums(void)
{
	unsigned long maps = tt_total(TT_MAPS), unmaps = tt_total(TT_UNMAPS);

	if (maps != unmaps)
		tt_fail(NULL, "%lu mappings were made, %lu undone", maps,
			unmaps);
	if (!maps)
		tt_fail(NULL, "no mapping was ever made");
}

static int tt_main(void *unused)
{
	unsigned long end = tt_started + seconds * HZ;
	unsigned long report = tt_started + stat_interval * HZ;

	while (!kthread_should_stop() && !tt_stopped() &&
	       (time_before(jiffies, end) || READ_ONCE(more))) {
		schedule_timeout_interruptible(HZ / 10);
		if (stat_interval && time_after(jiffies, report)) {
			tt_say("so far:");
			report += stat_interval * HZ;
		}
	}

	WRITE_ONCE(tt_stop, true);
	tt_threads_stop();
	tt_check_sums();
	tt_say(atomic_read(&tt_errors) ? "End of test: FAILURE" :
	       "End of test: SUCCESS");
	WRITE_ONCE(tt_over, true);

	while (!kthread_should_stop())
		schedule_timeout_interruptible(HZ / 10);
	return 0;
}

static int tt_start(void)
{
	int ret;

	/* One for each mapping there can be, if all were of one kind. */
	ret = tt_devices_init(holders * tt_max_held + TT_BOXES + 4 * writers);
	if (ret)
		return ret;

	pr_info("seed=%u writers=%u seconds=%u fault=%s\n", seed, writers,
		seconds, fault);
	tt_started = jiffies;
	ret = tt_threads_start(writers, holders, seed);
	if (ret)
		return ret;

	tt_main_task = kthread_run(tt_main, NULL, "torture");
	if (IS_ERR(tt_main_task)) {
		WRITE_ONCE(tt_stop, true);
		tt_threads_stop();
		return PTR_ERR(tt_main_task);
	}
	return 0;
}

static int __init tt_init(void)
{
	int ret = tt_fault_find(fault);

	if (ret < 0) {
		pr_err("fault=%s is not known\n", fault);
		return ret;
	}
	tt_fault = ret;
	if (!seed)
		seed = get_random_u32();
	if (!writers)
		writers = num_online_cpus();
	cycle = max(cycle, 100);
	tt_hold = max(tt_hold, 1);
	tt_max_held = max(tt_max_held, 1);
	tt_storm_bytes = (u64)storm * SZ_1M / writers;

	ret = tt_pattern_init();
	if (ret)
		return ret;
	ret = tt_start();
	if (ret) {
		tt_devices_exit();
		tt_pattern_exit();
	}
	return ret;
}
module_init(tt_init);

static void __exit tt_exit(void)
{
	kthread_stop(tt_main_task);
	tt_devices_exit();
	tt_pattern_exit();
}
module_exit(tt_exit);

MODULE_DESCRIPTION("Torture for bounce buffers");
MODULE_LICENSE("GPL");
