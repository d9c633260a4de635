// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings of every size, at every offset, in every direction.
 */

#include <linux/random.h>
#include <linux/sched.h>

#include "dma_test.h"

/* Beyond dt_every: an odd stride, so that all residues of 512 are met. */
static unsigned int dt_stride(void)
{
	return (20 * SZ_1M / dt_every) | 1;
}

static const size_t dt_classes[] = {
	512, SZ_2K, SZ_4K, SZ_8K, SZ_16K, SZ_32K, SZ_64K, SZ_128K, SZ_256K,
	SZ_512K,
};

static const unsigned int dt_masks[] = { 0, 511, 4095 };

/* An original buffer of @size bytes that starts @offset into a page. */
static struct dt_map dt_at(struct dt *dt, size_t offset, size_t size,
			   enum dma_data_direction dir)
{
	return (struct dt_map) {
		.dev = dt->dev,
		.cpu = dt->area + PAGE_SIZE + offset,
		.size = size,
		.dir = dir,
	};
}

/* The device writes all, all but the ends, one byte, or nothing. */
static void dt_write_some(struct dt_map *m, unsigned int n)
{
	switch (n % 4) {
	case 0:
		dt_round_trip(m, 0, m->size);
		break;
	case 1:
		dt_round_trip(m, m->size / 3, m->size - m->size / 4);
		break;
	case 2:
		dt_round_trip(m, m->size - 1, m->size);
		break;
	default:
		dt_round_trip(m, 0, 0);
		break;
	}
}

static void dt_one_size(struct dt *dt, size_t size, size_t offset)
{
	unsigned int d;

	for (d = 0; d < 3; d++) {
		struct dt_map m = dt_at(dt, offset, size, dt_direction(d));

		/* Each size meets each way of writing in some direction. */
		dt_write_some(&m, size + d);
	}
	cond_resched();
}

/*
 * Sizes: all up to dt_every, then each class boundary - 2 to + 2, then a
 * stride up to the largest mapping. For each min_align_mask.
 */
void dt_sizes(struct dt *dt)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dt_masks); i++) {
		size_t max, size, c;
		int d;

		dma_set_min_align_mask(dt->dev, dt_masks[i]);
		max = dma_max_mapping_size(dt->dev);
		if (!dt_expect(max >= SZ_128K && max <= DT_SIZE_LIMIT,
			       "largest mapping is %zu", max))
			return;
		if (!dt_quick)
			dt_note("min_align_mask %u: largest mapping is %zu",
				dt_masks[i], max);

		for (size = 1; size <= dt_every && !dt_failed();
		     size += dt_quick ? 97 : 1 + i)
			dt_one_size(dt, size, size * 7 % PAGE_SIZE);

		for (c = 0; c < ARRAY_SIZE(dt_classes) && !dt_failed(); c++) {
			for (d = -2; d <= 2; d++) {
				size = dt_classes[c] + d;
				if (size <= max)
					dt_one_size(dt, size, 0);
			}
		}

		for (size = dt_every; size < max && !dt_failed();
		     size += dt_stride() * (dt_quick ? 64 : 1 + i))
			dt_one_size(dt, size, size * 7 % PAGE_SIZE);

		for (size = max; size > max - 4 && !dt_failed(); size--)
			dt_one_size(dt, size, 0);
	}
}

/*
 * Each of the 4096 offsets in a page, for sizes around the small classes. If
 * few sizes are wanted, every seventh offset: each residue of 512 is met.
 */
void dt_offsets(struct dt *dt)
{
	static const size_t sizes[] = { 1, 511, 512, 2048, 4096, 5000 };
	unsigned int stride = dt_every < PAGE_SIZE ? 7 : 1;
	unsigned int i, s;
	size_t offset;

	for (i = 0; i < ARRAY_SIZE(dt_masks); i++) {
		dma_set_min_align_mask(dt->dev, dt_masks[i]);

		for (offset = 0; offset < PAGE_SIZE && !dt_failed();
		     offset += dt_quick ? 41 : stride) {
			for (s = 0; s < ARRAY_SIZE(sizes); s++) {
				struct dt_map m;

				m = dt_at(dt, offset, sizes[s],
					  dt_direction(offset + s));
				dt_write_some(&m, offset / 3);
			}
			cond_resched();
		}
	}
}

/*
 * Large mappings, the largest among them, at offsets a stride of 17 bytes
 * apart (a prime: each residue of 512 is met), and at both ends of a page.
 */
void dt_large_offsets(struct dt *dt)
{
	static const size_t edges[] = { 0, 1, 511, 512, 2047, 2048, 4095 };
	unsigned int i, e, n = 0;
	size_t offset, max;

	for (i = 0; i < ARRAY_SIZE(dt_masks); i++) {
		dma_set_min_align_mask(dt->dev, dt_masks[i]);
		max = dma_max_mapping_size(dt->dev);

		for (e = 0; e < ARRAY_SIZE(edges) && !dt_failed(); e++) {
			dt_one_size(dt, max, edges[e]);
			dt_one_size(dt, SZ_64K, edges[e]);
		}

		for (offset = 0; offset < PAGE_SIZE && !dt_failed();
		     offset += dt_quick ? 509 : 17) {
			struct dt_map m;

			m = dt_at(dt, offset, SZ_16K + offset,
				  dt_direction(n));
			dt_write_some(&m, n / 3);
			m = dt_at(dt, offset, SZ_32K - offset,
				  dt_direction(n));
			dt_write_some(&m, n / 3);
			n++;
			cond_resched();
		}
	}
}

/* How often a byte beside a bounce buffer equals that beside the original. */
struct dt_neighbour {
	unsigned int same;
	unsigned int seen;
};

static void dt_look(struct dt_neighbour *n, u8 bounce, u8 original)
{
	n->same += bounce == original;
	n->seen++;
}

/* By chance one byte in 256 is the same; with a leak every byte is. */
static void dt_check_neighbour(const struct dt_neighbour *n, const char *where)
{
	dt_expect(n->seen, "the byte %s was never looked at", where);
	dt_expect(n->same <= n->seen / 4,
		  "the private byte %s is shared, %u times of %u", where,
		  n->same, n->seen);
}

/*
 * Random bytes that were never in memory before lie around the original buffer.
 * They must not show up around the bounce buffer, and what the device writes
 * around the bounce buffer must not come back.
 *
 * Only the blocks of 512 bytes in which the mapping starts and ends are looked
 * at and written to: no other mapping can have a share in them, since no
 * implementation has smaller slots.
 */
void dt_surroundings(struct dt *dt)
{
	static const size_t sizes[] = {
		1, 13, 500, 512, 700, 2000, 2049, 4095, 4097, 6000, 60001,
	};
	struct dt_neighbour before = {}, after = {};
	unsigned int round, rounds = dt_quick ? 4 : 64;
	u8 secret[2][16];

	for (round = 0; round < rounds * ARRAY_SIZE(sizes); round++) {
		struct dt_map m;
		u8 *end;

		if (dt_failed())
			break;

		dma_set_min_align_mask(dt->dev,
				       dt_masks[round % ARRAY_SIZE(dt_masks)]);
		m = dt_at(dt, dt_below(dt, PAGE_SIZE), sizes[round / rounds],
			  dt_direction(round / 3));
		end = m.cpu + m.size;

		dt_fill_cpu(&m, dt_next_seed());
		get_random_bytes(secret, sizeof(secret));
		memcpy(m.cpu - sizeof(secret[0]), secret[0], sizeof(secret[0]));
		memcpy(end, secret[1], sizeof(secret[1]));

		if (dt_map(&m))
			return;

		if (m.dma % 512)
			dt_look(&before, m.bounce[-1], m.cpu[-1]);
		if ((m.dma + m.size) % 512)
			dt_look(&after, m.bounce[m.size], *end);

		memset(m.bounce - m.dma % 512, 0x5a, m.dma % 512);
		memset(m.bounce + m.size, 0x5a, -(m.dma + m.size) % 512);
		dt_unmap(&m);

		dt_expect(!memcmp(m.cpu - sizeof(secret[0]), secret[0],
				  sizeof(secret[0])) &&
			  !memcmp(end, secret[1], sizeof(secret[1])),
			  "%zu bytes at %pad: bytes around it came back",
			  m.size, &m.dma);
	}

	dt_check_neighbour(&before, "before a buffer");
	dt_check_neighbour(&after, "after a buffer");
}

/* Many times the pool, one mapping at a time: a slot lost each time shows. */
void dt_churn(struct dt *dt)
{
	static const size_t sizes[] = { SZ_4K, SZ_16K, SZ_64K, SZ_128K };
	unsigned int s, n, rounds = dt_quick ? 64 : 2048;

	for (s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct dt_map m = dt_at(dt, 0, sizes[s], DMA_TO_DEVICE);

		m.attrs = DMA_ATTR_SKIP_CPU_SYNC;
		for (n = 0; n < rounds && !dt_failed(); n++) {
			if (dt_map(&m))
				return;
			dt_unmap(&m);
			cond_resched();
		}
	}
}
