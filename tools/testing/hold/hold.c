// SPDX-License-Identifier: GPL-2.0
/*
 * Holds pages of requests for a while after these are over, as a network driver
 * does until the other side has acknowledged them.
 *
 * Of each write of more than a page that device mapper passes on in lent memory,
 * the first page is kept for the time in the parameter ms. Then its content has
 * to be the same. The parameters held and changed count the pages that were
 * kept, and those that had changed.
 */

#define pr_fmt(fmt) "cc_swiotlb_hold: " fmt

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/crc32.h>
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <trace/events/block.h>

static unsigned int ms = 50;
module_param(ms, uint, 0444);
MODULE_PARM_DESC(ms, "for how long a page is held, in milliseconds");

static atomic_t held, changed, holding;
module_param_named(held, held.counter, int, 0444);
MODULE_PARM_DESC(held, "pages that were held");
module_param_named(changed, changed.counter, int, 0444);
MODULE_PARM_DESC(changed, "those whose content has changed meanwhile");

struct hold {
	struct delayed_work work;
	struct page *page;
	u32 crc;
};

static struct workqueue_struct *queue;

static u32 content(struct page *page)
{
	return crc32_le(0, page_address(page), PAGE_SIZE);
}

static void release(struct work_struct *work)
{
	struct hold *hold = container_of(work, struct hold, work.work);

	if (content(hold->page) != hold->crc && atomic_inc_return(&changed) == 1)
		pr_err("page %#lx has changed\n", page_to_pfn(hold->page));
	put_page(hold->page);
	kfree(hold);
	atomic_dec(&holding);
}

static void on_remap(void *data, struct bio *bio, dev_t dev, sector_t from)
{
	struct bio_vec *bv = bio->bi_io_vec;
	struct hold *hold;

	/* Private pages that lie side by side are one folio. */
	if (bio_op(bio) != REQ_OP_WRITE || !bio->bi_vcnt ||
	    bv->bv_len <= PAGE_SIZE || PageCompound(bv->bv_page))
		return;
	hold = kzalloc_obj(*hold, GFP_ATOMIC);
	if (!hold)
		return;
	INIT_DELAYED_WORK(&hold->work, release);
	hold->page = bv->bv_page;
	get_page(hold->page);
	hold->crc = content(hold->page);
	atomic_inc(&held);
	atomic_inc(&holding);
	queue_delayed_work(queue, &hold->work, msecs_to_jiffies(ms));
}

static int __init hold_init(void)
{
	int ret;

	queue = alloc_workqueue("cc_swiotlb_hold", WQ_UNBOUND, 0);
	if (!queue)
		return -ENOMEM;
	ret = register_trace_block_bio_remap(on_remap, NULL);
	if (ret)
		destroy_workqueue(queue);
	return ret;
}
module_init(hold_init);

static void __exit hold_exit(void)
{
	unregister_trace_block_bio_remap(on_remap, NULL);
	tracepoint_synchronize_unregister();
	/* A timer may be on its way. */
	while (atomic_read(&holding))
		msleep(20);
	destroy_workqueue(queue);
}
module_exit(hold_exit);

MODULE_DESCRIPTION("holds pages of requests for tests of lent memory");
MODULE_LICENSE("GPL");
