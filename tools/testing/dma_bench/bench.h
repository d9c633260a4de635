/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long the DMA API takes to map, unmap and sync, beside a bare memcpy().
 *
 * Calls the public DMA API only, on a device of its own, so that it runs
 * unchanged over whatever bounces: cc_swiotlb, swiotlb, or nothing.
 */
#ifndef CC_SWIOTLB_BENCH_H
#define CC_SWIOTLB_BENCH_H

#include <linux/dma-mapping.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/types.h>

/* Most buffers that are mapped at a time, and the largest. */
#define DB_DEPTH	64
#define DB_MAX_SIZE	SZ_512K
#define DB_THREADS	2

/*
 * Slices in which a case is measured, in turn with its floor. Of both, the
 * least disturbed slice counts.
 */
#define DB_SLICES	5

struct db_run;
struct db_thread;

/**
 * struct db_pattern - a way to use the DMA API
 * @name: name by which it is selected and reported
 * @prepare: called before the first round; may be NULL
 * @round: maps and unmaps, or syncs, each of the buffers once
 * @floor: makes the copies that @round cannot do without
 * @finish: called after the last round; may be NULL
 */
struct db_pattern {
	const char *name;
	int (*prepare)(struct db_thread *t);
	void (*round)(struct db_thread *t);
	void (*floor)(struct db_thread *t);
	void (*finish)(struct db_thread *t);
};

extern const struct db_pattern db_patterns[];
extern const int db_nr_patterns;

/**
 * struct db_case - what is measured
 * @pattern: how the DMA API is used
 * @dir: direction of all mappings
 * @size: bytes in a buffer
 * @depth: buffers in flight
 */
struct db_case {
	const struct db_pattern *pattern;
	enum dma_data_direction dir;
	size_t size;
	unsigned int depth;
};

/**
 * struct db_thread - one of the threads that measure at the same time
 * @run: the threads, this one among them
 * @dev: test device
 * @c: the case
 * @near: area with the drivers' buffers
 * @far: areas that the floor copies to
 * @dma: DMA addresses of the mapped buffers
 * @sgl: the buffers as a scatterlist
 * @refused: mappings that failed
 * @round_ps: picoseconds for a buffer in a round, by slice
 * @floor_ps: the same for the floor
 */
struct db_thread {
	struct db_run *run;
	struct device *dev;
	struct db_case c;
	u8 *near;
	u8 *far[DB_DEPTH];
	dma_addr_t dma[DB_DEPTH];
	struct scatterlist sgl[DB_DEPTH];
	unsigned long refused;
	u64 round_ps[DB_SLICES];
	u64 floor_ps[DB_SLICES];
};

/*
 * A driver has just written the data that it sends, and is about to read the
 * data that it received: its buffers are in the cache, even if that makes large
 * ones overlap.
 */
static inline u8 *db_near(struct db_thread *t, unsigned int i)
{
	return t->near + i % (DB_MAX_SIZE / t->c.size) * t->c.size;
}

/* Like small bounce buffers, small buffers of the floor lie side by side. */
static inline u8 *db_far(struct db_thread *t, unsigned int i)
{
	unsigned int each = DB_MAX_SIZE / t->c.size;

	return t->far[i / each] + i % each * t->c.size;
}

/* thread.c */
struct db_thread *db_thread_alloc(struct device *dev);
void db_thread_free(struct db_thread *t);
int db_agree(struct db_thread *t, bool content);
int db_measure(struct db_thread **threads, unsigned int n, u64 slice_ns);

/* age.c */
int db_age(struct db_thread *t, unsigned long mappings);

/* longest.c */
int db_longest(struct db_thread *t, size_t size, u64 *map_ns, u64 *unmap_ns);

#endif /* CC_SWIOTLB_BENCH_H */
