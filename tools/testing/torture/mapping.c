// SPDX-License-Identifier: GPL-2.0
/*
 * One mapping: its calls into the DMA API, and what they do to the model.
 */

#include <linux/bitops.h>
#include <linux/dma-direct.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/string.h>

#include "torture.h"

static const u32 tt_classes[] = {
	512, SZ_2K, SZ_4K, SZ_8K, SZ_16K, SZ_32K, SZ_64K, SZ_128K, SZ_256K,
	SZ_512K,
};

/* A size: log-uniform, and one time in four at the boundary of a class. */
u32 tt_size(struct rnd_state *rnd, u32 max)
{
	u32 size;

	if (tt_one_in(rnd, 4)) {
		size = tt_classes[tt_below(rnd, ARRAY_SIZE(tt_classes))];
		size += tt_below(rnd, 3) - 1;
	} else {
		size = BIT(tt_below(rnd, ilog2(max) + 1));
		size += tt_below(rnd, size);
	}
	return min(size, max);
}

enum dma_data_direction tt_direction(struct rnd_state *rnd)
{
	static const enum dma_data_direction directions[] = {
		DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL,
	};

	return directions[tt_below(rnd, ARRAY_SIZE(directions))];
}

/* An offset into a page, an edge case half of the time. */
static u32 tt_offset(struct rnd_state *rnd)
{
	static const u32 edges[] = { 0, 0, 0, 1, 511, 512, 2048, 4095 };

	if (tt_one_in(rnd, 2))
		return edges[tt_below(rnd, ARRAY_SIZE(edges))];
	return tt_below(rnd, PAGE_SIZE);
}

static void tt_attrs(struct tt_map *m, struct rnd_state *rnd)
{
	/* Refused mappings must not fill the kernel log. */
	if (!tt_one_in(rnd, 16))
		m->attrs = DMA_ATTR_NO_WARN;
	/* Then the driver hands over what it wants the device to see. */
	if (m->dir != DMA_FROM_DEVICE && tt_one_in(rnd, 8))
		m->attrs |= DMA_ATTR_SKIP_CPU_SYNC;
	if (tt_one_in(rnd, 4))
		m->unmap_attrs = DMA_ATTR_SKIP_CPU_SYNC;
}

/**
 * tt_map_new() - a mapping that is not made yet, with an original buffer
 * @rnd: random numbers
 * @dev: test device
 * @size: bytes
 * @dir: direction
 *
 * Context: may sleep.
 * Return: the mapping, or %NULL if there is no memory, which is counted.
 */
struct tt_map *tt_map_new(struct rnd_state *rnd, struct device *dev, u32 size,
			  enum dma_data_direction dir)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY;
	struct tt_map *m = kzalloc_obj(*m, gfp);
	u8 *buffer = kmalloc(size + 2 * TT_GUARD + PAGE_SIZE, gfp);
	u32 shift;

	if (!m || !buffer) {
		kfree(buffer);
		kfree(m);
		tt_count(TT_NO_MEMORY);
		return NULL;
	}

	shift = tt_offset(rnd) - offset_in_page(buffer + TT_GUARD);
	m->dev = dev;
	m->buffer = buffer;
	m->cpu = buffer + TT_GUARD + shift % PAGE_SIZE;
	m->size = size;
	m->dir = dir;
	tt_attrs(m, rnd);
	tt_map_fill(m, rnd);
	return m;
}

/* Frees a mapping that is not made, or undone; its device stays. */
void tt_map_free(struct tt_map *m)
{
	kfree(m->buffer);
	kfree(m);
}

/**
 * tt_map_any() - as tt_map_new(), of any kind, with a device of its own
 * @rnd: random numbers
 * @max: largest size in bytes
 *
 * Context: may sleep.
 * Return: the mapping, which tt_map_drop() frees, or %NULL.
 */
struct tt_map *tt_map_any(struct rnd_state *rnd, u32 max)
{
	unsigned int kind = tt_below(rnd, TT_KINDS);
	struct device *dev = tt_device_get(kind);
	struct tt_map *m;

	if (!dev) {
		tt_count(TT_NO_MEMORY);
		return NULL;
	}
	m = tt_map_new(rnd, dev, tt_size(rnd, min(max, tt_max_size[kind])),
		       tt_direction(rnd));
	if (!m)
		tt_device_put(dev);
	return m;
}

/* Frees a mapping and its device. */
void tt_map_drop(struct tt_map *m)
{
	tt_device_put(m->dev);
	tt_map_free(m);
}

/* Fills the original buffer and its guards. Context: any. */
void tt_map_fill(struct tt_map *m, struct rnd_state *rnd)
{
	m->guard = tt_below(rnd, TT_POSITIONS);
	tt_side_init(&m->original, m->guard);
	memcpy(m->cpu - TT_GUARD, tt_pattern(m->guard) - TT_GUARD,
	       m->size + 2 * TT_GUARD);
}

/**
 * tt_map_made() - note that a mapping was made, and look at it
 * @m: mapping
 * @dma: address that the device was given
 *
 * Context: any.
 */
void tt_map_made(struct tt_map *m, dma_addr_t dma)
{
	tt_count(TT_MAPS);
	m->dma = dma;
	m->shared = phys_to_virt(dma_to_phys(m->dev, dma));
	m->bounce = m->original;
	if (tt_zero && m->dir == DMA_FROM_DEVICE)
		tt_side_init(&m->bounce, TT_ZEROES);
	tt_live_add(m);
	tt_check_address(m);
}

/* Notes that a mapping was undone. Context: any. */
void tt_map_undone(struct tt_map *m)
{
	tt_count(TT_UNMAPS);
	if (m->dir != DMA_TO_DEVICE &&
	    !(m->unmap_attrs & DMA_ATTR_SKIP_CPU_SYNC))
		m->original = m->bounce;
	tt_fault_unmap(m);
}

static void tt_do_map(struct tt_map *m)
{
	m->map_cpu = raw_smp_processor_id();
	m->dma = dma_map_single_attrs(m->dev, m->cpu, m->size, m->dir,
				      m->attrs);
	if (dma_mapping_error(m->dev, m->dma))
		m->dma = DMA_MAPPING_ERROR;
}

static void tt_do_unmap(struct tt_map *m)
{
	if (m->map_cpu != raw_smp_processor_id())
		tt_count(TT_CROSSED);
	if (!tt_fault_keep(m))
		dma_unmap_single_attrs(m->dev, m->dma, m->size, m->dir,
				       m->unmap_attrs);
}

static void tt_refused(struct tt_map *m)
{
	if (tt_fault != TT_FAULT_BLIND)
		tt_count(TT_REFUSED);
	if (tt_fault == TT_FAULT_REFUSED)
		m->cpu[0] ^= 0xff;
	tt_check_original(m, "refused");
}

/**
 * tt_map() - make a mapping, and check what it shows the device
 * @m: mapping
 * @rnd: random numbers
 * @context: where to make it
 *
 * Context: may sleep.
 * Return: %false if it was refused, which is no error.
 */
bool tt_map(struct tt_map *m, struct rnd_state *rnd, enum tt_context context)
{
	m->context = context;
	tt_run_in(context, rnd, tt_do_map, m);
	if (m->dma == DMA_MAPPING_ERROR) {
		tt_refused(m);
		return false;
	}

	tt_map_made(m, m->dma);
	if (m->attrs & DMA_ATTR_SKIP_CPU_SYNC)
		dma_sync_single_for_device(m->dev, m->dma, m->size, m->dir);
	tt_check_shared(m, "mapped");
	return true;
}

/**
 * tt_unmap() - undo a mapping, and check what came back
 * @m: mapping
 * @rnd: random numbers
 * @context: where to undo it
 *
 * Context: may sleep.
 */
void tt_unmap(struct tt_map *m, struct rnd_state *rnd, enum tt_context context)
{
	tt_check_shared(m, "before the unmap");
	tt_live_remove(m);
	m->context = context;
	tt_run_in(context, rnd, tt_do_unmap, m);
	tt_map_undone(m);
	tt_check_original(m, "unmapped");
}

/* A part of a buffer, all of it one time in four. */
static void tt_part(struct tt_map *m, struct rnd_state *rnd, u32 *from, u32 *to)
{
	*from = 0;
	*to = m->size;
	if (tt_one_in(rnd, 4))
		return;
	*from = tt_below(rnd, m->size);
	*to = *from + 1 + tt_below(rnd, m->size - *from);
}

static void tt_write(struct tt_map *m, struct rnd_state *rnd,
		     struct tt_side *side, u8 *buffer)
{
	u32 pos = tt_below(rnd, TT_POSITIONS), from, to;
	struct tt_side all, next;

	tt_part(m, rnd, &from, &to);
	tt_side_init(&all, pos);
	if (!tt_side_merge(&next, side, &all, from, to))
		return;
	memcpy(buffer + from, tt_pattern(pos) + from, to - from);
	*side = next;
}

/* The device writes, as even one that is meant only to read could do. */
void tt_device_writes(struct tt_map *m, struct rnd_state *rnd)
{
	tt_write(m, rnd, &m->bounce, m->shared);
}

static void tt_sync_for_cpu(struct tt_map *m, struct rnd_state *rnd)
{
	struct tt_side next;
	u32 from, to;

	tt_part(m, rnd, &from, &to);
	if (m->dir == DMA_TO_DEVICE ||
	    !tt_side_merge(&next, &m->original, &m->bounce, from, to))
		return;

	tt_count(TT_SYNCS);
	m->original = next;
	if (tt_fault != TT_FAULT_SYNC_CPU)
		dma_sync_single_range_for_cpu(m->dev, m->dma, from, to - from,
					      m->dir);
	if (tt_fault == TT_FAULT_LENGTH_CPU)
		m->cpu[to] ^= 0xff;
	tt_check_original(m, "synced for the CPU");
}

static void tt_sync_for_device(struct tt_map *m, struct rnd_state *rnd)
{
	struct tt_side next;
	u32 from, to;

	tt_part(m, rnd, &from, &to);
	if (m->dir == DMA_FROM_DEVICE ||
	    !tt_side_merge(&next, &m->bounce, &m->original, from, to))
		return;

	tt_count(TT_SYNCS);
	m->bounce = next;
	if (tt_fault != TT_FAULT_SYNC_DEVICE)
		dma_sync_single_range_for_device(m->dev, m->dma, from,
						 to - from, m->dir);
	if (tt_fault == TT_FAULT_LENGTH_DEVICE && to < m->size)
		m->shared[to] ^= 0xff;
	tt_check_shared(m, "synced for the device");
}

/**
 * tt_play() - what driver and device do with a mapping while they have it
 * @m: mapping with a buffer of its own
 * @rnd: random numbers
 *
 * Context: any.
 */
void tt_play(struct tt_map *m, struct rnd_state *rnd)
{
	unsigned int rounds = tt_below(rnd, 5);

	while (rounds--) {
		switch (tt_below(rnd, 4)) {
		case 0:
			tt_write(m, rnd, &m->original, m->cpu);
			break;
		case 1:
			tt_device_writes(m, rnd);
			break;
		case 2:
			tt_sync_for_cpu(m, rnd);
			break;
		default:
			tt_sync_for_device(m, rnd);
			break;
		}
	}
}

/* Undoes a mapping somewhere, and frees it. Context: may sleep. */
void tt_finish(struct tt_map *m, struct rnd_state *rnd)
{
	tt_unmap(m, rnd, tt_some_context(rnd));
	tt_map_drop(m);
}
