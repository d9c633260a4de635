// SPDX-License-Identifier: GPL-2.0
/*
 * Scatterlists: each entry is a mapping of its own.
 */

#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "dma_test.h"

#define DT_ENTRIES	24

struct dt_list {
	struct dt *dt;
	struct scatterlist sgl[DT_ENTRIES];
	struct dt_map maps[DT_ENTRIES];
	enum dma_data_direction dir;
	int n;
};

/* Entries of mixed sizes and offsets, separated by their guards. */
static void dt_list_init(struct dt_list *list, struct dt *dt,
			 enum dma_data_direction dir)
{
	static const size_t sizes[] = {
		1, 512, 511, SZ_4K, 300, SZ_64K, 2048, 2049, 20000, 7,
	};
	u8 *next = dt->area + PAGE_SIZE;
	int i;

	list->dt = dt;
	list->dir = dir;
	list->n = DT_ENTRIES;
	sg_init_table(list->sgl, DT_ENTRIES);

	for (i = 0; i < DT_ENTRIES; i++) {
		struct dt_map *m = &list->maps[i];

		next += 2 * DT_GUARD + dt_below(dt, SZ_2K);
		*m = (struct dt_map) {
			.dev = dt->dev,
			.cpu = next,
			.size = sizes[dt_below(dt, ARRAY_SIZE(sizes))],
			.dir = dir,
			.seed = dt_next_seed(),
		};
		/* At most 24 * 66 KiB and the gaps: cut the last ones short. */
		if (next + m->size > dt->area + SZ_512K + SZ_256K)
			m->size = 1 + dt_below(dt, 512);
		next += m->size;

		dt_fill_cpu(m, m->seed);
		sg_set_buf(&list->sgl[i], m->cpu, m->size);
	}
}

static int dt_list_map(struct dt_list *list)
{
	struct scatterlist *sg;
	int i, mapped;

	mapped = dma_map_sg(list->dt->dev, list->sgl, list->n, list->dir);
	if (!dt_expect(mapped == list->n, "%d of %d entries mapped", mapped,
		       list->n)) {
		if (mapped)
			dma_unmap_sg(list->dt->dev, list->sgl, list->n,
				     list->dir);
		return -EIO;
	}

	for_each_sg(list->sgl, sg, list->n, i) {
		struct dt_map *m = &list->maps[i];

		dt_expect(sg_dma_len(sg) == m->size, "entry %d: %u bytes", i,
			  sg_dma_len(sg));
		dt_check_address(m->dev, sg_phys(sg), m->size,
				 sg_dma_address(sg));
		m->dma = sg_dma_address(sg);
		m->bounce = dt_device_view(m->dev, m->dma);
		if (dt_fault == DT_FAULT_OVERLAP && i == 3)
			m->bounce = list->maps[2].bounce;
		dt_check_copied_in(m, m->seed);
	}
	return 0;
}

static void dt_list_device_writes(struct dt_list *list, u32 seed)
{
	int i;

	for (i = 0; i < list->n; i++)
		dt_fill_bounce(&list->maps[i], seed + i, 0, list->maps[i].size);
}

static void dt_list_check(struct dt_list *list, u32 seed, const char *what)
{
	int i;

	for (i = 0; i < list->n; i++) {
		struct dt_map *m = &list->maps[i];

		dt_check_guards(m, m->seed);
		dt_check_cpu(m, list->dir == DMA_TO_DEVICE ? m->seed : seed + i,
			     0, m->size, what);
	}
}

static u32 dt_seeds_for(struct dt_list *list)
{
	u32 first = dt_next_seed();
	int i;

	for (i = 0; i < list->n; i++)
		dt_next_seed();
	return first;
}

static void dt_one_list(struct dt_list *list)
{
	u32 written = dt_seeds_for(list);

	if (dt_list_map(list))
		return;

	dt_list_device_writes(list, written);
	if (list->dir != DMA_TO_DEVICE) {
		dma_sync_sg_for_cpu(list->dt->dev, list->sgl, list->n,
				    list->dir);
		dt_list_check(list, written, "list synced for the CPU");
	}
	if (list->dir == DMA_BIDIRECTIONAL) {
		int i;

		for (i = 0; i < list->n; i++) {
			list->maps[i].seed = dt_next_seed();
			dt_fill_cpu(&list->maps[i], list->maps[i].seed);
		}
		dma_sync_sg_for_device(list->dt->dev, list->sgl, list->n,
				       list->dir);
		for (i = 0; i < list->n; i++)
			dt_check_bounce(&list->maps[i], list->maps[i].seed, 0,
					list->maps[i].size,
					"list synced for the device");
	}

	written = dt_seeds_for(list);
	dt_list_device_writes(list, written);
	dma_unmap_sg(list->dt->dev, list->sgl, list->n, list->dir);
	dt_list_check(list, written, "list unmapped");
}

/* Lists of mixed entries, mapped, synced and unmapped as a whole. */
void dt_scatterlist(struct dt *dt)
{
	static const unsigned int masks[] = { 0, 511, 4095 };
	unsigned int i, rounds = dt_quick ? 6 : 90;
	struct dt_list *list;

	list = kmalloc_obj(*list);
	if (!dt_expect(list, "no memory"))
		return;

	for (i = 0; i < rounds && !dt_failed(); i++) {
		dma_set_min_align_mask(dt->dev, masks[i / 3 % 3]);
		dt_list_init(list, dt, dt_direction(i));
		dt_one_list(list);
		cond_resched();
	}
	kfree(list);
}

/*
 * One entry is larger than any mapping may be: the list is refused as a whole,
 * the entries that were mapped are undone, and nothing is copied back.
 */
void dt_scatterlist_oversize(struct dt *dt)
{
	unsigned int i, rounds = dt_quick ? 4 : 64;
	struct dt_list *list;
	int mapped, e;

	list = kmalloc_obj(*list);
	if (!dt_expect(list, "no memory"))
		return;

	for (i = 0; i < rounds && !dt_failed(); i++) {
		dt_list_init(list, dt, dt_direction(i));
		sg_set_buf(&list->sgl[DT_ENTRIES - 1], dt->area,
			   DT_SIZE_LIMIT + SZ_256K);

		mapped = dma_map_sg_attrs(dt->dev, list->sgl, DT_ENTRIES,
					  list->dir, DMA_ATTR_NO_WARN);
		if (dt_fault == DT_FAULT_OVERSIZE)
			mapped = DT_ENTRIES;
		dt_expect(!mapped, "%d entries mapped", mapped);

		for (e = 0; e < DT_ENTRIES - 1; e++)
			dt_check_cpu(&list->maps[e], list->maps[e].seed,
				     -DT_GUARD, list->maps[e].size,
				     "of a list that was refused");
	}

	/* Slots that were lost would be missing by now. */
	dt_list_init(list, dt, DMA_BIDIRECTIONAL);
	dt_one_list(list);
	kfree(list);
}
