// SPDX-License-Identifier: GPL-2.0
/*
 * The allocator's decisions as one number: the same operations in the same
 * order give the same number, whatever a device does to shared memory.
 */

#include <linux/cc_platform.h>
#include <linux/dma-direct.h>
#include <linux/jhash.h>
#include <linux/pgtable.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include <asm/coco.h>

#include "dma_test.h"

#define DT_OPERATIONS	3000
#define DT_HANDLES	96
#define DT_SPANS	128
#define DT_SPAN_BYTES	SZ_512K

/**
 * struct dt_decider - a sequence of operations, and what came of it
 * @dt: the case
 * @maps: mappings, made where dma is not 0
 * @lent: coherent memory, allocated where it is not NULL
 * @lent_dma: its addresses
 * @spans: spans of all addresses that were given, in the order of first use
 * @nr_spans: number of these spans
 * @hash: hash of all decisions
 * @refused: number of decisions that were refusals
 * @pattern: pattern that the device wrote last
 * @scribbles: how often the device wrote
 */
struct dt_decider {
	struct dt *dt;
	struct dt_map maps[DT_HANDLES];
	u8 *lent[DT_HANDLES];
	dma_addr_t lent_dma[DT_HANDLES];
	dma_addr_t spans[DT_SPANS];
	unsigned int nr_spans;
	u32 hash;
	unsigned int refused;
	u64 pattern;
	unsigned int scribbles;
};

static size_t dt_lent_bytes(unsigned int handle)
{
	return PAGE_SIZE << (handle % 6);
}

/* Chunks lie elsewhere in each boot, so an address is named by its order. */
static void dt_decided(struct dt_decider *d, dma_addr_t dma)
{
	dma_addr_t span = ALIGN_DOWN(dma, DT_SPAN_BYTES);
	unsigned int i;

	for (i = 0; i < d->nr_spans && d->spans[i] != span; i++)
		;
	if (i == d->nr_spans) {
		if (!dt_expect(i < DT_SPANS, "more than %d spans", DT_SPANS))
			return;
		d->spans[d->nr_spans++] = span;
	}
	d->hash = jhash_2words(i, dma - span, d->hash);
}

static void dt_decided_not(struct dt_decider *d)
{
	d->refused++;
	d->hash = jhash_1word(0, d->hash);
}

static void dt_decide_map(struct dt_decider *d, struct dt_map *m)
{
	struct dt *dt = d->dt;
	u32 offset = dt_below(dt, PAGE_SIZE);
	u32 largest = min(DT_SIZE_LIMIT >> dt_below(dt, 7), SZ_512K - offset);

	m->dev = dt->dev;
	m->cpu = dt->area + offset;
	m->size = 1 + dt_below(dt, largest);
	m->dir = dt_direction(dt_below(dt, 3));
	m->dma = dma_map_single(m->dev, m->cpu, m->size, m->dir);
	if (dma_mapping_error(m->dev, m->dma)) {
		m->dma = 0;
		dt_decided_not(d);
	} else {
		dt_decided(d, m->dma);
	}
}

static void dt_decide_unmap(struct dt_decider *d, struct dt_map *m)
{
	if (m->dir == DMA_FROM_DEVICE)
		memset(m->cpu, 0, m->size);
	dma_unmap_single(m->dev, m->dma, m->size, m->dir);
	m->dma = 0;
	/* The control: it is the mapping's memory that was written. */
	if (d->scribbles && m->dir == DMA_FROM_DEVICE)
		dt_expect(*m->cpu == (u8)d->pattern, "read %#x, not %#x",
			  *m->cpu, (u8)d->pattern);
}

static void dt_decide_mapping(struct dt_decider *d, struct dt_map *m)
{
	if (!m->dma) {
		dt_decide_map(d, m);
		return;
	}
	switch (dt_below(d->dt, 4)) {
	case 0:
		dma_sync_single_for_cpu(m->dev, m->dma, m->size, m->dir);
		break;
	case 1:
		dma_sync_single_for_device(m->dev, m->dma, m->size, m->dir);
		break;
	default:
		dt_decide_unmap(d, m);
	}
}

static void dt_decide_lent(struct dt_decider *d, unsigned int handle)
{
	size_t bytes = dt_lent_bytes(handle);
	u8 **lent = &d->lent[handle];
	dma_addr_t *dma = &d->lent_dma[handle];

	if (*lent) {
		dma_free_coherent(d->dt->dev, bytes, *lent, *dma);
		*lent = NULL;
		return;
	}
	*lent = dma_alloc_coherent(d->dt->dev, bytes, dma, GFP_KERNEL);
	if (*lent)
		dt_decided(d, *dma);
	else
		dt_decided_not(d);
}

static bool dt_is_shared(u8 *page)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)page, &level);

	return pte && pte_val(*pte) == cc_mkdec(pte_val(*pte));
}

/*
 * The device overwrites everything that it reaches of the spans that it was
 * ever told of. Memory that was converted by itself, and not lent, is only a
 * part of a span.
 */
static void dt_scribble(struct dt_decider *d)
{
	unsigned int i, at;

	d->scribbles++;
	d->pattern = (u8)(d->scribbles * 37) * 0x0101010101010101ULL;
	for (i = 0; i < d->nr_spans; i++) {
		u8 *span = dt_device_view(d->dt->dev, d->spans[i]);

		for (at = 0; at < DT_SPAN_BYTES; at += PAGE_SIZE)
			if (dt_is_shared(span + at))
				memset64((u64 *)(span + at), d->pattern,
					 PAGE_SIZE / sizeof(u64));
	}
}

/*
 * Mappings of all classes, syncs, and coherent memory, in an order that is the
 * same for the same seed=. With decide=2 the device overwrites everything
 * between any two of them. The number is compared with that of another guest.
 */
void dt_decisions(struct dt *dt)
{
	struct dt_decider *d;
	unsigned int i;

	if (!cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		dt_skip("no memory is private");
		return;
	}
	d = vzalloc(sizeof(*d));
	if (!dt_expect(d, "no memory"))
		return;

	d->dt = dt;
	for (i = 0; i < DT_OPERATIONS && !dt_failed(); i++) {
		unsigned int handle = dt_below(dt, DT_HANDLES);

		if (dt_below(dt, 8))
			dt_decide_mapping(d, &d->maps[handle]);
		else
			dt_decide_lent(d, handle);
		if (dt_decide > 1)
			dt_scribble(d);
		cond_resched();
	}
	for (i = 0; i < DT_HANDLES; i++) {
		if (d->maps[i].dma)
			dt_decide_unmap(d, &d->maps[i]);
		if (d->lent[i])
			dt_decide_lent(d, i);
	}
	dt_note("decisions %#x, %u spans, %u refused, %u scribbles", d->hash,
		d->nr_spans, d->refused, d->scribbles);
	vfree(d);
}
