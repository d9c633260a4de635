// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters that take text: Rust's module! macro knows only numbers. Parsing
 * and printing are Rust's, see params.rs.
 */

#include <linux/moduleparam.h>
#include <linux/module.h>

#include "cc_swiotlb_glue.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "cc_swiotlb."

/* A parameter that cc_swiotlb_set_NAME() parses and cc_swiotlb_get_NAME() prints. */
#define TEXT_PARAM(name, description)						\
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
};										\
module_param_cb(name, &name##_ops, NULL, 0644);					\
MODULE_PARM_DESC(name, description)

TEXT_PARAM(watermark,
	   "Memory kept ready: a total (64M) or slots by class (512:256,2K:1024)");
TEXT_PARAM(max, "Most memory that is ever shared for bouncing, e.g. 512M");
TEXT_PARAM(from_device,
	   "What a slot holds before a device writes to it: preserve or zero");
TEXT_PARAM(idle_ms,
	   "Milliseconds after which idle memory becomes private again, auto, 0 for never");
