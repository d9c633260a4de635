// SPDX-License-Identifier: GPL-2.0
/*
 * What a buffer has to contain, without keeping a copy of it.
 *
 * All contents come from one table of random bytes. A buffer is a row of
 * segments, and byte i of a segment with position p is byte p + i of the table.
 * i counts from the start of the buffer, not of the segment: data that is
 * copied from one side of a mapping to the other keeps its place, and so its
 * description.
 */

#include <linux/minmax.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "torture.h"

/* Behind the random bytes, zeroes from TT_ZEROES on. */
#define TT_TABLE	(TT_GUARD + TT_ZEROES + TT_SIZE_LIMIT)

static u8 *tt_table;

int tt_pattern_init(void)
{
	struct rnd_state rnd;

	tt_table = vzalloc(TT_TABLE);
	if (!tt_table)
		return -ENOMEM;

	prandom_seed_state(&rnd, 0x70b7);
	prandom_bytes_state(&rnd, tt_table, TT_GUARD + TT_ZEROES);
	return 0;
}

void tt_pattern_exit(void)
{
	vfree(tt_table);
}

/* The bytes at a position; %TT_GUARD bytes before them can be read as well. */
const u8 *tt_pattern(u32 pos)
{
	return tt_table + TT_GUARD + pos;
}

/* Describes a buffer whose bytes are all from one position. */
void tt_side_init(struct tt_side *side, u32 pos)
{
	side->n = 1;
	side->seg[0].start = 0;
	side->seg[0].pos = pos;
}

static u32 tt_side_end(const struct tt_side *side, unsigned int i)
{
	return i + 1 < side->n ? side->seg[i + 1].start : U32_MAX;
}

/* Appends the part of @from between two bytes. False if there is no room. */
static bool tt_side_append(struct tt_side *side, const struct tt_side *from,
			   u32 start, u32 end)
{
	unsigned int i;

	for (i = 0; i < from->n; i++) {
		u32 first = max(start, from->seg[i].start);
		u32 pos = from->seg[i].pos;

		if (first >= min(end, tt_side_end(from, i)))
			continue;
		if (side->n && side->seg[side->n - 1].pos == pos)
			continue;
		if (side->n == TT_SEGMENTS)
			return false;
		side->seg[side->n].start = first;
		side->seg[side->n].pos = pos;
		side->n++;
	}
	return true;
}

/**
 * tt_side_merge() - describe a buffer after a part of another was copied to it
 * @out: the description; another one than @base and @over
 * @base: the buffer before
 * @over: what is copied
 * @from: first byte that is copied
 * @to: byte after the last one
 *
 * Return: %false when that is more than can be described.
 */
bool tt_side_merge(struct tt_side *out, const struct tt_side *base,
		   const struct tt_side *over, u32 from, u32 to)
{
	out->n = 0;
	return tt_side_append(out, base, 0, from) &&
	       tt_side_append(out, over, from, to) &&
	       tt_side_append(out, base, to, U32_MAX);
}

/**
 * tt_side_mismatch() - compare a buffer with its description
 * @side: the description
 * @have: the buffer
 * @size: its size in bytes
 * @want: is set to the value that the wrong byte should have
 *
 * Return: the first byte that is wrong, or @size.
 */
u32 tt_side_mismatch(const struct tt_side *side, const u8 *have, u32 size,
		     u32 *want)
{
	unsigned int i;

	for (i = 0; i < side->n && side->seg[i].start < size; i++) {
		const u8 *bytes = tt_pattern(side->seg[i].pos);
		u32 byte = side->seg[i].start;
		u32 end = min(size, tt_side_end(side, i));

		if (!memcmp(have + byte, bytes + byte, end - byte))
			continue;
		while (byte < end && have[byte] == bytes[byte])
			byte++;
		/* The bytes may have become right since: still a mismatch. */
		byte = min(byte, end - 1);
		*want = bytes[byte];
		return byte;
	}
	return size;
}
