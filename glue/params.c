// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters that take text: Rust's module! macro knows only numbers. Parsing
 * and printing are Rust's, see params/mod.rs.
 */

#include <linux/moduleparam.h>
#include <linux/module.h>

#include "cc_swiotlb_glue.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "cc_swiotlb."

/* cc_swiotlb_set_NAME() parses a parameter, cc_swiotlb_get_NAME() prints it. */
#define TEXT_OPS(name)								\
static int name##_set(const char *val, const struct kernel_param *kp)		\
{										\
	return cc_swiotlb_set_##name(val);					\
}										\
static int name##_get(char *buffer, const struct kernel_param *kp)		\
{										\
	return cc_swiotlb_get_##name(buffer);					\
}										\
static const struct kernel_param_ops name##_ops = {				\
	.set = name##_set,							\
	.get = name##_get,							\
}

TEXT_OPS(watermark);
module_param_cb(watermark, &watermark_ops, NULL, 0644);
MODULE_PARM_DESC(watermark, "Kept ready: a total (64M) or slots by class (512:256,2K:9)");

TEXT_OPS(max);
module_param_cb(max, &max_ops, NULL, 0644);
MODULE_PARM_DESC(max, "Most memory that is ever shared for bouncing, e.g. 512M");

TEXT_OPS(from_device);
module_param_cb(from_device, &from_device_ops, NULL, 0644);
MODULE_PARM_DESC(from_device, "What only a device writes starts with: preserve or zero");

TEXT_OPS(idle_ms);
module_param_cb(idle_ms, &idle_ms_ops, NULL, 0644);
MODULE_PARM_DESC(idle_ms, "Milliseconds until idle memory becomes private, auto, 0: never");
