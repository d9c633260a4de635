// SPDX-License-Identifier: GPL-2.0
/*
 * Memory in which no 2 MiB are free in one piece: of each block of that size one
 * page is held, which cannot be moved. What is free is as much as before.
 */

#include <linux/gfp.h>
#include <linux/kstrtox.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/sizes.h>

#include "torture.h"

#define TT_BLOCK_ORDER	get_order(SZ_2M)

/* Protects the pages that are held. */
static DEFINE_MUTEX(tt_fragment_lock);

/* Pages that are held, by their lru. */
static LIST_HEAD(tt_fragments);

static void tt_fragment(void)
{
	unsigned long left = totalram_pages() >> TT_BLOCK_ORDER;
	struct page *page;
	unsigned int i;

	/* What is free now is enough: kccd may compact the rest. */
	while (left-- &&
	       (page = alloc_pages(GFP_NOWAIT | __GFP_NOWARN, TT_BLOCK_ORDER))) {
		split_page(page, TT_BLOCK_ORDER);
		for (i = 1; i < 1 << TT_BLOCK_ORDER; i++)
			__free_page(page + i);
		list_add(&page->lru, &tt_fragments);
	}
}

/* Lets go what was held. Context: may sleep. */
static void tt_defragment(void)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &tt_fragments, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

/**
 * tt_fragment_exit() - free memory is in whole pieces again
 *
 * Context: may sleep.
 */
void tt_fragment_exit(void)
{
	guard(mutex)(&tt_fragment_lock);
	tt_defragment();
}

static int tt_fragment_set(const char *val, const struct kernel_param *kp)
{
	bool wanted;
	int ret = kstrtobool(val, &wanted);

	if (ret)
		return ret;
	guard(mutex)(&tt_fragment_lock);
	tt_defragment();
	if (wanted)
		tt_fragment();
	return 0;
}

static const struct kernel_param_ops tt_fragment_ops = {
	.set = tt_fragment_set,
};
module_param_cb(fragment, &tt_fragment_ops, NULL, 0200);
MODULE_PARM_DESC(fragment, "whether all free memory is in pieces below 2 MiB");
