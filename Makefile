# SPDX-License-Identifier: GPL-2.0
#
# Built by the kernel as kernel/dma/cc_swiotlb/. The targets for developers
# are in GNUmakefile, which make prefers when it is run here by hand.

ccflags-y += -I$(src)

obj-$(CONFIG_CC_SWIOTLB) += cc_swiotlb.o
obj-$(CONFIG_CC_SWIOTLB) += glue/cc_swiotlb_glue.o
obj-$(CONFIG_CC_SWIOTLB) += glue/lend.o
obj-$(CONFIG_CC_SWIOTLB) += glue/params.o
obj-$(CONFIG_CC_SWIOTLB) += glue/reclaim.o
obj-$(CONFIG_CC_SWIOTLB) += glue/trace.o
