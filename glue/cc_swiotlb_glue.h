/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions of the C side and the Rust side of cc_swiotlb that the other side
 * calls. The interface to the DMA mapping code is include/linux/cc_swiotlb.h.
 *
 * params/mod.rs uses CONFIG_CC_SWIOTLB_WATERMARK, CONFIG_CC_SWIOTLB_MAX,
 * CONFIG_CC_SWIOTLB_IDLE_MS and CONFIG_CC_SWIOTLB_FROM_DEVICE. They are named
 * here so that fixdep sees them, and the bindings are rebuilt when one changes.
 */
#ifndef _CC_SWIOTLB_GLUE_H
#define _CC_SWIOTLB_GLUE_H

#include <linux/cc_swiotlb.h>
#include <linux/gfp_types.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/types.h>
#include <linux/workqueue.h>
#include <trace/events/swiotlb.h>
#include "../trace/cc_swiotlb_events.h"

/* Called by Rust, defined in C. */
int cc_swiotlb_share(void *vaddr, int npages);
int cc_swiotlb_unshare(void *vaddr, int npages);
phys_addr_t cc_swiotlb_alloc_block(int node, unsigned int order);
void cc_swiotlb_free_block(phys_addr_t base, unsigned int order);
unsigned long cc_swiotlb_nr_directory_pages(void);
unsigned long cc_swiotlb_ram_pages(void);
unsigned int cc_swiotlb_nr_nodes(void);
bool cc_swiotlb_node_has_cpus(unsigned int node);
void cc_swiotlb_key_off(void);
void cc_swiotlb_no_io(void);
void cc_swiotlb_drain(unsigned int cpu);
void cc_swiotlb_drain_all(void);
int cc_swiotlb_register(void);

/* Called by C, defined in Rust. */
void cc_swiotlb_configure(void);
int cc_swiotlb_set_watermark(const char *text);
int cc_swiotlb_get_watermark(char *page);
int cc_swiotlb_set_max(const char *text);
int cc_swiotlb_get_max(char *page);
int cc_swiotlb_set_from_device(const char *text);
int cc_swiotlb_get_from_device(char *page);
int cc_swiotlb_set_idle_ms(const char *text);
int cc_swiotlb_get_idle_ms(char *page);
void cc_swiotlb_stop(void);
void cc_swiotlb_cpu_dead(unsigned int cpu);
void cc_swiotlb_drain_this_cpu(struct work_struct *work);
unsigned long cc_swiotlb_spare_pages(void);
void cc_swiotlb_give_back(unsigned long pages);

#endif /* _CC_SWIOTLB_GLUE_H */
