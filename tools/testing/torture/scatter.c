// SPDX-License-Identifier: GPL-2.0
/*
 * Scatterlists: each entry is a mapping of its own, made and undone with the
 * others.
 */

#include <linux/dma-mapping.h>
#include <linux/scatterlist.h>
#include <linux/smp.h>

#include "torture.h"

#define TT_ENTRIES	12
/* Any kind of device takes an entry of this size. */
#define TT_ENTRY_BYTES	SZ_64K

struct tt_entries {
	struct scatterlist sgl[TT_ENTRIES];
	struct tt_map *maps[TT_ENTRIES];
	unsigned int n;
};

static bool tt_entries_init(struct tt_entries *list, struct tt_thread *t,
			    struct device *dev, enum dma_data_direction dir)
{
	unsigned int wanted = 2 + tt_below(&t->rnd, TT_ENTRIES - 1);

	sg_init_table(list->sgl, wanted);
	for (list->n = 0; list->n < wanted; list->n++) {
		u32 size = tt_size(&t->rnd, TT_ENTRY_BYTES);
		struct tt_map *m = tt_map_new(&t->rnd, dev, size, dir);

		if (!m)
			return false;
		/* Attributes belong to the list, not to an entry. */
		m->unmap_attrs = 0;
		m->context = TT_TASK;
		list->maps[list->n] = m;
		sg_set_buf(&list->sgl[list->n], m->cpu, m->size);
	}
	return true;
}

static void tt_entries_made(struct tt_entries *list, int mapped)
{
	struct scatterlist *sg;
	unsigned int i;

	for_each_sg(list->sgl, sg, list->n, i) {
		struct tt_map *m = list->maps[i];

		m->map_cpu = raw_smp_processor_id();
		tt_map_made(m, sg_dma_address(sg));
		if (mapped != list->n || sg_dma_len(sg) != m->size)
			tt_fail(m, "entry %u of %u in a list: %u bytes, %d entries mapped",
				i, list->n, sg_dma_len(sg), mapped);
		tt_check_shared(m, "mapped in a list");
	}
}

/* All entries are synced as one. */
static void tt_entries_sync(struct tt_entries *list, struct device *dev,
			    enum dma_data_direction dir)
{
	unsigned int i;

	tt_count(TT_SYNCS);
	if (dir == DMA_TO_DEVICE)
		dma_sync_sg_for_device(dev, list->sgl, list->n, dir);
	else
		dma_sync_sg_for_cpu(dev, list->sgl, list->n, dir);

	for (i = 0; i < list->n; i++) {
		struct tt_map *m = list->maps[i];

		if (dir == DMA_TO_DEVICE)
			m->bounce = m->original;
		else
			m->original = m->bounce;
		tt_check_shared(m, "list synced");
		tt_check_original(m, "list synced");
	}
}

static void tt_entries_undo(struct tt_entries *list, struct device *dev,
			    enum dma_data_direction dir)
{
	unsigned int i;

	for (i = 0; i < list->n; i++) {
		tt_check_shared(list->maps[i], "before a list is unmapped");
		tt_live_remove(list->maps[i]);
	}
	dma_unmap_sg(dev, list->sgl, list->n, dir);
	for (i = 0; i < list->n; i++) {
		tt_map_undone(list->maps[i]);
		if (tt_fault == TT_FAULT_LIST && i == 1)
			list->maps[i]->cpu[0] ^= 0xff;
		tt_check_original(list->maps[i], "list unmapped");
	}
}

static void tt_entries_use(struct tt_entries *list, struct tt_thread *t,
			   struct device *dev, enum dma_data_direction dir)
{
	unsigned int i;
	int mapped;

	mapped = dma_map_sg_attrs(dev, list->sgl, list->n, dir,
				  DMA_ATTR_NO_WARN);
	if (!mapped) {
		/* One was refused; those before it were made and undone. */
		tt_count(TT_REFUSED);
		for (i = 0; i < list->n; i++)
			tt_check_original(list->maps[i], "list refused");
		return;
	}

	tt_entries_made(list, mapped);
	for (i = 0; i < list->n; i++)
		tt_play(list->maps[i], &t->rnd);
	if (tt_one_in(&t->rnd, 2))
		tt_entries_sync(list, dev, dir);
	for (i = 0; i < list->n; i++)
		tt_device_writes(list->maps[i], &t->rnd);
	tt_entries_undo(list, dev, dir);
}

/**
 * tt_list() - map a list, use it, unmap it
 * @t: thread
 *
 * Context: may sleep.
 */
void tt_list(struct tt_thread *t)
{
	struct device *dev = tt_device_get(tt_below(&t->rnd, TT_KINDS));
	enum dma_data_direction dir = tt_direction(&t->rnd);
	struct tt_entries list;

	if (!dev)
		return;
	tt_count(TT_LISTS);
	if (tt_entries_init(&list, t, dev, dir))
		tt_entries_use(&list, t, dev, dir);
	while (list.n--)
		tt_map_free(list.maps[list.n]);
	tt_device_put(dev);
}
