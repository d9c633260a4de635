// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/memdisk: a disk of 16 MiB that is memory, below a device with a DMA mask
 * that does no DMA, as pmem and VDUSE disks are.
 */

#define pr_fmt(fmt) "cc_swiotlb_memdisk: " fmt

#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/sizes.h>
#include <linux/vmalloc.h>

static struct platform_device *device;
static struct gendisk *disk;
static void *memory;

/* The block layer refuses requests beyond the end. */
static void memdisk_submit_bio(struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec bvec;

	bio_for_each_segment(bvec, bio, iter) {
		void *at = memory + (iter.bi_sector << SECTOR_SHIFT);

		if (op_is_write(bio_op(bio)))
			memcpy_from_bvec(at, &bvec);
		else
			memcpy_to_bvec(&bvec, at);
	}
	bio_endio(bio);
}

static const struct block_device_operations memdisk_ops = {
	.owner		= THIS_MODULE,
	.submit_bio	= memdisk_submit_bio,
};

static void memdisk_exit(void)
{
	if (!IS_ERR_OR_NULL(disk)) {
		if (disk_live(disk))
			del_gendisk(disk);
		put_disk(disk);
	}
	if (!IS_ERR_OR_NULL(device))
		platform_device_unregister(device);
	vfree(memory);
}
module_exit(memdisk_exit);

static int __init memdisk_init(void)
{
	int ret = -ENOMEM;

	memory = vzalloc(SZ_16M);
	if (!memory)
		goto out;

	device = platform_device_register_simple("memdisk", PLATFORM_DEVID_NONE, NULL, 0);
	ret = PTR_ERR_OR_ZERO(device);
	if (ret)
		goto out;

	disk = blk_alloc_disk(NULL, NUMA_NO_NODE);
	ret = PTR_ERR_OR_ZERO(disk);
	if (ret)
		goto out;

	strscpy(disk->disk_name, "memdisk");
	disk->fops = &memdisk_ops;
	set_capacity(disk, SZ_16M >> SECTOR_SHIFT);
	ret = device_add_disk(&device->dev, disk, NULL);
out:
	if (ret)
		memdisk_exit();
	return ret;
}
module_init(memdisk_init);

MODULE_DESCRIPTION("A disk that is memory, of a device with a DMA mask");
MODULE_LICENSE("GPL");
