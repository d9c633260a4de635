// SPDX-License-Identifier: GPL-2.0
/*
 * Converts memory between private and shared when it is told to, so that a
 * test can see what the emulated host answers.  The steps are written to the
 * parameter do, and a write that fails shows the step's error:
 *
 *   alloc        allocates PAGES pages
 *   free         frees them, whatever state they are in
 *   share N M    set_memory_decrypted() of M pages from page N on
 *   unshare N M  set_memory_encrypted() of them
 */

#define pr_fmt(fmt) "cc_swiotlb_convert: " fmt

#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/set_memory.h>
#include <linux/string.h>

#define ORDER 9
#define PAGES BIT(ORDER)

static unsigned long block;

static int convert(const char *step)
{
	unsigned int first, count;
	char verb[8];

	if (sscanf(step, "%7s %u %u", verb, &first, &count) != 3)
		return -EINVAL;
	if (!block || first >= PAGES || count > PAGES - first)
		return -EINVAL;
	if (!strcmp(verb, "share"))
		return set_memory_decrypted(block + first * PAGE_SIZE, count);
	if (!strcmp(verb, "unshare"))
		return set_memory_encrypted(block + first * PAGE_SIZE, count);
	return -EINVAL;
}

static int do_set(const char *step, const struct kernel_param *kp)
{
	if (sysfs_streq(step, "alloc")) {
		if (block)
			return -EBUSY;
		block = __get_free_pages(GFP_KERNEL, ORDER);
		return block ? 0 : -ENOMEM;
	}
	if (sysfs_streq(step, "free")) {
		free_pages(block, ORDER);
		block = 0;
		return 0;
	}
	return convert(step);
}

static const struct kernel_param_ops do_ops = {
	.set = do_set,
};

module_param_cb(do, &do_ops, NULL, 0200);
MODULE_PARM_DESC(do, "a step, see above");

static int __init convert_init(void)
{
	return 0;
}
module_init(convert_init);

/* The pages are lost unless they were freed: they may be shared. */
static void __exit convert_exit(void)
{
}
module_exit(convert_exit);

MODULE_DESCRIPTION("converts memory for tests of the emulated host");
MODULE_LICENSE("GPL");
