// SPDX-License-Identifier: GPL-2.0
/*
 * Imitates a broken implementation, so that each check is seen to fail.
 */

#include <linux/dma-direct.h>
#include <linux/string.h>

#include "torture.h"

static const char * const tt_fault_names[] = {
	[TT_FAULT_NONE] = "none",
	[TT_FAULT_UNBOUNCED] = "unbounced",
	[TT_FAULT_ALIGN] = "align",
	[TT_FAULT_PAGE] = "page",
	[TT_FAULT_BOUNDARY] = "boundary",
	[TT_FAULT_DMA_MASK] = "dma_mask",
	[TT_FAULT_NEED_SYNC] = "need_sync",
	[TT_FAULT_OVERLAP] = "overlap",
	[TT_FAULT_COPY_IN] = "copy_in",
	[TT_FAULT_COPY_BACK] = "copy_back",
	[TT_FAULT_TO_DEVICE] = "to_device",
	[TT_FAULT_SKIP] = "skip",
	[TT_FAULT_OVERRUN] = "overrun",
	[TT_FAULT_UNDERRUN] = "underrun",
	[TT_FAULT_SYNC_CPU] = "sync_cpu",
	[TT_FAULT_SYNC_DEVICE] = "sync_device",
	[TT_FAULT_LENGTH_CPU] = "length_cpu",
	[TT_FAULT_LENGTH_DEVICE] = "length_device",
	[TT_FAULT_SCRIBBLE] = "scribble",
	[TT_FAULT_HELD] = "held",
	[TT_FAULT_STORM] = "storm",
	[TT_FAULT_LIST] = "list",
	[TT_FAULT_IRQS_OFF] = "irqs_off",
	[TT_FAULT_SOFTIRQ] = "softirq",
	[TT_FAULT_HARDIRQ] = "hardirq",
	[TT_FAULT_REMOTE] = "remote",
	[TT_FAULT_TICK] = "tick",
	[TT_FAULT_REFUSED] = "refused",
	[TT_FAULT_OVERSIZE] = "oversize",
	[TT_FAULT_LOST] = "lost",
	[TT_FAULT_LEAK] = "leak",
	[TT_FAULT_TWICE] = "twice",
	[TT_FAULT_BLIND] = "blind",
	[TT_FAULT_LENT] = "lent",
	[TT_FAULT_KEPT] = "kept",
};

/* The fault of this name, or -EINVAL. */
int tt_fault_find(const char *name)
{
	return match_string(tt_fault_names, ARRAY_SIZE(tt_fault_names), name);
}

/**
 * tt_fault_mapped() - make a new mapping look wrong
 * @m: mapping
 *
 * Context: any.
 * Return: the address to believe in.
 */
dma_addr_t tt_fault_mapped(struct tt_map *m)
{
	switch (tt_fault) {
	case TT_FAULT_UNBOUNCED:
		return phys_to_dma(m->dev, virt_to_phys(m->cpu));
	case TT_FAULT_ALIGN:
		return m->dma ^ (dma_get_min_align_mask(m->dev) & 256);
	case TT_FAULT_PAGE:
		return m->dma ^ (dma_get_min_align_mask(m->dev) ? 0 : 256);
	case TT_FAULT_BOUNDARY:
		/* Break no other rule as well. */
		if (m->size > 1 && m->size < PAGE_SIZE &&
		    dma_get_seg_boundary(m->dev) < SZ_1M)
			return m->dma | dma_get_seg_boundary(m->dev);
		break;
	case TT_FAULT_DMA_MASK:
		return m->dma | BIT_ULL(TT_DMA_BITS);
	case TT_FAULT_COPY_IN:
		m->shared[m->size - 1] ^= 0xff;
		break;
	default:
		break;
	}
	return m->dma;
}

static bool tt_fault_in_context(const struct tt_map *m)
{
	switch (tt_fault) {
	case TT_FAULT_COPY_BACK:
		return true;
	case TT_FAULT_IRQS_OFF:
		return m->context == TT_IRQS_OFF;
	case TT_FAULT_SOFTIRQ:
		return m->context == TT_SOFTIRQ ||
		       m->context == TT_REMOTE_SOFTIRQ;
	case TT_FAULT_HARDIRQ:
		return m->context == TT_HARDIRQ ||
		       m->context == TT_REMOTE_HARDIRQ;
	case TT_FAULT_REMOTE:
		return m->context >= TT_REMOTE_TASK && m->context < TT_CONTEXTS;
	case TT_FAULT_TICK:
		return m->context == TT_CONTEXTS;
	default:
		return false;
	}
}

/* Undoes a mapping again. Nothing is copied: the buffer may be another's. */
static void tt_fault_unmap_again(struct tt_map *m)
{
	dma_unmap_single_attrs(m->dev, m->dma, m->size, m->dir,
			       DMA_ATTR_SKIP_CPU_SYNC);
}

/**
 * tt_fault_unmap() - make an unmap look wrong
 * @m: mapping that was just undone
 *
 * Context: any.
 */
void tt_fault_unmap(struct tt_map *m)
{
	bool device_writes = m->dir != DMA_TO_DEVICE;

	if (tt_fault == TT_FAULT_TO_DEVICE && !device_writes)
		m->cpu[0] ^= 0xff;
	if (tt_fault == TT_FAULT_SKIP && m->unmap_attrs)
		m->cpu[0] ^= 0xff;
	if (tt_fault == TT_FAULT_OVERRUN && device_writes)
		m->cpu[m->size] ^= 0xff;
	if (tt_fault == TT_FAULT_UNDERRUN && device_writes)
		m->cpu[-1] ^= 0xff;
	if (tt_fault_in_context(m) && device_writes && !m->unmap_attrs)
		m->cpu[m->size - 1] ^= 0xff;
	if (tt_fault == TT_FAULT_TWICE)
		tt_fault_unmap_again(m);
}

/**
 * tt_fault_keep() - whether not to undo a mapping: one of them, and only one
 * @m: mapping
 *
 * Context: any.
 * Return: %true for the one.
 */
bool tt_fault_keep(const struct tt_map *m)
{
	static unsigned long kept;

	if (tt_fault != TT_FAULT_LEAK && tt_fault != TT_FAULT_LOST)
		return false;
	if (m->dir != DMA_TO_DEVICE || test_and_set_bit(0, &kept))
		return false;
	/* As if the unmap had never been counted. */
	if (tt_fault == TT_FAULT_LOST)
		this_cpu_dec(tt_counts[TT_UNMAPS]);
	return true;
}
