// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints of events/cc_swiotlb. swiotlb_unbounced lives beside
 * swiotlb_bounced, in include/trace/events/swiotlb.h.
 */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "../trace/cc_swiotlb_events.h"
