// SPDX-License-Identifier: GPL-2.0
/*
 * A thread that fragments memory: for a while only single pages are free, none
 * beside another one, so that no larger block can be allocated, and then all of
 * the memory is free again.
 */

#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/vmstat.h>

#include "torture.h"

/* Free memory that is left alone, so that the guest goes on working. */
#define TT_LEFT_ALONE	(SZ_128M >> PAGE_SHIFT)

/* Takes single pages until few are free. */
static void tt_take_pages(struct list_head *taken)
{
	unsigned int n = 0;

	while (global_zone_page_state(NR_FREE_PAGES) > TT_LEFT_ALONE) {
		struct page *page = alloc_page(GFP_KERNEL | __GFP_NORETRY |
					       __GFP_NOWARN);

		if (!page)
			break;
		list_add(&page->lru, taken);
		if (!(++n % 1024)) {
			if (kthread_should_stop())
				break;
			cond_resched();
		}
	}
}

static void tt_give_pages(struct list_head *taken, bool every_second)
{
	struct page *page, *next;
	unsigned int n = 0;

	list_for_each_entry_safe(page, next, taken, lru) {
		if (every_second && page_to_pfn(page) % 2)
			continue;
		list_del(&page->lru);
		__free_page(page);
		if (!(++n % 1024))
			cond_resched();
	}
}

/* Sleeps, but not longer than the test runs. */
static void tt_wait(unsigned int seconds)
{
	unsigned long end = jiffies + seconds * HZ;

	while (time_before(jiffies, end) && !tt_stopped() &&
	       !kthread_should_stop())
		schedule_timeout_interruptible(HZ / 10);
}

/**
 * tt_fragmenter() - the thread
 * @data: its &struct tt_thread
 *
 * Context: may sleep.
 * Return: 0.
 */
int tt_fragmenter(void *data)
{
	LIST_HEAD(taken);

	while (tt_thread_goes_on()) {
		tt_take_pages(&taken);
		tt_give_pages(&taken, true);
		tt_count(TT_FRAGMENTED);
		tt_wait(tt_fragment_s);
		tt_give_pages(&taken, false);
		tt_wait(tt_fragment_s);
	}
	return 0;
}
