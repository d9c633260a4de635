// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that a driver shares with its device for long, without a mapping of
 * its own: allocated and freed in all contexts, left to other threads for a
 * while, and mapped now and then, which must neither move nor change it.
 */

#include <linux/dma-mapping.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "torture.h"

#define TT_LENT_BYTES	SZ_512K
/* The largest mapping of lent memory, since other memory is bounced. */
#define TT_LENT_MAPPED_BYTES	SZ_64K

/* Like the boxes of mappings in holder.c. */
static struct tt_map *tt_lent_boxes[TT_BOXES];

static void tt_do_lend(struct tt_map *m)
{
	gfp_t gfp = m->context == TT_TASK ? GFP_KERNEL | __GFP_NORETRY :
		GFP_ATOMIC;
	struct page *page;

	page = dma_alloc_pages(m->dev, m->size, &m->dma, DMA_BIDIRECTIONAL,
			       gfp | __GFP_NOWARN);
	m->cpu = page ? page_address(page) : NULL;
}

static void tt_do_free(struct tt_map *m)
{
	dma_free_pages(m->dev, m->size, virt_to_page(m->cpu), m->dma,
		       DMA_BIDIRECTIONAL);
}

static struct tt_map *tt_lent_new(struct tt_thread *t)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY;
	struct tt_map *m = kzalloc_obj(*m, gfp);
	u32 pos = tt_below(&t->rnd, TT_POSITIONS);

	if (!m)
		return NULL;
	m->dev = tt_device_shared(tt_below(&t->rnd, TT_KINDS));
	m->size = PAGE_ALIGN(tt_size(&t->rnd, TT_LENT_BYTES));
	m->context = tt_some_context(&t->rnd);
	tt_run_in(m->context, &t->rnd, tt_do_lend, m);
	if (!m->cpu) {
		kfree(m);
		return NULL;
	}
	tt_count(TT_LENT);
	m->map_cpu = raw_smp_processor_id();
	m->shared = m->cpu;
	tt_live_add(m);
	if (memchr_inv(m->cpu, 0, m->size))
		tt_fail(m, "lent memory is not zeroed");
	if (m->dma & (roundup_pow_of_two(m->size) - 1))
		tt_fail(m, "lent memory is not aligned: %pad", &m->dma);
	tt_side_init(&m->bounce, pos);
	memcpy(m->cpu, tt_pattern(pos), m->size);
	return m;
}

/*
 * Maps a part of the memory, as the block layer would. Returns true if it was
 * not bounced: then it is lent, and no operation on it has to sleep.
 */
static bool tt_lent_map(struct tt_thread *t, struct tt_map *m)
{
	u32 from = tt_below(&t->rnd, m->size);
	u32 size = 1 + tt_below(&t->rnd, min(m->size - from,
					     TT_LENT_MAPPED_BYTES));
	enum dma_data_direction dir = tt_direction(&t->rnd);
	dma_addr_t dma;

	dma = dma_map_single_attrs(m->dev, m->cpu + from, size, dir,
				   DMA_ATTR_NO_WARN);
	if (dma_mapping_error(m->dev, dma)) {
		tt_count(TT_REFUSED);
		return false;
	}
	/* DMA_API_DEBUG cannot tell the mapping from the allocation then. */
	if (!IS_ENABLED(CONFIG_DMA_API_DEBUG)) {
		dma_sync_single_for_cpu(m->dev, dma, size, dir);
		dma_sync_single_for_device(m->dev, dma, size, dir);
	}
	dma_unmap_single(m->dev, dma, size, dir);
	if (dma != m->dma + from) {
		tt_count(TT_LENT_BOUNCED);
		return false;
	}
	tt_count(TT_LENT_MAPPED);
	return true;
}

static void tt_lent_end(struct tt_thread *t, struct tt_map *m)
{
	bool is_lent = tt_lent_map(t, m);

	if (tt_fault == TT_FAULT_LENT)
		m->shared[m->size / 2] ^= 0xff;
	tt_check_shared(m, "lent");
	tt_live_remove(m);
	/* Memory that is converted to be freed cannot be freed anywhere. */
	m->context = is_lent ? tt_some_context(&t->rnd) : TT_TASK;
	if (tt_fault != TT_FAULT_KEPT)
		tt_run_in(m->context, &t->rnd, tt_do_free, m);
	kfree(m);
}

/**
 * tt_lent() - share memory with a device, and leave it to another thread
 * @t: thread
 *
 * Context: may sleep.
 */
void tt_lent(struct tt_thread *t)
{
	struct tt_map *m = tt_lent_new(t);

	if (!m)
		return;
	tt_lent_map(t, m);
	m = xchg(&tt_lent_boxes[tt_below(&t->rnd, TT_BOXES)], m);
	if (m)
		tt_lent_end(t, m);
}

/* Frees what remains in the boxes. Context: may sleep. */
void tt_lent_boxes_empty(struct tt_thread *t)
{
	unsigned int i;

	for (i = 0; i < TT_BOXES; i++) {
		struct tt_map *m = xchg(&tt_lent_boxes[i], NULL);

		if (m)
			tt_lent_end(t, m);
	}
}
