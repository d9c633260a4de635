// SPDX-License-Identifier: GPL-2.0
/*
 * The parts that Rust cannot do: the static key, the conversion calls, and the
 * decision at boot, which is needed long before the first initcall.
 */

#define pr_fmt(fmt) "cc_swiotlb: " fmt

#include <linux/cc_platform.h>
#include <linux/cc_swiotlb.h>
#include <linux/error-injection.h>
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/memblock.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/nodemask.h>
#include <linux/page_ref.h>
#include <linux/pfn.h>
#include <linux/reboot.h>
#include <linux/sched/mm.h>
#include <linux/set_memory.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/swiotlb.h>

#include <xen/xen.h>

#include "cc_swiotlb_glue.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "cc_swiotlb."

/* Size of the software IO TLB's pool while it is a mere fallback. */
#define CC_SWIOTLB_LEGACY_BYTES	SZ_4M

DEFINE_STATIC_KEY_FALSE(cc_swiotlb_key);

/*
 * Which spans of 512 KiB are shared for us: a byte for each 2 MiB of memory, a
 * bit in it for each span. The number of bytes is a power of two, so that any
 * address has one. Written by the thread that converts, before anybody can have
 * an address in a span, and after everybody is done with it.
 */
static u8 no_marks;
u8 *cc_swiotlb_marks __ro_after_init = &no_marks;
unsigned long cc_swiotlb_marks_mask __ro_after_init;
static DEFINE_SPINLOCK(marks_lock);

static void mark(void *vaddr, int npages, bool is_shared)
{
	phys_addr_t addr = virt_to_phys(vaddr);
	u8 *byte = cc_swiotlb_mark_of(addr);
	u8 spans = GENMASK(DIV_ROUND_UP(npages, SZ_512K / PAGE_SIZE) - 1, 0);

	spans <<= (addr / SZ_512K) % 4;
	guard(spinlock)(&marks_lock);
	WRITE_ONCE(*byte, is_shared ? *byte | spans : *byte & ~spans);
}

static int enable_param __ro_after_init = -1;
module_param_named(enable, enable_param, int, 0444);
MODULE_PARM_DESC(enable, "1 on, 0 off, -1 on in a confidential guest (default)");

/**
 * cc_swiotlb_wanted() - Whether the allocator is to serve this boot.
 *
 * Stable once the command line has been parsed. swiotlb-xen looks for pools in
 * its own way and keeps the software IO TLB.
 *
 * Return: %true if it was asked for, or if this is a confidential guest.
 */
bool cc_swiotlb_wanted(void)
{
	if (IS_ENABLED(CONFIG_SWIOTLB_XEN) && xen_domain())
		return false;
	if (enable_param < 0)
		return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
	return enable_param;
}

/**
 * cc_swiotlb_legacy_slabs() - How large the fallback pool is.
 * @nslabs: Number of slabs of the software IO TLB without cc_swiotlb.
 *
 * Where memory has to be shared for bouncing, the pool serves mappings that
 * come too early or find no slot. Elsewhere it also serves devices that do not
 * reach our slots, and costs what it always did.
 *
 * Return: number of slabs.
 */
unsigned long cc_swiotlb_legacy_slabs(unsigned long nslabs)
{
	if (!cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return nslabs;
	return min(nslabs, CC_SWIOTLB_LEGACY_BYTES >> IO_TLB_SHIFT);
}

/*
 * From here on mappings go through the hooks; until the pool exists they are
 * counted and passed on to the software IO TLB.
 */
static int __init cc_swiotlb_key_on(void)
{
	unsigned long chunks;
	u8 *marks;

	cc_swiotlb_configure();
	if (!cc_swiotlb_wanted())
		return 0;
	chunks = cc_swiotlb_nr_directory_pages() / (SZ_2M / PAGE_SIZE) + 1;
	chunks = roundup_pow_of_two(chunks);
	marks = kvzalloc(chunks, GFP_KERNEL);
	/* Without them lent memory is bounced like any other. */
	if (marks) {
		cc_swiotlb_marks = marks;
		cc_swiotlb_marks_mask = chunks - 1;
	}
	static_branch_enable(&cc_swiotlb_key);
	return 0;
}
core_initcall(cc_swiotlb_key_on);

/**
 * cc_swiotlb_key_off() - Leave everything to the software IO TLB.
 *
 * Only while no slot has been handed out. Context: may sleep.
 */
void cc_swiotlb_key_off(void)
{
	static_branch_disable(&cc_swiotlb_key);
}

/**
 * cc_swiotlb_share() - Make pages shared with the host.
 * @vaddr: Address in the direct map.
 * @npages: Number of pages.
 *
 * On failure the state of the pages is unknown until a call succeeds.
 *
 * Context: may sleep.
 * Return: 0 or a negative error, -EBUSY once kexec has stopped conversions.
 */
noinline int cc_swiotlb_share(void *vaddr, int npages)
{
	int ret = set_memory_decrypted((unsigned long)vaddr, npages);

	if (!ret)
		mark(vaddr, npages, true);
	return ret;
}
ALLOW_ERROR_INJECTION(cc_swiotlb_share, ERRNO);

/**
 * cc_swiotlb_unshare() - Make pages private again.
 * @vaddr: Address in the direct map.
 * @npages: Number of pages.
 *
 * On failure the state of the pages is unknown until a call succeeds.
 *
 * Context: may sleep.
 * Return: 0 or a negative error, -EBUSY once kexec has stopped conversions.
 */
noinline int cc_swiotlb_unshare(void *vaddr, int npages)
{
	mark(vaddr, npages, false);
	return set_memory_encrypted((unsigned long)vaddr, npages);
}
ALLOW_ERROR_INJECTION(cc_swiotlb_unshare, ERRNO);

/**
 * cc_swiotlb_no_io() - Keep the current task's allocations from starting I/O.
 *
 * For kccd: I/O may be waiting for it.
 */
void cc_swiotlb_no_io(void)
{
	memalloc_noio_save();
}

/**
 * cc_swiotlb_alloc_block() - Allocate memory that is going to be shared.
 * @node: NUMA node to prefer.
 * @order: Order of the block; it is aligned to its size.
 *
 * Memory is compacted for it, and memory that needs no I/O is reclaimed, but
 * not both at a time: that could wait for I/O which waits for us. No task is
 * killed, and no reserve is touched: our caller can do with less and can ask
 * again later. Each page has a reference count of its own, as the pages of
 * small allocations do, because lent pages take their place.
 *
 * Context: may sleep.
 * Return: the block's address, or 0.
 */
noinline phys_addr_t cc_swiotlb_alloc_block(int node, unsigned int order)
{
	unsigned int noio = current->flags & PF_MEMALLOC_NOIO;
	gfp_t gfp = GFP_NOIO | __GFP_NOWARN | __GFP_NORETRY;
	gfp_t compact = gfp | __GFP_THISNODE;
	struct page *page;

	/* Compaction needs this. On one node nothing is reclaimed for it. */
	if (IS_ENABLED(CONFIG_COMPACTION))
		compact |= __GFP_IO;
	current->flags &= ~PF_MEMALLOC_NOIO;
	node = numa_nearest_node(node, N_MEMORY);
	page = alloc_pages_node(node, compact, order) ?:
	       alloc_pages_node(node, gfp, order) ?:
	       alloc_pages_node(node, compact, order);
	current->flags |= noio;
	if (!page)
		return 0;
	split_page(page, order);
	return page_to_phys(page);
}
ALLOW_ERROR_INJECTION(cc_swiotlb_alloc_block, NULL);

/**
 * cc_swiotlb_free_block() - Free what cc_swiotlb_alloc_block() has allocated.
 * @base: Address of the block.
 * @order: Its order.
 *
 * Frees one block, unless somebody still refers to a page that was lent.
 */
void cc_swiotlb_free_block(phys_addr_t base, unsigned int order)
{
	struct page *page = phys_to_page(base);
	unsigned long i, n = 1UL << order;

	for (i = 1; i < n && page_ref_freeze(page + i, 1); i++)
		;
	if (i == n) {
		__free_pages(page, order);
		return;
	}
	while (--i)
		page_ref_unfreeze(page + i, 1);
	for (i = 0; i < n; i++)
		__free_page(page + i);
}

/**
 * cc_swiotlb_nr_directory_pages() - Extent of memory that a slot can lie in.
 *
 * Memory that is hot-plugged later counts, too.
 *
 * Return: number of page frames.
 */
unsigned long cc_swiotlb_nr_directory_pages(void)
{
	return max(max_possible_pfn, max_pfn);
}

/**
 * cc_swiotlb_ram_pages() - Memory of the guest.
 *
 * Return: number of pages.
 */
unsigned long cc_swiotlb_ram_pages(void)
{
	return totalram_pages();
}

/**
 * cc_swiotlb_nr_nodes() - Number of NUMA node numbers.
 *
 * Return: one more than the largest node number that is possible.
 */
unsigned int cc_swiotlb_nr_nodes(void)
{
	return nr_node_ids;
}

/**
 * cc_swiotlb_node_has_cpus() - Whether slots are wanted on a NUMA node.
 * @node: Node number below cc_swiotlb_nr_nodes().
 *
 * Return: %true if a CPU of the node is there.
 */
bool cc_swiotlb_node_has_cpus(unsigned int node)
{
	return node_state(node, N_CPU);
}

/*
 * No new conversions while the machine goes down. One that is under way is not
 * waited for: enc_kexec_begin() does that where it matters.
 */
static int cc_swiotlb_reboot(struct notifier_block *nb, unsigned long action,
			     void *data)
{
	cc_swiotlb_stop();
	return NOTIFY_DONE;
}

static struct notifier_block cc_swiotlb_reboot_nb = {
	.notifier_call = cc_swiotlb_reboot,
};

static int __init cc_swiotlb_register_reboot(void)
{
	return register_reboot_notifier(&cc_swiotlb_reboot_nb);
}
late_initcall(cc_swiotlb_register_reboot);
