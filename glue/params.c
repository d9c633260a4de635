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

static int watermark_set(const char *val, const struct kernel_param *kp)
{
	return cc_swiotlb_set_watermark(val);
}

static int watermark_get(char *buffer, const struct kernel_param *kp)
{
	return cc_swiotlb_get_watermark(buffer);
}

static const struct kernel_param_ops watermark_ops = {
	.set = watermark_set,
	.get = watermark_get,
};
module_param_cb(watermark, &watermark_ops, NULL, 0644);
MODULE_PARM_DESC(watermark,
		 "Slots kept ready: a total (64M) or slots by class (512:256,2K:1024)");

static int max_set(const char *val, const struct kernel_param *kp)
{
	return cc_swiotlb_set_max(val);
}

static int max_get(char *buffer, const struct kernel_param *kp)
{
	return cc_swiotlb_get_max(buffer);
}

static const struct kernel_param_ops max_ops = {
	.set = max_set,
	.get = max_get,
};
module_param_cb(max, &max_ops, NULL, 0644);
MODULE_PARM_DESC(max, "Most memory that is ever shared for bouncing, e.g. 512M");

static int from_device_set(const char *val, const struct kernel_param *kp)
{
	return cc_swiotlb_set_from_device(val);
}

static int from_device_get(char *buffer, const struct kernel_param *kp)
{
	return cc_swiotlb_get_from_device(buffer);
}

static const struct kernel_param_ops from_device_ops = {
	.set = from_device_set,
	.get = from_device_get,
};
module_param_cb(from_device, &from_device_ops, NULL, 0644);
MODULE_PARM_DESC(from_device,
		 "What a slot holds before a device writes to it: preserve or zero");

static int idle_ms_set(const char *val, const struct kernel_param *kp)
{
	return cc_swiotlb_set_idle_ms(val);
}

static int idle_ms_get(char *buffer, const struct kernel_param *kp)
{
	return cc_swiotlb_get_idle_ms(buffer);
}

static const struct kernel_param_ops idle_ms_ops = {
	.set = idle_ms_set,
	.get = idle_ms_get,
};
module_param_cb(idle_ms, &idle_ms_ops, NULL, 0644);
MODULE_PARM_DESC(idle_ms,
		 "Milliseconds after which memory that idles becomes private again, auto, or 0 for never");
