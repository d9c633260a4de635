/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Torture for bounce buffers: what the parts of the module share.
 *
 * The module is driver and device in one, as its sibling dma_test is. As the
 * driver it calls the public DMA API only; as the device it reaches a bounce
 * buffer by the DMA address that the driver was given.
 */
#ifndef CC_SWIOTLB_TORTURE_H
#define CC_SWIOTLB_TORTURE_H

#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/percpu.h>
#include <linux/prandom.h>
#include <linux/rbtree.h>
#include <linux/sizes.h>
#include <linux/types.h>

/* Bytes before and after an original buffer that are checked with it. */
#define TT_GUARD	128

/* The largest mapping any implementation takes: cc_swiotlb's largest class. */
#define TT_SIZE_LIMIT	SZ_512K

/* Parts of different origin that the model of one buffer can have. */
#define TT_SEGMENTS	16

/* Positions in the table of random bytes that a buffer can be filled from. */
#define TT_POSITIONS	SZ_64K

/* The buffer of a thread that mappings of a storm share. */
#define TT_AREA		SZ_1M

/* The position of zeroes: behind all that the others can reach. */
#define TT_ZEROES	(TT_POSITIONS + TT_AREA + TT_GUARD)

/* Kinds of devices. */
#define TT_KINDS	4

/* Places where threads leave mappings for others. */
#define TT_BOXES	64

/* The number of address bits of the devices. */
#define TT_DMA_BITS	48

/* Deliberate faults, which show that each check can fail. See fault=. */
enum tt_fault {
	TT_FAULT_NONE,
	TT_FAULT_UNBOUNCED,	/* the device is given the original buffer */
	TT_FAULT_ALIGN,		/* min_align_mask is not kept */
	TT_FAULT_PAGE,		/* what should start a page does not */
	TT_FAULT_BOUNDARY,	/* the segment boundary is not respected */
	TT_FAULT_DMA_MASK,	/* the address is beyond the DMA mask */
	TT_FAULT_NEED_SYNC,	/* a bounced mapping is said to need no sync */
	TT_FAULT_OVERLAP,	/* a slot is handed out twice */
	TT_FAULT_COPY_IN,	/* a byte is not copied in */
	TT_FAULT_COPY_BACK,	/* the last byte is not copied back */
	TT_FAULT_TO_DEVICE,	/* a TO_DEVICE buffer is copied back */
	TT_FAULT_SKIP,		/* DMA_ATTR_SKIP_CPU_SYNC is ignored */
	TT_FAULT_OVERRUN,	/* one byte too many is copied back */
	TT_FAULT_UNDERRUN,	/* one byte before the buffer is copied back */
	TT_FAULT_SYNC_CPU,	/* a sync for the CPU does nothing */
	TT_FAULT_SYNC_DEVICE,	/* a sync for the device does nothing */
	TT_FAULT_LENGTH_CPU,	/* a sync for the CPU is a byte too long */
	TT_FAULT_LENGTH_DEVICE,	/* so is one for the device */
	TT_FAULT_SCRIBBLE,	/* somebody else writes to a slot in use */
	TT_FAULT_HELD,		/* the same to one that is long in use */
	TT_FAULT_STORM,		/* the same when all slots are in use */
	TT_FAULT_LIST,		/* an entry of a list is not copied back */
	TT_FAULT_IRQS_OFF,	/* nothing is copied back with interrupts off */
	TT_FAULT_SOFTIRQ,	/* nor in softirq context */
	TT_FAULT_HARDIRQ,	/* nor in hard interrupt context */
	TT_FAULT_REMOTE,	/* nor on another CPU */
	TT_FAULT_TICK,		/* nor in a timer's interrupt */
	TT_FAULT_REFUSED,	/* a refused mapping changes its buffer */
	TT_FAULT_OVERSIZE,	/* a mapping that is too large is made */
	TT_FAULT_LOST,		/* a mapping is never undone */
	TT_FAULT_LEAK,		/* the same, and the module does not know */
	TT_FAULT_TWICE,		/* mappings are undone twice */
	TT_FAULT_BLIND,		/* refused mappings are not counted */
	TT_FAULT_LENT,		/* somebody else writes to memory that is lent */
	TT_FAULT_KEPT,		/* lent memory is never given back */
};

/* Counters. Their names are in torture.c. */
enum tt_count {
	TT_MAPS,
	TT_UNMAPS,
	TT_SYNCS,
	TT_REFUSED,
	TT_OVERSIZE,
	TT_LISTS,
	TT_STORMS,
	TT_HELD,
	TT_PASSED_ON,
	TT_CROSSED,
	TT_TICKS,
	TT_IN_TASK,
	TT_IN_IRQS_OFF,
	TT_IN_SOFTIRQ,
	TT_IN_HARDIRQ,
	TT_IN_REMOTE_TASK,
	TT_IN_REMOTE_SOFTIRQ,
	TT_IN_REMOTE_HARDIRQ,
	TT_MOVES,
	TT_NO_MEMORY,
	TT_FRAGMENTED,
	TT_LENT,
	TT_LENT_MAPPED,
	TT_LENT_BOUNCED,
	TT_COUNTS
};

/* Where a mapping is made or undone; the remote ones are on another CPU. */
enum tt_context {
	TT_TASK,
	TT_IRQS_OFF,
	TT_SOFTIRQ,
	TT_HARDIRQ,
	TT_REMOTE_TASK,
	TT_REMOTE_SOFTIRQ,
	TT_REMOTE_HARDIRQ,
	TT_CONTEXTS
};

/* The phases of the writers. */
enum tt_phase {
	TT_MIX,			/* mappings of all kinds */
	TT_STORM,		/* as many at a time as possible */
	TT_QUIET,		/* nothing */
};

/**
 * struct tt_side - what one of the two buffers of a mapping has to contain
 * @n: number of segments
 * @seg: segments in order; the first one starts at 0
 * @seg.start: first byte of the segment
 * @seg.pos: byte i of the buffer is byte @seg.pos + i of the table
 */
struct tt_side {
	unsigned int n;
	struct {
		u32 start;
		u32 pos;
	} seg[TT_SEGMENTS];
};

/**
 * struct tt_map - one mapping and its original buffer
 * @dev: test device
 * @buffer: the allocation that @cpu lies in; %NULL if it is not its own
 * @cpu: first byte of the mapping in the original buffer
 * @size: bytes
 * @dir: DMA direction
 * @attrs: DMA attributes for the map
 * @unmap_attrs: DMA attributes for the unmap
 * @guard: position of the bytes around the original buffer
 * @dma: address that the device uses, or %DMA_MAPPING_ERROR
 * @shared: memory that the device sees at @dma
 * @original: model of @cpu
 * @bounce: model of @shared
 * @node: place among the mappings that are alive
 * @last: last byte of @shared
 * @map_cpu: CPU that made the mapping
 * @context: where it is being made or undone
 * @due: when it is undone, in jiffies; of those that are held
 */
struct tt_map {
	struct device *dev;
	u8 *buffer;
	u8 *cpu;
	u32 size;
	enum dma_data_direction dir;
	unsigned long attrs;
	unsigned long unmap_attrs;
	u32 guard;
	dma_addr_t dma;
	u8 *shared;
	struct tt_side original;
	struct tt_side bounce;
	struct rb_node node;
	u8 *last;
	int map_cpu;
	enum tt_context context;
	unsigned long due;
};

/**
 * struct tt_thread - one of the test's threads
 * @task: the thread
 * @rnd: its random numbers, the same in each run with the same seed=
 * @loops: how often it has gone round
 * @tick: interrupts on its CPU, of a writer
 * @storm: the mappings of a storm, of a writer
 * @area: a buffer of %TT_AREA bytes for storms, of a writer
 * @area_pos: position of @area's first byte
 */
struct tt_thread {
	struct task_struct *task;
	struct rnd_state rnd;
	unsigned int loops;
	struct tt_tick *tick;
	struct tt_storm *storm;
	u8 *area;
	u32 area_pos;
};

/* torture.c */
extern bool tt_zero;
extern unsigned int tt_irq;
extern unsigned int tt_hold;
extern unsigned int tt_max_held;
extern unsigned int tt_tick_ms;
extern unsigned int tt_fragment_s;
extern u64 tt_storm_bytes;
extern enum tt_fault tt_fault;

DECLARE_PER_CPU(unsigned long [TT_COUNTS], tt_counts);

enum tt_phase tt_phase(void);
bool tt_stopped(void);
__printf(2, 3) void tt_fail(const struct tt_map *m, const char *fmt, ...);

/* Context: any. */
static inline void tt_count(enum tt_count what)
{
	this_cpu_inc(tt_counts[what]);
}

static inline u32 tt_below(struct rnd_state *rnd, u32 ceil)
{
	return prandom_u32_state(rnd) % ceil;
}

/* One time in @n. */
static inline bool tt_one_in(struct rnd_state *rnd, u32 n)
{
	return !tt_below(rnd, n);
}

/* device.c */
extern u32 tt_max_size[TT_KINDS];

struct device *tt_device_get(unsigned int kind);
void tt_device_put(struct device *dev);
struct device *tt_device_shared(unsigned int kind);
int tt_devices_init(unsigned int each);
void tt_devices_exit(void);

/* model.c */
int tt_pattern_init(void);
void tt_pattern_exit(void);
const u8 *tt_pattern(u32 pos);
void tt_side_init(struct tt_side *side, u32 pos);
bool tt_side_merge(struct tt_side *out, const struct tt_side *base,
		   const struct tt_side *over, u32 from, u32 to);
u32 tt_side_mismatch(const struct tt_side *side, const u8 *have, u32 size,
		     u32 *want);

/* check.c */
void tt_live_add(struct tt_map *m);
void tt_live_remove(struct tt_map *m);
void tt_check_address(struct tt_map *m);
bool tt_check_original(struct tt_map *m, const char *when);
bool tt_check_shared(struct tt_map *m, const char *when);

/* mapping.c */
u32 tt_size(struct rnd_state *rnd, u32 max);
enum dma_data_direction tt_direction(struct rnd_state *rnd);
struct tt_map *tt_map_new(struct rnd_state *rnd, struct device *dev, u32 size,
			  enum dma_data_direction dir);
struct tt_map *tt_map_any(struct rnd_state *rnd, u32 max);
void tt_map_free(struct tt_map *m);
void tt_map_drop(struct tt_map *m);
void tt_map_fill(struct tt_map *m, struct rnd_state *rnd);
void tt_map_made(struct tt_map *m, dma_addr_t dma);
void tt_map_undone(struct tt_map *m);
bool tt_map(struct tt_map *m, struct rnd_state *rnd, enum tt_context context);
void tt_unmap(struct tt_map *m, struct rnd_state *rnd, enum tt_context context);
void tt_device_writes(struct tt_map *m, struct rnd_state *rnd);
void tt_play(struct tt_map *m, struct rnd_state *rnd);
void tt_finish(struct tt_map *m, struct rnd_state *rnd);

/* context.c */
enum tt_context tt_some_context(struct rnd_state *rnd);
void tt_run_in(enum tt_context context, struct rnd_state *rnd,
	       void (*run)(struct tt_map *m), struct tt_map *m);

/* fault.c */
int tt_fault_find(const char *name);
dma_addr_t tt_fault_mapped(struct tt_map *m);
void tt_fault_unmap(struct tt_map *m);
bool tt_fault_keep(const struct tt_map *m);

/* The threads, by file. */
int tt_writer(void *data);
int tt_holder(void *data);
int tt_fragmenter(void *data);
struct tt_map *tt_pass_on(struct tt_thread *t, struct tt_map *m);
void tt_boxes_empty(struct rnd_state *rnd);
void tt_list(struct tt_thread *t);
void tt_lent(struct tt_thread *t);
void tt_lent_boxes_empty(struct tt_thread *t);
int tt_storm_new(struct tt_thread *t);
void tt_storm_free(struct tt_thread *t);
void tt_storm(struct tt_thread *t);
struct tt_tick *tt_tick_new(struct rnd_state *rnd);
void tt_tick_start(struct tt_tick *tick);
void tt_tick_free(struct tt_tick *tick);
bool tt_thread_goes_on(void);
void tt_thread_move(struct tt_thread *t);
int tt_threads_start(unsigned int writers, unsigned int holders, u32 seed);
void tt_threads_stop(void);

#endif /* CC_SWIOTLB_TORTURE_H */
