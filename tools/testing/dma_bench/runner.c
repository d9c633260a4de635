// SPDX-License-Identifier: GPL-2.0
/*
 * Measures all cases that were asked for when the module is loaded, and keeps
 * the results in debugfs, in cc_swiotlb_bench/results, a line for each case:
 *
 *	mode size in_flight threads dir round_ps floor_ps refused
 *
 * Both times are picoseconds for one buffer as one thread sees them, those of
 * the least disturbed of a few slices. A case that cannot run has its error in
 * place of the times.
 *
 * With longest=1 a line is: size map_ns unmap_ns, see longest.c.
 */

#include <linux/debugfs.h>
#include <linux/glob.h>
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/vmalloc.h>

#include "bench.h"

#define DB_RESULTS_BYTES	SZ_64K

static char *modes = "*";
module_param(modes, charp, 0444);
MODULE_PARM_DESC(modes, "patterns whose names match: single, sg, net");

static char *dirs = "*";
module_param(dirs, charp, 0444);
MODULE_PARM_DESC(dirs, "directions whose names match");

static int nr_sizes = 12;
static unsigned int sizes[16] = {
	256, 512, SZ_1K, SZ_2K, SZ_4K, SZ_8K, SZ_16K, SZ_32K, SZ_64K, SZ_128K,
	SZ_256K, SZ_512K,
};
module_param_array(sizes, uint, &nr_sizes, 0444);
MODULE_PARM_DESC(sizes, "sizes of buffers in bytes");

static unsigned int depths[4] = { 1, DB_DEPTH };
static int nr_depths = 2;
module_param_array(depths, uint, &nr_depths, 0444);
MODULE_PARM_DESC(depths, "numbers of buffers in flight");

static unsigned int threads = 1;
module_param(threads, uint, 0444);
MODULE_PARM_DESC(threads, "measure on so many CPUs at the same time");

static unsigned int slice_us = 2000;
module_param(slice_us, uint, 0444);
MODULE_PARM_DESC(slice_us, "how long a slice lasts, in microseconds");

static ulong age;
module_param(age, ulong, 0444);
MODULE_PARM_DESC(age, "make so many random mappings first");

static bool longest;
module_param(longest, bool, 0444);
MODULE_PARM_DESC(longest, "measure the longest map and unmap of each size instead");

struct db_direction {
	const char *name;
	enum dma_data_direction dir;
};

static const struct db_direction db_directions[] = {
	{ "TO_DEVICE", DMA_TO_DEVICE },
	{ "FROM_DEVICE", DMA_FROM_DEVICE },
	{ "BIDIRECTIONAL", DMA_BIDIRECTIONAL },
};

static struct dentry *db_dir;
static struct debugfs_blob_wrapper db_results;

static __printf(1, 2) void db_print(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	db_results.size += vscnprintf(db_results.data + db_results.size,
				      DB_RESULTS_BYTES - db_results.size, fmt,
				      args);
	va_end(args);
}

static u64 db_least(const u64 *slices)
{
	u64 least = slices[0];
	int i;

	for (i = 1; i < DB_SLICES; i++)
		least = min(least, slices[i]);
	return least;
}

static void db_run_case(struct db_thread **t, const struct db_case *c,
			const char *dir)
{
	u64 round_ps = 0, floor_ps = 0;
	unsigned long refused = 0;
	unsigned int i;
	int ret;

	for (i = 0; i < threads; i++)
		t[i]->c = *c;

	db_print("%s %zu %u %u %s ", c->pattern->name, c->size, c->depth,
		 threads, dir);
	ret = db_measure(t, threads, (u64)slice_us * NSEC_PER_USEC);
	if (ret) {
		db_print("error %d\n", ret);
		return;
	}
	for (i = 0; i < threads; i++) {
		round_ps += db_least(t[i]->round_ps) / threads;
		floor_ps += db_least(t[i]->floor_ps) / threads;
		refused += t[i]->refused;
	}
	db_print("%llu %llu %lu\n", round_ps, floor_ps, refused);
}

static void db_run_all(struct db_thread **t)
{
	size_t max = dma_max_mapping_size(t[0]->dev);
	int p, s, n, d;

	for (p = 0; p < db_nr_patterns; p++) {
		if (!glob_match(modes, db_patterns[p].name))
			continue;
		for (s = 0; s < nr_sizes; s++) {
			if (sizes[s] > max)
				continue;
			for (n = 0; n < nr_depths; n++) {
				for (d = 0; d < ARRAY_SIZE(db_directions); d++) {
					struct db_case c = {
						.pattern = &db_patterns[p],
						.dir = db_directions[d].dir,
						.size = sizes[s],
						.depth = depths[n],
					};

					if (glob_match(dirs,
						       db_directions[d].name))
						db_run_case(t, &c,
							    db_directions[d].name);
				}
			}
		}
	}
}

static int db_run_longest(struct db_thread *t)
{
	int s, ret = 0;

	for (s = 0; s < nr_sizes && !ret; s++) {
		u64 map_ns, unmap_ns;

		ret = db_longest(t, sizes[s], &map_ns, &unmap_ns);
		if (!ret)
			db_print("%u %llu %llu\n", sizes[s], map_ns, unmap_ns);
	}
	return ret;
}

static int db_with_device(struct device *dev)
{
	struct db_thread *t[DB_THREADS] = {};
	unsigned int i;
	int ret;

	ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	for (i = 0; i < threads && !ret; i++) {
		t[i] = db_thread_alloc(dev);
		if (!t[i])
			ret = -ENOMEM;
	}
	if (!ret && age)
		ret = db_age(t[0], age);
	if (!ret && longest)
		ret = db_run_longest(t[0]);
	else if (!ret)
		db_run_all(t);
	for (i = 0; i < threads; i++)
		db_thread_free(t[i]);
	return ret;
}

static int __init db_check_parameters(void)
{
	int i;

	if (!threads || threads > DB_THREADS)
		return -EINVAL;
	for (i = 0; i < nr_sizes; i++)
		if (!sizes[i] || sizes[i] > DB_MAX_SIZE)
			return -EINVAL;
	for (i = 0; i < nr_depths; i++)
		if (!depths[i] || depths[i] > DB_DEPTH)
			return -EINVAL;
	return 0;
}

static int __init db_init(void)
{
	struct platform_device *pdev;
	int ret = db_check_parameters();

	if (ret) {
		pr_err("cc_swiotlb_bench: sizes up to 512K, depths up to 64, threads up to 2\n");
		return ret;
	}
	db_results.data = vzalloc(DB_RESULTS_BYTES);
	if (!db_results.data)
		return -ENOMEM;

	pdev = platform_device_register_simple("cc_swiotlb_bench",
					       PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(pdev)) {
		ret = PTR_ERR(pdev);
	} else {
		ret = db_with_device(&pdev->dev);
		platform_device_unregister(pdev);
	}
	if (ret) {
		vfree(db_results.data);
		return ret;
	}

	db_dir = debugfs_create_dir("cc_swiotlb_bench", NULL);
	debugfs_create_blob("results", 0400, db_dir, &db_results);
	return 0;
}
module_init(db_init);

static void __exit db_exit(void)
{
	debugfs_remove(db_dir);
	vfree(db_results.data);
}
module_exit(db_exit);

MODULE_DESCRIPTION("Benchmark of the streaming DMA API");
MODULE_LICENSE("GPL");
