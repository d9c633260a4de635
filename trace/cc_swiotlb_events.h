/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM cc_swiotlb

#if !defined(_CC_SWIOTLB_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _CC_SWIOTLB_EVENTS_H

#include <linux/device.h>
#include <linux/tracepoint.h>

/* kccd shared memory and added it to a node's stock. */
TRACE_EVENT(cc_swiotlb_refill,

	TP_PROTO(int node, u64 bytes, u64 shared_bytes),
	TP_ARGS(node, bytes, shared_bytes),

	TP_STRUCT__entry(
		__field(int, node)
		__field(u64, bytes)
		__field(u64, shared_bytes)
	),

	TP_fast_assign(
		__entry->node = node;
		__entry->bytes = bytes;
		__entry->shared_bytes = shared_bytes;
	),

	TP_printk("node=%d bytes=%llu shared_bytes=%llu",
		  __entry->node, __entry->bytes, __entry->shared_bytes)
);

/* kccd made a chunk private again. */
TRACE_EVENT(cc_swiotlb_giveback,

	TP_PROTO(int node, u64 bytes, u64 shared_bytes),
	TP_ARGS(node, bytes, shared_bytes),

	TP_STRUCT__entry(
		__field(int, node)
		__field(u64, bytes)
		__field(u64, shared_bytes)
	),

	TP_fast_assign(
		__entry->node = node;
		__entry->bytes = bytes;
		__entry->shared_bytes = shared_bytes;
	),

	TP_printk("node=%d bytes=%llu shared_bytes=%llu",
		  __entry->node, __entry->bytes, __entry->shared_bytes)
);

/*
 * A mapping that its own class could not serve: served_bytes is the slot size
 * of the class that did, 0 where it is left to the legacy pool.
 */
TRACE_EVENT(cc_swiotlb_fallback,

	TP_PROTO(struct device *dev, size_t size, u32 wanted_bytes,
		 u32 served_bytes),
	TP_ARGS(dev, size, wanted_bytes, served_bytes),

	TP_STRUCT__entry(
		__string(dev_name, dev_name(dev))
		__field(size_t, size)
		__field(u32, wanted_bytes)
		__field(u32, served_bytes)
	),

	TP_fast_assign(
		__assign_str(dev_name);
		__entry->size = size;
		__entry->wanted_bytes = wanted_bytes;
		__entry->served_bytes = served_bytes;
	),

	TP_printk("dev_name: %s size=%zu wanted_bytes=%u served_bytes=%u",
		  __get_str(dev_name), __entry->size, __entry->wanted_bytes,
		  __entry->served_bytes)
);

/* A mapping that nobody could serve. */
TRACE_EVENT(cc_swiotlb_refused,

	TP_PROTO(struct device *dev, size_t size),
	TP_ARGS(dev, size),

	TP_STRUCT__entry(
		__string(dev_name, dev_name(dev))
		__field(size_t, size)
	),

	TP_fast_assign(
		__assign_str(dev_name);
		__entry->size = size;
	),

	TP_printk("dev_name: %s size=%zu", __get_str(dev_name), __entry->size)
);

#endif /* _CC_SWIOTLB_EVENTS_H */

/* This part must be outside protection */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH ../../kernel/dma/cc_swiotlb/trace
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE cc_swiotlb_events
#include <trace/define_trace.h>
