// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings until nothing is left, and what has to work even then.
 *
 * These cases map until they are refused. They need a small pool or a small
 * cap, so they run only when they are asked for by exhaust=1.
 */

#include <linux/cc_platform.h>
#include <linux/cpumask.h>
#include <linux/irq_work.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>

#include "dma_test.h"

/* Mappings that are made in one interrupt. */
#define DT_IRQ_BATCH	32
/* More than any pool of these tests holds: 512 MiB. */
#define DT_MOST		(SZ_512M / SZ_4K)
/* If mappings are refused for so long while kccd is awake, nothing is left. */
#define DT_EMPTY	(2 * HZ)
#define DT_TIME_LIMIT	((dt_quick ? 5 : 120) * HZ)
/* The most mappings that a thread of dt_exhausted_with_mask() holds. */
#define DT_HELD		2048

/* Mappings of a page, all of the same buffer: the content does not matter. */
struct dt_flood {
	struct device *dev;
	void *buffer;
	dma_addr_t *dma;
	unsigned int made;
	bool refused;
	struct irq_work work;
};

static void dt_flood_some(struct irq_work *work)
{
	struct dt_flood *flood = container_of(work, struct dt_flood, work);
	int i;

	flood->refused = false;
	for (i = 0; i < DT_IRQ_BATCH && flood->made < DT_MOST; i++) {
		dma_addr_t dma = dma_map_page_attrs(flood->dev,
						    virt_to_page(flood->buffer),
						    0, PAGE_SIZE, DMA_TO_DEVICE,
						    DMA_ATTR_NO_WARN);

		if (dma_mapping_error(flood->dev, dma)) {
			flood->refused = true;
			return;
		}
		flood->dma[flood->made++] = dma;
	}
}

/* Maps in hard interrupt context until all are refused for DT_EMPTY. */
static void dt_flood_all(struct dt_flood *flood)
{
	unsigned long served = jiffies;

	init_irq_work(&flood->work, dt_flood_some);
	while (time_before(jiffies, served + DT_EMPTY)) {
		unsigned int before = flood->made;

		irq_work_queue(&flood->work);
		irq_work_sync(&flood->work);
		if (flood->made > before)
			served = jiffies;
		if (flood->refused)
			schedule_timeout_uninterruptible(1);
		else
			cond_resched();
		if (flood->made == DT_MOST)
			break;
	}
	dt_expect(flood->made < DT_MOST, "%u mappings, and none refused",
		  flood->made);
	dt_note("%u mappings of a page until nothing was left", flood->made);
}

static void dt_unflood(struct dt_flood *flood)
{
	while (flood->made) {
		dma_unmap_page_attrs(flood->dev, flood->dma[--flood->made],
				     PAGE_SIZE, DMA_TO_DEVICE, 0);
		if (flood->made % 1024 == 0)
			cond_resched();
	}
}

/*
 * Mappings of a page each for a receive ring, made in interrupts, may take
 * everything but the last slots of the largest classes: drivers were promised
 * mappings of dma_max_mapping_size() bytes.
 */
void dt_small_leave_large(struct dt *dt)
{
	struct dt_flood flood = { .dev = dt->dev, .buffer = dt->area };
	static const size_t sizes[] = { SZ_256K, 0 /* the largest */ };
	unsigned int s;

	flood.dma = vcalloc(DT_MOST, sizeof(*flood.dma));
	if (!dt_expect(flood.dma, "no memory"))
		return;

	dt_flood_all(&flood);
	for (s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct dt_map m = {
			.dev = dt->dev,
			.cpu = dt->area + PAGE_SIZE,
			.size = sizes[s] ?: dma_max_mapping_size(dt->dev),
			.dir = dt_direction(s),
		};

		if (dt_fault == DT_FAULT_REFUSE)
			dt_report("fault=refuse");
		else
			dt_round_trip(&m, 0, m.size);
	}
	dt_unflood(&flood);
	vfree(flood.dma);
}

/*
 * A device that reaches only 32 bits has as much as mainline gives it, at least
 * three quarters of the default pool, wherever the rest of the slots lie.
 */
void dt_small_mask_has_enough(struct dt *dt)
{
	unsigned int i, n, wanted = SZ_32M / SZ_64K * 3 / 2;
	struct dt_map *maps = vcalloc(wanted, sizeof(*maps));
	atomic_long_t refused = ATOMIC_LONG_INIT(0);

	if (!dt_expect(maps, "no memory"))
		return;
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT) ||
	    dma_set_mask(dt->dev, DMA_BIT_MASK(32))) {
		dt_skip("shared memory may have no 32-bit address");
		goto out;
	}
	for (n = 0; n < wanted && !dt_failed(); n++) {
		maps[n] = (struct dt_map) {
			.dev = dt->dev,
			.cpu = dt->area + PAGE_SIZE,
			.size = SZ_64K,
			.dir = DMA_TO_DEVICE,
			.attrs = DMA_ATTR_NO_WARN,
		};
		if (dt_fault == DT_FAULT_DMA_MASK && n == 64) {
			dt_report("fault=dma_mask");
			break;
		}
		if (dt_map_patiently(&maps[n], &refused))
			break;
	}
	dt_note("%u of %u mappings of 64 KiB at a time, refused %ld times", n,
		wanted, atomic_long_read(&refused));
	for (i = 0; i < n; i++)
		dt_unmap(&maps[i]);
	dt_expect(!dma_set_mask(dt->dev, DMA_BIT_MASK(64)), "64-bit DMA");
out:
	vfree(maps);
}

struct dt_held {
	dma_addr_t dma;
	size_t size;
};

struct dt_hog {
	struct dt *dt;
	struct task_struct *task;
	struct dt_held *held;
	unsigned int made;
	unsigned int refused;
	bool done;
};

static int dt_hog_main(void *data)
{
	struct dt_hog *hog = data;
	unsigned int n;

	for (n = 0; n < 4 * DT_HELD && hog->made < DT_HELD; n++) {
		/* As NVMe maps: at any offset in a page, up to 64 KiB. */
		size_t size = SZ_4K << n % 5;
		dma_addr_t dma;

		dma = dma_map_page_attrs(hog->dt->dev,
					 virt_to_page(hog->dt->area), n % SZ_4K,
					 size, DMA_TO_DEVICE, DMA_ATTR_NO_WARN);
		if (dma_mapping_error(hog->dt->dev, dma)) {
			hog->refused++;
			/* Wait, like a queue that is run again later. */
			if (hog->refused % 64 == 0)
				schedule_timeout_uninterruptible(1);
			continue;
		}
		hog->held[hog->made].dma = dma;
		hog->held[hog->made].size = size;
		hog->made++;
		cond_resched();
	}
	WRITE_ONCE(hog->done, dt_fault != DT_FAULT_ENDLESS);
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static void dt_hog_start(struct dt_hog *hog, int cpu)
{
	hog->held = vcalloc(DT_HELD, sizeof(*hog->held));
	if (!dt_expect(hog->held, "no memory"))
		return;
	hog->task = kthread_create(dt_hog_main, hog, "dma_test/%d", cpu);
	if (!dt_expect(!IS_ERR(hog->task), "no thread")) {
		hog->task = NULL;
		return;
	}
	kthread_bind(hog->task, cpu);
	wake_up_process(hog->task);
}

static void dt_hog_end(struct dt_hog *hog)
{
	if (hog->task)
		kthread_stop(hog->task);
	while (hog->held && hog->made) {
		const struct dt_held *last = &hog->held[--hog->made];

		dma_unmap_page_attrs(hog->dt->dev, last->dma, last->size,
				     DMA_TO_DEVICE, 0);
	}
	vfree(hog->held);
}

/*
 * All CPUs map with an alignment mask while slots are short. There was once a
 * search that started again and again and never came to an end.
 */
void dt_exhausted_with_mask(struct dt *dt)
{
	struct dt_hog *hogs = vcalloc(nr_cpu_ids, sizeof(*hogs));
	unsigned long end = jiffies + DT_TIME_LIMIT;
	unsigned long made = 0, refused = 0;
	int cpu;

	if (!dt_expect(hogs, "no memory"))
		return;
	dma_set_min_align_mask(dt->dev, SZ_4K - 1);
	for_each_online_cpu(cpu) {
		hogs[cpu].dt = dt;
		dt_hog_start(&hogs[cpu], cpu);
	}
	for_each_online_cpu(cpu) {
		while (hogs[cpu].task && !READ_ONCE(hogs[cpu].done) &&
		       time_before(jiffies, end))
			schedule_timeout_uninterruptible(1);
		dt_expect(!hogs[cpu].task || hogs[cpu].done,
			  "CPU %d is not done, %u made, %u refused", cpu,
			  hogs[cpu].made, hogs[cpu].refused);
		made += hogs[cpu].made;
		refused += hogs[cpu].refused;
	}
	dt_expect(refused, "%lu mappings, and none refused", made);
	dt_note("%lu mappings made, %lu refused", made, refused);
	for_each_online_cpu(cpu)
		dt_hog_end(&hogs[cpu]);
	vfree(hogs);
}
