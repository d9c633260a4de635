// SPDX-License-Identifier: GPL-2.0
/*
 * The devices: four kinds, as drivers have them, and many of each.
 *
 * A mapping that is synced in part has a device of its own for as long as it
 * lives. DMA_API_DEBUG forgets a mapping only when the unmap is over, and by
 * then another CPU, or an interrupt, may have got the same slot; with the same
 * device it could not tell the two apart, and would complain of a sync.
 */

#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/list.h>
#include <linux/minmax.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "torture.h"

struct tt_device {
	struct device dev;
	struct device_dma_parameters parms;
	u64 mask;
	unsigned int kind;
	struct list_head list;
};

/* The largest mapping of each kind, in bytes. */
u32 tt_max_size[TT_KINDS];

/* Plain, with sectors, with pages as NVMe has them, with small segments. */
static const unsigned int tt_align_masks[TT_KINDS] = { 0, 511, 4095, 0 };
#define TT_KIND_SEGMENTS	3

/* Devices that no mapping has; the one that has been there longest is first. */
static struct list_head tt_free[TT_KINDS];

/* Protects tt_free. Taken in any context but NMI. */
static DEFINE_SPINLOCK(tt_free_lock);

/* For mappings that are never synced. */
static struct device *tt_shared_devices[TT_KINDS];

/**
 * tt_device_get() - a device that has no mapping
 * @kind: number of the kind
 *
 * Context: any but NMI.
 * Return: the device, or %NULL if there is none.
 */
struct device *tt_device_get(unsigned int kind)
{
	struct tt_device *device;
	unsigned long flags;

	spin_lock_irqsave(&tt_free_lock, flags);
	device = list_first_entry_or_null(&tt_free[kind], struct tt_device,
					  list);
	if (device)
		list_del(&device->list);
	spin_unlock_irqrestore(&tt_free_lock, flags);
	return device ? &device->dev : NULL;
}

/* Gives a device back. Context: any but NMI. */
void tt_device_put(struct device *dev)
{
	struct tt_device *device = container_of(dev, struct tt_device, dev);
	unsigned long flags;

	spin_lock_irqsave(&tt_free_lock, flags);
	list_add_tail(&device->list, &tt_free[device->kind]);
	spin_unlock_irqrestore(&tt_free_lock, flags);
}

/* A device for many mappings, none of which may be synced in part. */
struct device *tt_device_shared(unsigned int kind)
{
	return tt_shared_devices[kind];
}

static void tt_device_release(struct device *dev)
{
	kfree(container_of(dev, struct tt_device, dev));
}

static struct device *tt_device_new(unsigned int kind, unsigned int number)
{
	struct tt_device *device = kzalloc_obj(*device);
	struct device *dev;

	if (!device)
		return NULL;

	/* Never added: nobody but the DMA API has to know of it. */
	dev = &device->dev;
	device_initialize(dev);
	dev->release = tt_device_release;
	dev->dma_mask = &device->mask;
	dev->dma_parms = &device->parms;
	device->kind = kind;
	if (dev_set_name(dev, "torture.%u.%u", kind, number) ||
	    dma_set_mask_and_coherent(dev, DMA_BIT_MASK(TT_DMA_BITS))) {
		put_device(dev);
		return NULL;
	}

	dma_set_min_align_mask(dev, tt_align_masks[kind]);
	dma_set_max_seg_size(dev, UINT_MAX);
	tt_max_size[kind] = min(dma_max_mapping_size(dev), TT_SIZE_LIMIT);
	if (kind == TT_KIND_SEGMENTS) {
		dma_set_seg_boundary(dev, SZ_64K - 1);
		tt_max_size[kind] = SZ_64K;
	}
	return dev;
}

/**
 * tt_devices_init() - make the devices
 * @each: how many of each kind
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM; tt_devices_exit() frees what there is in each case.
 */
int tt_devices_init(unsigned int each)
{
	unsigned int kind, number;
	struct device *dev;

	for (kind = 0; kind < TT_KINDS; kind++)
		INIT_LIST_HEAD(&tt_free[kind]);

	for (kind = 0; kind < TT_KINDS; kind++) {
		tt_shared_devices[kind] = tt_device_new(kind, 0);
		if (!tt_shared_devices[kind])
			return -ENOMEM;
		for (number = 1; number <= each; number++) {
			dev = tt_device_new(kind, number);
			if (!dev)
				return -ENOMEM;
			tt_device_put(dev);
		}
	}
	return 0;
}

/* Frees the devices, none of which has a mapping any more. */
void tt_devices_exit(void)
{
	unsigned int kind;
	struct device *dev;

	for (kind = 0; kind < TT_KINDS; kind++) {
		while ((dev = tt_device_get(kind)))
			put_device(dev);
		if (tt_shared_devices[kind])
			put_device(tt_shared_devices[kind]);
	}
}
