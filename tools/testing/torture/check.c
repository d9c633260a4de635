// SPDX-License-Identifier: GPL-2.0
/*
 * What has to be true of a mapping: where it lies, that nobody else has a share
 * in it, and what both of its buffers contain.
 */

#include <linux/dma-direct.h>
#include <linux/mm.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "torture.h"

/*
 * All mappings that are alive, by the address of their bounce buffer. A mapping
 * is in the tree from after it was made until before it is undone.
 */
static struct rb_root tt_live = RB_ROOT;

/* Protects tt_live. Taken in any context but NMI. */
static DEFINE_SPINLOCK(tt_live_lock);

/* Puts a mapping into the tree, or returns one that it overlaps. */
static struct tt_map *tt_live_insert(struct tt_map *m)
{
	struct rb_node **link = &tt_live.rb_node, *parent = NULL;

	while (*link) {
		struct tt_map *other = rb_entry(*link, struct tt_map, node);

		parent = *link;
		if (m->last < other->shared)
			link = &parent->rb_left;
		else if (m->shared > other->last)
			link = &parent->rb_right;
		else
			return other;
	}
	rb_link_node(&m->node, parent, link);
	rb_insert_color(&m->node, &tt_live);
	return NULL;
}

/**
 * tt_live_add() - a mapping was made: no other may have its bytes
 * @m: mapping
 *
 * Context: any but NMI.
 */
void tt_live_add(struct tt_map *m)
{
	struct tt_map *other;
	dma_addr_t dma = 0;
	unsigned long flags;
	u32 size = 0;

	RB_CLEAR_NODE(&m->node);
	m->last = m->shared + m->size - 1;
	if (tt_fault == TT_FAULT_OVERLAP)
		m->last += SZ_1M;

	spin_lock_irqsave(&tt_live_lock, flags);
	other = tt_live_insert(m);
	if (other) {
		dma = other->dma;
		size = other->size;
	}
	spin_unlock_irqrestore(&tt_live_lock, flags);

	if (other)
		tt_fail(m, "overlaps another mapping, %u bytes at %pad", size,
			&dma);
}

/**
 * tt_live_remove() - a mapping is about to be undone
 * @m: mapping
 *
 * Context: any but NMI.
 */
void tt_live_remove(struct tt_map *m)
{
	unsigned long flags;

	spin_lock_irqsave(&tt_live_lock, flags);
	if (!RB_EMPTY_NODE(&m->node))
		rb_erase(&m->node, &tt_live);
	spin_unlock_irqrestore(&tt_live_lock, flags);
}

/**
 * tt_check_address() - check the rules for where a bounce buffer may lie
 * @m: mapping that was just made
 *
 * Context: any.
 */
void tt_check_address(struct tt_map *m)
{
	unsigned int align = dma_get_min_align_mask(m->dev);
	unsigned long boundary = dma_get_seg_boundary(m->dev);
	dma_addr_t dma = tt_fault_mapped(m);
	phys_addr_t original = virt_to_phys(m->cpu);
	dma_addr_t end = dma + m->size - 1;

	if (dma_to_phys(m->dev, dma) == original)
		tt_fail(m, "is not bounced");
	if ((dma ^ original) & align)
		tt_fail(m, "does not keep min_align_mask %#x of %pa: %pad",
			align, &original, &dma);
	if (!align && m->size >= PAGE_SIZE && offset_in_page(dma))
		tt_fail(m, "is not page aligned: %pad", &dma);
	if ((dma & ~boundary) != (end & ~boundary))
		tt_fail(m, "crosses the boundary %#lx: %pad", boundary, &dma);
	if (end > dma_get_mask(m->dev))
		tt_fail(m, "is beyond the DMA mask: %pad", &dma);
	if (!dma_need_sync(m->dev, m->dma) || tt_fault == TT_FAULT_NEED_SYNC)
		tt_fail(m, "is said to need no sync");
}

static bool tt_check_side(struct tt_map *m, const struct tt_side *side,
			  const u8 *have, const char *name, const char *when)
{
	u32 want, byte = tt_side_mismatch(side, have, m->size, &want);

	if (byte == m->size)
		return true;
	tt_fail(m, "%s: %s: byte %u is %02x, not %02x", when, name, byte,
		have[byte], want);
	return false;
}

static bool tt_check_guard(struct tt_map *m, ssize_t from, const char *name,
			   const char *when)
{
	const u8 *want = tt_pattern(m->guard) + from, *have = m->cpu + from;
	unsigned int i;

	if (!memcmp(have, want, TT_GUARD))
		return true;
	for (i = 0; i < TT_GUARD - 1 && have[i] == want[i]; i++)
		;
	tt_fail(m, "%s: guard %s the original: byte %zd is %02x, not %02x",
		when, name, from + i, have[i], want[i]);
	return false;
}

/**
 * tt_check_original() - compare the original buffer with what it should be
 * @m: mapping
 * @when: what happened before
 *
 * Context: any.
 * Return: whether it is as it should be.
 */
bool tt_check_original(struct tt_map *m, const char *when)
{
	if (!tt_check_side(m, &m->original, m->cpu, "original", when))
		return false;
	/* A buffer that many mappings share is guarded as a whole. */
	if (!m->buffer)
		return true;
	return tt_check_guard(m, -TT_GUARD, "before", when) &&
	       tt_check_guard(m, m->size, "after", when);
}

/**
 * tt_check_shared() - compare what the device sees with what it should be
 * @m: mapping
 * @when: what happened before
 *
 * Context: any.
 * Return: whether it is as it should be.
 */
bool tt_check_shared(struct tt_map *m, const char *when)
{
	return tt_check_side(m, &m->bounce, m->shared, "shared", when);
}
