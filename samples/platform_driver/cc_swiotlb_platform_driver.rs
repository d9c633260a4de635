// SPDX-License-Identifier: GPL-2.0

//! A platform driver whose only work is to map a buffer for its device.
//!
//! It does nothing for bouncing: in a confidential guest the DMA API bounces the buffers that a
//! driver maps, and cc_swiotlb serves these mappings. To see that, bind the driver to a platform
//! device that nobody uses:
//!
//! ```text
//! make -C BUILT_KERNEL M=$PWD modules
//! insmod cc_swiotlb_platform_driver.ko
//! cat /sys/kernel/mm/cc_swiotlb/mapped
//! cd /sys/bus/platform/devices/pcspkr
//! echo cc_swiotlb_platform_driver >driver_override
//! echo pcspkr >/sys/bus/platform/drivers/cc_swiotlb_platform_driver/bind
//! cat /sys/kernel/mm/cc_swiotlb/mapped
//! ```

use kernel::{
    device::Core,
    dma::{
        DataDirection,
        Device,
        DmaMask, //
    },
    page::PAGE_SIZE,
    platform,
    prelude::*,
    scatterlist::{
        Owned,
        SGTable, //
    },
    sync::aref::ARef, //
};

const BUFFER_BYTES: usize = 64 * PAGE_SIZE;

#[pin_data(PinnedDrop)]
struct Sample {
    device: ARef<platform::Device>,
    /// Mapped for as long as the driver is bound.
    #[pin]
    buffer: SGTable<Owned<VVec<u8>>>,
}

impl platform::Driver for Sample {
    type IdInfo = ();
    type Data<'bound> = Self;

    fn probe<'bound>(
        device: &'bound platform::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            // SAFETY: Nothing has been mapped for the device yet.
            unsafe { device.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
            let bytes = VVec::from_elem(0x5a, BUFFER_BYTES, GFP_KERNEL)?;
            let to_device = DataDirection::ToDevice;
            Ok(try_pin_init!(Self {
                buffer <- SGTable::new(device.as_ref(), bytes, to_device, GFP_KERNEL),
                device: device.into(),
                _: {
                    for entry in buffer.iter() {
                        let (address, bytes) = (entry.dma_address(), entry.dma_len());
                        dev_info!(device, "the device sees {bytes} bytes at {address:#x}\n");
                    }
                },
            }))
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Sample {
    fn drop(self: Pin<&mut Self>) {
        dev_info!(self.device, "the buffer is unmapped\n");
    }
}

kernel::module_platform_driver! {
    type: Sample,
    name: "cc_swiotlb_platform_driver",
    authors: ["cc_swiotlb developers"],
    description: "Maps a buffer that is bounced",
    license: "GPL",
}
