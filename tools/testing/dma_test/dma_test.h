/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A test device that drives the DMA API, and what its test cases share.
 *
 * The module is driver and device in one. As the driver it calls the public
 * DMA API only, so it runs unchanged over swiotlb and over cc_swiotlb. As the
 * device it reaches a bounce buffer by the DMA address that the driver was
 * given, and by nothing else.
 *
 * Contents are checked against a table of random bytes. Byte i of a mapping
 * that was filled with seed s is dt_pattern(s)[i]; i is negative for the guard
 * bytes before the mapping, and beyond its size for those after it. Two seeds
 * are two places in the table, so one byte in the wrong place is seen.
 */
#ifndef CC_SWIOTLB_DMA_TEST_H
#define CC_SWIOTLB_DMA_TEST_H

#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/prandom.h>
#include <linux/sizes.h>
#include <linux/types.h>

/* Bytes before and after a mapping that are checked with it. */
#define DT_GUARD	256

/* The largest mapping any implementation takes: cc_swiotlb's largest class. */
#define DT_SIZE_LIMIT	SZ_512K

/* Space for the largest mapping at any offset in a page, with its guards. */
#define DT_AREA_ORDER	(get_order(DT_SIZE_LIMIT) + 1)

/* Deliberate faults, which show that each case can fail. See fault=. */
enum dt_fault {
	DT_FAULT_NONE,
	DT_FAULT_UNBOUNCED,	/* the device is given the original buffer */
	DT_FAULT_COPY_IN,	/* a FROM_DEVICE buffer is not copied in */
	DT_FAULT_TO_DEVICE,	/* a TO_DEVICE buffer is copied back */
	DT_FAULT_COPY_BACK,	/* the last byte is not copied back */
	DT_FAULT_OVERRUN,	/* one byte too many is copied back */
	DT_FAULT_UNDERRUN,	/* one byte before the buffer is copied back */
	DT_FAULT_LEAK,		/* one byte after the buffer is copied in */
	DT_FAULT_OFFSET,	/* a partial sync forgets its offset */
	DT_FAULT_LENGTH,	/* a partial sync copies one byte too many */
	DT_FAULT_SKIP,		/* DMA_ATTR_SKIP_CPU_SYNC is ignored */
	DT_FAULT_ALIGN,		/* the address is 512 bytes further on */
	DT_FAULT_DMA_MASK,	/* the address is beyond the DMA mask */
	DT_FAULT_BOUNDARY,	/* the segment boundary is not respected */
	DT_FAULT_OVERLAP,	/* a slot is handed out twice */
	DT_FAULT_REMOTE,	/* what another CPU unmaps is not copied back */
	DT_FAULT_ATOMIC,	/* the same in interrupt context */
	DT_FAULT_OVERSIZE,	/* an oversize mapping is not refused */
	DT_FAULT_REFUSE,	/* the largest mapping is refused */
	DT_FAULT_NEED_SYNC,	/* a bounced mapping is said to need no sync */
	DT_FAULT_WARN,		/* the kernel warns */
	DT_FAULT_ENDLESS,	/* a search for a slot never ends */
	DT_FAULT_SYNC_BACK,	/* a FROM_DEVICE buffer is copied to the device */
};

/**
 * struct dt_map - one mapping and its original buffer
 * @dev: test device
 * @cpu: first byte of the mapping in the original buffer
 * @size: bytes
 * @dir: DMA direction
 * @attrs: DMA attributes, for map and unmap
 * @dma: address that the device uses
 * @bounce: memory that the device sees at @dma
 * @seed: what @cpu was filled with, for the cases' own use
 * @map_cpu: CPU that made the mapping
 */
struct dt_map {
	struct device *dev;
	u8 *cpu;
	size_t size;
	enum dma_data_direction dir;
	unsigned long attrs;
	dma_addr_t dma;
	u8 *bounce;
	u32 seed;
	int map_cpu;
};

/**
 * struct dt - what a case is given
 * @dev: test device
 * @area: pages for original buffers, %DT_AREA_ORDER
 * @rnd: random numbers, the same in each run with the same seed=
 */
struct dt {
	struct device *dev;
	u8 *area;
	struct rnd_state rnd;
};

struct dt_case {
	const char *name;
	void (*run)(struct dt *dt);
};

/* runner.c */
extern unsigned int dt_decide;
extern bool dt_quick;
extern bool dt_zero;
extern unsigned int dt_every;
extern unsigned int dt_seconds;
extern enum dt_fault dt_fault;

__printf(1, 2) void dt_report(const char *fmt, ...);
__printf(1, 2) void dt_note(const char *fmt, ...);
void dt_skip(const char *reason);
bool dt_failed(void);
u32 dt_next_seed(void);

#define dt_expect(condition, fmt, ...) ({				\
	bool __ok = (condition);					\
									\
	if (unlikely(!__ok))						\
		dt_report("%s:%d: " fmt, __func__, __LINE__,		\
			  ##__VA_ARGS__);				\
	__ok;								\
})

/* mapping.c */
int dt_pattern_init(void);
void dt_pattern_exit(void);
const u8 *dt_pattern(u32 seed);

u8 *dt_device_view(struct device *dev, dma_addr_t dma);
int dt_map(struct dt_map *m);
int dt_map_patiently(struct dt_map *m, atomic_long_t *refused);
void dt_unmap(struct dt_map *m);
void dt_sync_for_cpu(struct dt_map *m, size_t offset, size_t len);
void dt_sync_for_device(struct dt_map *m, size_t offset, size_t len);
int dt_map_oversize(struct dt_map *m);
void dt_check_address(struct device *dev, phys_addr_t orig, size_t size,
		      dma_addr_t dma);

void dt_fill_cpu(struct dt_map *m, u32 seed);
void dt_fill_bounce(struct dt_map *m, u32 seed, size_t from, size_t to);
bool dt_check_cpu(struct dt_map *m, u32 seed, ssize_t from, ssize_t to,
		  const char *what);
bool dt_check_guards(struct dt_map *m, u32 seed);
bool dt_check_bounce(struct dt_map *m, u32 seed, size_t from, size_t to,
		     const char *what);
bool dt_check_copied_in(struct dt_map *m, u32 seed);
void dt_round_trip(struct dt_map *m, size_t from, size_t to);

static inline u32 dt_below(struct dt *dt, u32 ceil)
{
	return prandom_u32_state(&dt->rnd) % ceil;
}

static inline enum dma_data_direction dt_direction(unsigned int n)
{
	static const enum dma_data_direction directions[] = {
		DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL,
	};

	return directions[n % ARRAY_SIZE(directions)];
}

/* The cases, by file. */
void dt_sizes(struct dt *dt);
void dt_offsets(struct dt *dt);
void dt_large_offsets(struct dt *dt);
void dt_surroundings(struct dt *dt);
void dt_churn(struct dt *dt);

void dt_seg_boundary(struct dt *dt);
void dt_oversize(struct dt *dt);
void dt_dma_mask(struct dt *dt);
void dt_need_sync(struct dt *dt);

void dt_sync_every_range(struct dt *dt);
void dt_sync_random_range(struct dt *dt);
void dt_skip_cpu_sync(struct dt *dt);
void dt_sync_in_turn(struct dt *dt);
void dt_no_mask_set(struct dt *dt);

void dt_other_cpu(struct dt *dt);
void dt_hardirq(struct dt *dt);
void dt_softirq(struct dt *dt);
void dt_irqs_off(struct dt *dt);

void dt_scatterlist(struct dt *dt);
void dt_scatterlist_oversize(struct dt *dt);
void dt_many(struct dt *dt);
void dt_parallel(struct dt *dt);

void dt_double_unmap(struct dt *dt);
void dt_unmap_inside(struct dt *dt);
void dt_unmap_never_mapped(struct dt *dt);
void dt_sync_past_end(struct dt *dt);
void dt_sync_unmapped(struct dt *dt);
void dt_unmap_other_length(struct dt *dt);

void dt_coherent(struct dt *dt);
void dt_coherent_atomic(struct dt *dt);
void dt_lent_mapping(struct dt *dt);
void dt_free_twice(struct dt *dt);

void dt_small_leave_large(struct dt *dt);
void dt_exhausted_with_mask(struct dt *dt);
void dt_small_mask_has_enough(struct dt *dt);

void dt_decisions(struct dt *dt);

struct pci_dev *dt_iommu_device(void);
void dt_untrusted(struct dt *dt);
void dt_linked(struct dt *dt);

#endif /* CC_SWIOTLB_DMA_TEST_H */
