// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the test cases on a device of the module's own, and reports in KTAP.
 */

#include <linux/glob.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/panic.h>
#include <linux/platform_device.h>
#include <linux/slab.h>

#include "dma_test.h"

/* Messages of one case: enough to see the fault, not enough to bury it. */
#define DT_MESSAGES	10

static char *test = "*";
module_param(test, charp, 0444);
MODULE_PARM_DESC(test, "run the cases whose names match this pattern");

static bool misuse;
module_param(misuse, bool, 0444);
MODULE_PARM_DESC(misuse, "run the misuse cases instead (cc_swiotlb only)");

static bool iommu;
module_param(iommu, bool, 0444);
MODULE_PARM_DESC(iommu, "run the cases of a device behind an IOMMU instead");

static bool exhaust;
module_param(exhaust, bool, 0444);
MODULE_PARM_DESC(exhaust, "run the cases that map until they are refused instead");

unsigned int dt_decide;
module_param_named(decide, dt_decide, uint, 0444);
MODULE_PARM_DESC(decide, "tell what the allocator decides instead; 2: while all is overwritten");

bool dt_quick;
module_param_named(quick, dt_quick, bool, 0444);
MODULE_PARM_DESC(quick, "fewer sizes and offsets in each case");

bool dt_zero;
module_param_named(zero, dt_zero, bool, 0444);
MODULE_PARM_DESC(zero, "expect cc_swiotlb.from_device=zero");

unsigned int dt_every = 20000;
module_param_named(every, dt_every, uint, 0444);
MODULE_PARM_DESC(every, "try each size up to this many bytes, and if that is a page each offset in it");

unsigned int dt_seconds = 3;
module_param_named(seconds, dt_seconds, uint, 0444);
MODULE_PARM_DESC(seconds, "how long the parallel case runs");

static ulong seed = 1;
module_param(seed, ulong, 0444);
MODULE_PARM_DESC(seed, "what random sizes and offsets start from");

static char *fault = "none";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "a fault to imitate, so that cases are seen to fail");

enum dt_fault dt_fault;

static const char * const dt_fault_names[] = {
	[DT_FAULT_NONE] = "none",
	[DT_FAULT_UNBOUNCED] = "unbounced",
	[DT_FAULT_COPY_IN] = "copy_in",
	[DT_FAULT_TO_DEVICE] = "to_device",
	[DT_FAULT_COPY_BACK] = "copy_back",
	[DT_FAULT_OVERRUN] = "overrun",
	[DT_FAULT_UNDERRUN] = "underrun",
	[DT_FAULT_LEAK] = "leak",
	[DT_FAULT_OFFSET] = "offset",
	[DT_FAULT_LENGTH] = "length",
	[DT_FAULT_SKIP] = "skip",
	[DT_FAULT_ALIGN] = "align",
	[DT_FAULT_DMA_MASK] = "dma_mask",
	[DT_FAULT_BOUNDARY] = "boundary",
	[DT_FAULT_OVERLAP] = "overlap",
	[DT_FAULT_REMOTE] = "remote",
	[DT_FAULT_ATOMIC] = "atomic",
	[DT_FAULT_OVERSIZE] = "oversize",
	[DT_FAULT_REFUSE] = "refuse",
	[DT_FAULT_NEED_SYNC] = "need_sync",
	[DT_FAULT_WARN] = "warn",
	[DT_FAULT_ENDLESS] = "endless",
	[DT_FAULT_SYNC_BACK] = "sync_back",
};

static const struct dt_case dt_cases[] = {
	{ "sizes", dt_sizes },
	{ "offsets", dt_offsets },
	{ "large_offsets", dt_large_offsets },
	{ "surroundings", dt_surroundings },
	{ "churn", dt_churn },
	{ "seg_boundary", dt_seg_boundary },
	{ "oversize", dt_oversize },
	{ "dma_mask", dt_dma_mask },
	{ "need_sync", dt_need_sync },
	{ "sync_every_range", dt_sync_every_range },
	{ "sync_random_range", dt_sync_random_range },
	{ "sync_in_turn", dt_sync_in_turn },
	{ "skip_cpu_sync", dt_skip_cpu_sync },
	{ "no_mask_set", dt_no_mask_set },
	{ "other_cpu", dt_other_cpu },
	{ "hardirq", dt_hardirq },
	{ "softirq", dt_softirq },
	{ "irqs_off", dt_irqs_off },
	{ "scatterlist", dt_scatterlist },
	{ "scatterlist_oversize", dt_scatterlist_oversize },
	{ "many", dt_many },
	{ "parallel", dt_parallel },
	{ "coherent", dt_coherent },
	{ "coherent_atomic", dt_coherent_atomic },
	{ "lent_mapping", dt_lent_mapping },
};

static const struct dt_case dt_misuse_cases[] = {
	{ "double_unmap", dt_double_unmap },
	{ "unmap_inside", dt_unmap_inside },
	{ "unmap_never_mapped", dt_unmap_never_mapped },
	{ "sync_past_end", dt_sync_past_end },
	{ "sync_unmapped", dt_sync_unmapped },
	{ "unmap_other_length", dt_unmap_other_length },
	{ "free_twice", dt_free_twice },
};

static const struct dt_case dt_exhaust_cases[] = {
	{ "small_leave_large", dt_small_leave_large },
	{ "exhausted_with_mask", dt_exhausted_with_mask },
	{ "small_mask_has_enough", dt_small_mask_has_enough },
};

static const struct dt_case dt_iommu_cases[] = {
	{ "untrusted", dt_untrusted },
	{ "linked", dt_linked },
};

static const struct dt_case dt_decide_cases[] = {
	{ "decisions", dt_decisions },
};

static atomic_t dt_failures;
static atomic_t dt_seeds;
static const char *dt_skipped;

/**
 * dt_report() - fail the current case
 * @fmt: why
 *
 * Context: any, on any CPU.
 */
void dt_report(const char *fmt, ...)
{
	int n = atomic_inc_return(&dt_failures);
	struct va_format vaf;
	va_list args;

	if (n > DT_MESSAGES)
		return;

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	pr_info("    # %pV\n", &vaf);
	va_end(args);
}

/**
 * dt_note() - say something about the current case
 * @fmt: what
 */
void dt_note(const char *fmt, ...)
{
	struct va_format vaf;
	va_list args;

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	pr_info("    # %pV\n", &vaf);
	va_end(args);
}

/**
 * dt_skip() - the current case cannot run here
 * @reason: why
 */
void dt_skip(const char *reason)
{
	dt_skipped = reason;
}

/* Has the current case failed so often that going on tells nothing more? */
bool dt_failed(void)
{
	return atomic_read(&dt_failures) > DT_MESSAGES;
}

/* A new pattern. Context: any, on any CPU. */
u32 dt_next_seed(void)
{
	return atomic_inc_return(&dt_seeds);
}

static void dt_run_one(struct dt *dt, const struct dt_case *c)
{
	bool warned = test_taint(TAINT_WARN);

	atomic_set(&dt_failures, 0);
	dt_skipped = NULL;
	prandom_seed_state(&dt->rnd, seed);

	dma_set_min_align_mask(dt->dev, 0);
	dma_set_seg_boundary(dt->dev, ULONG_MAX);
	dma_set_max_seg_size(dt->dev, UINT_MAX);

	c->run(dt);

	if (dt_fault == DT_FAULT_WARN)
		WARN(1, "fault=warn\n");
	if (!warned)
		dt_expect(!test_taint(TAINT_WARN), "the kernel warned");
}

static int dt_run_all(struct dt *dt, const struct dt_case *cases, int n)
{
	int i, number = 0, selected = 0, failed = 0;

	for (i = 0; i < n; i++)
		selected += glob_match(test, cases[i].name);

	pr_info("KTAP version 1\n");
	pr_info("1..%d\n", selected);
	for (i = 0; i < n; i++) {
		ktime_t start = ktime_get();
		int failures;

		if (!glob_match(test, cases[i].name))
			continue;

		dt_run_one(dt, &cases[i]);
		failures = atomic_read(&dt_failures);
		if (failures)
			pr_info("    # %d failures\n", failures);
		pr_info("    # %lld ms\n", ktime_ms_delta(ktime_get(), start));

		failed += !!failures;
		if (dt_skipped && !failures)
			pr_info("ok %d %s # SKIP %s\n", ++number, cases[i].name,
				dt_skipped);
		else
			pr_info("%s %d %s\n", failures ? "not ok" : "ok",
				++number, cases[i].name);
	}
	pr_info("# cc_swiotlb_dma_test: %d run, %d failed\n", selected, failed);

	if (!selected)
		return -ENOENT;
	return failed ? -EIO : 0;
}

static int dt_with_device(struct device *dev)
{
	struct dt dt = { .dev = dev };
	int ret;

	ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;

	if (misuse && dma_max_mapping_size(dev) < DT_SIZE_LIMIT) {
		pr_err("cc_swiotlb_dma_test: misuse=1 needs cc_swiotlb: swiotlb is not made to survive it\n");
		return -EOPNOTSUPP;
	}

	dt.area = (u8 *)__get_free_pages(GFP_KERNEL, DT_AREA_ORDER);
	if (!dt.area)
		return -ENOMEM;

	if (misuse)
		ret = dt_run_all(&dt, dt_misuse_cases,
				 ARRAY_SIZE(dt_misuse_cases));
	else if (exhaust)
		ret = dt_run_all(&dt, dt_exhaust_cases,
				 ARRAY_SIZE(dt_exhaust_cases));
	else if (dt_decide)
		ret = dt_run_all(&dt, dt_decide_cases,
				 ARRAY_SIZE(dt_decide_cases));
	else if (iommu)
		ret = dt_run_all(&dt, dt_iommu_cases,
				 ARRAY_SIZE(dt_iommu_cases));
	else
		ret = dt_run_all(&dt, dt_cases, ARRAY_SIZE(dt_cases));

	free_pages((unsigned long)dt.area, DT_AREA_ORDER);
	return ret;
}

static int dt_on_platform_bus(void)
{
	struct platform_device *pdev;
	int ret;

	pdev = platform_device_register_simple("cc_swiotlb_dma_test",
					       PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(pdev))
		return PTR_ERR(pdev);
	ret = dt_with_device(&pdev->dev);
	platform_device_unregister(pdev);
	return ret;
}

static int dt_behind_iommu(void)
{
	struct pci_dev *pdev = dt_iommu_device();
	int ret;

	if (!pdev) {
		pr_err("cc_swiotlb_dma_test: iommu=1 needs QEMU's device edu behind an IOMMU\n");
		return -ENODEV;
	}
	ret = dt_with_device(&pdev->dev);
	pci_dev_put(pdev);
	return ret;
}

static int dt_init(void)
{
	int ret;

	ret = match_string(dt_fault_names, ARRAY_SIZE(dt_fault_names), fault);
	if (ret < 0) {
		pr_err("cc_swiotlb_dma_test: fault=%s is not known\n", fault);
		return ret;
	}
	dt_fault = ret;
	dt_every = clamp(dt_every, 1, SZ_128K);

	ret = dt_pattern_init();
	if (ret)
		return ret;

	ret = iommu ? dt_behind_iommu() : dt_on_platform_bus();
	dt_pattern_exit();
	return ret;
}

#ifdef MODULE
module_init(dt_init);

/* All work is done at load; after an unload it can be loaded again. */
static void __exit dt_exit(void)
{
}
module_exit(dt_exit);
#else
/* Built in, it waits until it is told to run: at boot nothing is ready yet. */
static int dt_set_run(const char *value, const struct kernel_param *kp)
{
	return dt_init();
}

static const struct kernel_param_ops dt_run_ops = {
	.set = dt_set_run,
};
module_param_cb(run, &dt_run_ops, NULL, 0200);
MODULE_PARM_DESC(run, "write anything to run the cases (not in a module)");
#endif

MODULE_DESCRIPTION("Test device that drives the DMA API over a bounce buffer");
MODULE_LICENSE("GPL");
