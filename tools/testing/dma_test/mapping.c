// SPDX-License-Identifier: GPL-2.0
/*
 * One mapping: its calls into the DMA API, the device's view of it, and the
 * comparison of both sides with what they should hold.
 *
 * All calls into the DMA API pass through here, so that fault= can make the
 * implementation look broken in a given way.
 */

#include <linux/delay.h>
#include <linux/dma-direct.h>
#include <linux/hardirq.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "dma_test.h"

#define DT_SEEDS	SZ_64K
#define DT_TABLE_SIZE	(DT_SEEDS + DT_SIZE_LIMIT + SZ_64K)

static u8 *dt_table;

int dt_pattern_init(void)
{
	struct rnd_state rnd;

	dt_table = vmalloc(DT_TABLE_SIZE);
	if (!dt_table)
		return -ENOMEM;

	prandom_seed_state(&rnd, 0x5107);
	prandom_bytes_state(&rnd, dt_table, DT_TABLE_SIZE);
	return 0;
}

void dt_pattern_exit(void)
{
	vfree(dt_table);
}

const u8 *dt_pattern(u32 seed)
{
	/* An odd factor: no two of DT_SEEDS successive seeds are the same. */
	return dt_table + DT_GUARD + seed * 193 % DT_SEEDS;
}

/* The memory that the device finds at an address that it was given. */
u8 *dt_device_view(struct device *dev, dma_addr_t dma)
{
	return phys_to_virt(dma_to_phys(dev, dma));
}

/**
 * dt_check_address() - check the rules for where a bounce buffer may lie
 * @dev: test device
 * @orig: physical address of the original buffer
 * @size: bytes
 * @dma: address that the device was given
 */
void dt_check_address(struct device *dev, phys_addr_t orig, size_t size,
		      dma_addr_t dma)
{
	unsigned int align = dma_get_min_align_mask(dev);
	unsigned long boundary = dma_get_seg_boundary(dev);
	dma_addr_t end = dma + size - 1;

	dt_expect(dma_to_phys(dev, dma) != orig,
		  "%zu bytes at %pa are not bounced", size, &orig);
	dt_expect(!((dma ^ orig) & align),
		  "%zu bytes at %pa: min_align_mask %#x not kept by %pad",
		  size, &orig, align, &dma);
	if (!align && size >= PAGE_SIZE)
		dt_expect(!(dma & ~PAGE_MASK),
			  "%zu bytes at %pa: %pad is not page aligned",
			  size, &orig, &dma);
	dt_expect((dma & ~boundary) == (end & ~boundary),
		  "%zu bytes at %pad cross the boundary %#lx",
		  size, &dma, boundary);
	dt_expect(end <= dma_get_mask(dev),
		  "%zu bytes at %pad are beyond the DMA mask %#llx",
		  size, &dma, dma_get_mask(dev));
}

/* Map, and check where the mapping came to lie. -ENOMEM when it was refused. */
static int dt_try_map(struct dt_map *m)
{
	dma_addr_t dma, shown;

	m->map_cpu = raw_smp_processor_id();
	if (m->attrs)
		dma = dma_map_page_attrs(m->dev, virt_to_page(m->cpu),
					 offset_in_page(m->cpu), m->size,
					 m->dir, m->attrs);
	else
		dma = dma_map_single(m->dev, m->cpu, m->size, m->dir);

	if (dma_mapping_error(m->dev, dma) ||
	    (dt_fault == DT_FAULT_REFUSE && m->size >= SZ_128K))
		return -ENOMEM;

	m->dma = dma;
	m->bounce = dt_device_view(m->dev, dma);

	shown = dma;
	if (dt_fault == DT_FAULT_ALIGN)
		shown += 512;
	if (dt_fault == DT_FAULT_DMA_MASK)
		shown |= BIT_ULL(33);
	if (dt_fault == DT_FAULT_BOUNDARY && m->size > 1)
		shown |= dma_get_seg_boundary(m->dev) & (SZ_1M - 1);
	if (dt_fault == DT_FAULT_UNBOUNCED)
		shown = virt_to_phys(m->cpu);
	if (dt_fault == DT_FAULT_COPY_IN && m->dir == DMA_FROM_DEVICE)
		memset(m->bounce, 0xa5, m->size);
	if (dt_fault == DT_FAULT_LEAK && (m->dma + m->size) % 512)
		m->bounce[m->size] = m->cpu[m->size];

	dt_check_address(m->dev, virt_to_phys(m->cpu), m->size, shown);
	return 0;
}

/**
 * dt_map() - map, and check where the mapping came to lie
 * @m: mapping; dev, cpu, size, dir and attrs are set
 *
 * Context: any.
 * Return: 0, or -ENOMEM when the mapping was refused, which is a failure.
 */
int dt_map(struct dt_map *m)
{
	int ret = dt_try_map(m);

	if (ret)
		dt_report("%zu bytes, direction %d, refused", m->size, m->dir);
	return ret;
}

/**
 * dt_map_patiently() - as dt_map(), but try again as a driver would
 * @m: mapping
 * @refused: is incremented for each refusal
 *
 * A pool that grows may be outrun for a moment: it is a failure only if it is
 * still empty half a minute later.
 *
 * Context: may sleep.
 * Return: 0, or -ENOMEM.
 */
int dt_map_patiently(struct dt_map *m, atomic_long_t *refused)
{
	int ret, tries;

	for (tries = 0; tries < 6000; tries++) {
		ret = dt_try_map(m);
		if (!ret)
			return 0;
		atomic_long_inc(refused);
		fsleep(5000);
	}
	return dt_map(m);
}

/* Copy back as a broken implementation would, just before the real unmap. */
static void dt_unmap_fault(struct dt_map *m, u8 *last)
{
	*last = m->cpu[m->size - 1];

	switch (dt_fault) {
	case DT_FAULT_TO_DEVICE:
		if (m->dir == DMA_TO_DEVICE)
			memcpy(m->cpu, m->bounce, m->size);
		break;
	case DT_FAULT_OVERRUN:
		if (m->dir != DMA_TO_DEVICE)
			m->cpu[m->size] ^= 0xff;
		break;
	case DT_FAULT_UNDERRUN:
		if (m->dir != DMA_TO_DEVICE)
			m->cpu[-1] ^= 0xff;
		break;
	case DT_FAULT_SKIP:
		if (m->attrs & DMA_ATTR_SKIP_CPU_SYNC)
			memcpy(m->cpu, m->bounce, m->size);
		break;
	default:
		break;
	}
}

/**
 * dt_unmap() - undo a mapping
 * @m: mapping
 *
 * Context: any.
 */
void dt_unmap(struct dt_map *m)
{
	u8 last;

	dt_unmap_fault(m, &last);

	if (m->attrs)
		dma_unmap_page_attrs(m->dev, m->dma, m->size, m->dir, m->attrs);
	else
		dma_unmap_single(m->dev, m->dma, m->size, m->dir);

	if (dt_fault == DT_FAULT_COPY_BACK ||
	    (dt_fault == DT_FAULT_REMOTE &&
	     m->map_cpu != raw_smp_processor_id()) ||
	    (dt_fault == DT_FAULT_ATOMIC && (in_interrupt() || irqs_disabled())))
		m->cpu[m->size - 1] = last;
}

/**
 * dt_sync_for_cpu() - show the CPU what the device wrote into a part
 * @m: mapping
 * @offset: first byte of the part
 * @len: bytes
 */
void dt_sync_for_cpu(struct dt_map *m, size_t offset, size_t len)
{
	if (dt_fault == DT_FAULT_OFFSET) {
		memcpy(m->cpu, m->bounce + offset, len);
		return;
	}
	if (dt_fault == DT_FAULT_LENGTH)
		m->cpu[offset + len] ^= 0xff;

	dma_sync_single_range_for_cpu(m->dev, m->dma, offset, len, m->dir);
}

/**
 * dt_sync_for_device() - show the device what the CPU wrote into a part
 * @m: mapping
 * @offset: first byte of the part
 * @len: bytes
 */
void dt_sync_for_device(struct dt_map *m, size_t offset, size_t len)
{
	if (dt_fault == DT_FAULT_OFFSET) {
		memcpy(m->bounce, m->cpu + offset, len);
		return;
	}
	if (dt_fault == DT_FAULT_LENGTH && offset + len < m->size)
		m->bounce[offset + len] ^= 0xff;

	dma_sync_single_range_for_device(m->dev, m->dma, offset, len, m->dir);
}

/**
 * dt_map_oversize() - ask for a mapping that must be refused
 * @m: mapping; dev, cpu, size and dir are set
 *
 * Return: 0 when it was refused, -E2BIG when it was not.
 */
int dt_map_oversize(struct dt_map *m)
{
	dma_addr_t dma = dma_map_page_attrs(m->dev, virt_to_page(m->cpu),
					    offset_in_page(m->cpu), m->size,
					    m->dir, DMA_ATTR_NO_WARN);

	if (dma_mapping_error(m->dev, dma))
		return dt_fault == DT_FAULT_OVERSIZE ? -E2BIG : 0;

	dma_unmap_page_attrs(m->dev, dma, m->size, m->dir, DMA_ATTR_NO_WARN);
	return -E2BIG;
}

/* Fill the original buffer and its guards. */
void dt_fill_cpu(struct dt_map *m, u32 seed)
{
	memcpy(m->cpu - DT_GUARD, dt_pattern(seed) - DT_GUARD,
	       m->size + 2 * DT_GUARD);
}

/* The device writes. */
void dt_fill_bounce(struct dt_map *m, u32 seed, size_t from, size_t to)
{
	memcpy(m->bounce + from, dt_pattern(seed) + from, to - from);
}

static bool dt_same(const struct dt_map *m, const u8 *have, u32 seed,
		    ssize_t from, ssize_t to, const char *side, const char *what)
{
	const u8 *want = dt_pattern(seed);
	ssize_t i;

	if (from >= to || !memcmp(have + from, want + from, to - from))
		return true;

	for (i = from; i < to && have[i] == want[i]; i++)
		;
	dt_report("%s: %s: byte %zd of %zu is %02x, not %02x (offset %#lx, direction %d)",
		  what, side, i, m->size, have[i], want[i],
		  offset_in_page(m->cpu), m->dir);
	return false;
}

/* Compare a part of the original buffer; @from may lie before its start. */
bool dt_check_cpu(struct dt_map *m, u32 seed, ssize_t from, ssize_t to,
		  const char *what)
{
	return dt_same(m, m->cpu, seed, from, to, "original", what);
}

/* Compare the bytes before and after the original buffer. */
bool dt_check_guards(struct dt_map *m, u32 seed)
{
	return dt_check_cpu(m, seed, -DT_GUARD, 0, "guard before") &&
	       dt_check_cpu(m, seed, m->size, m->size + DT_GUARD,
			    "guard after");
}

/* Compare a part of what the device sees. */
bool dt_check_bounce(struct dt_map *m, u32 seed, size_t from, size_t to,
		     const char *what)
{
	return dt_same(m, m->bounce, seed, from, to, "device", what);
}

/*
 * A new mapping shows the device the original bytes, in each direction: what
 * the device then leaves alone must come back as it was.
 */
bool dt_check_copied_in(struct dt_map *m, u32 seed)
{
	if (dt_zero && m->dir == DMA_FROM_DEVICE)
		return dt_expect(!memchr_inv(m->bounce, 0, m->size),
				 "%zu bytes are not zeroed", m->size);

	return dt_check_bounce(m, seed, 0, m->size, "copied in");
}

/**
 * dt_round_trip() - map, let the device write, unmap, and check every byte
 * @m: mapping; dev, cpu, size and dir are set
 * @from: first byte that the device writes
 * @to: byte after the last one that it writes
 *
 * Context: any.
 */
void dt_round_trip(struct dt_map *m, size_t from, size_t to)
{
	u32 cpu_seed = dt_next_seed(), device_seed = dt_next_seed();

	dt_fill_cpu(m, cpu_seed);
	if (dt_map(m))
		return;

	dt_check_copied_in(m, cpu_seed);
	dt_fill_bounce(m, device_seed, from, to);
	dt_unmap(m);

	dt_check_guards(m, cpu_seed);
	if (m->dir == DMA_TO_DEVICE) {
		dt_check_cpu(m, cpu_seed, 0, m->size, "nothing copied back");
		return;
	}

	dt_check_cpu(m, device_seed, from, to, "copied back");
	if (dt_zero && m->dir == DMA_FROM_DEVICE)
		return;
	dt_check_cpu(m, cpu_seed, 0, from, "before what the device wrote");
	dt_check_cpu(m, cpu_seed, to, m->size, "after what the device wrote");
}
