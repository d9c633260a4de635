// SPDX-License-Identifier: GPL-2.0

//! A request to a virtio block device, and what an honest device does with it.

use crate::chain::Buffer;
use std::fs::File;
use std::os::unix::fs::FileExt;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use vm_memory::{Bytes, GuestMemory};

pub const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: usize = 16;

#[derive(Clone)]
pub struct Request {
    /// The number by which the driver knows it.
    pub head: u16,
    kind: u32,
    /// The offset on the disk, in bytes.
    pub offset: u64,
    /// The header, and the data to write.
    pub readable: Vec<Buffer>,
    /// The buffers for the data to read.
    pub data: Vec<Buffer>,
    pub status: Buffer,
}

/// The outcome of a request.
pub struct Done {
    pub status: u8,
    pub written_bytes: u64,
    pub read_bytes: u64,
}

impl Request {
    /// The request that these buffers make, if they do: a header, payload, a status of one byte.
    pub fn parse(head: u16, buffers: &[Buffer], memory: &impl GuestMemory) -> Option<Self> {
        let (status, rest) = buffers.split_last()?;
        let (readable, data): (Vec<Buffer>, Vec<Buffer>) =
            rest.iter().partition(|each| !each.writable);
        let mut header = [0; HEADER_BYTES];
        if readable.first()?.bytes as usize != HEADER_BYTES || !status.writable || status.bytes != 1
        {
            return None;
        }
        memory.read_slice(&mut header, readable[0].address).ok()?;
        let (kind, sector) = (header[..4].try_into().ok()?, header[8..].try_into().ok()?);
        Some(Self {
            head,
            kind: u32::from_le_bytes(kind),
            offset: u64::from_le_bytes(sector).saturating_mul(SECTOR_BYTES),
            readable,
            data,
            status: *status,
        })
    }

    pub fn is_read(&self) -> bool {
        self.kind == VIRTIO_BLK_T_IN
    }

    /// The length that the device has to report: what it wrote.
    pub fn length(&self) -> u32 {
        self.data.iter().map(|each| each.bytes).sum::<u32>() + 1
    }

    /// Reads and writes the disk as it is asked to, but reads no more than `limit` bytes. The
    /// status is left to the caller.
    pub fn transfer(&self, disk: &File, memory: &impl GuestMemory, limit: u64) -> Done {
        let mut done = Done {
            status: VIRTIO_BLK_S_OK as u8,
            written_bytes: 0,
            read_bytes: 0,
        };
        let complete = match self.kind {
            VIRTIO_BLK_T_IN => self.read(disk, memory, limit, &mut done.read_bytes),
            VIRTIO_BLK_T_OUT => self.write(disk, memory, &mut done.written_bytes),
            VIRTIO_BLK_T_FLUSH => Some(()),
            VIRTIO_BLK_T_GET_ID => {
                let mut name = [0; VIRTIO_BLK_ID_BYTES as usize];
                name[..9].copy_from_slice(b"untrusted");
                let to = self
                    .data
                    .iter()
                    .find(|each| each.bytes as usize == name.len());
                to.and_then(|to| memory.write_slice(&name, to.address).ok())
            }
            _ => {
                done.status = VIRTIO_BLK_S_UNSUPP as u8;
                Some(())
            }
        };
        if complete.is_none() {
            done.status = VIRTIO_BLK_S_IOERR as u8;
        }
        done
    }

    fn read(
        &self,
        disk: &File,
        memory: &impl GuestMemory,
        limit: u64,
        count: &mut u64,
    ) -> Option<()> {
        for to in &self.data {
            let bytes = u64::from(to.bytes).min(limit - *count);
            let mut data = vec![0; bytes as usize];
            disk.read_exact_at(&mut data, self.offset + *count).ok()?;
            memory.write_slice(&data, to.address).ok()?;
            *count += bytes;
        }
        Some(())
    }

    fn write(&self, disk: &File, memory: &impl GuestMemory, count: &mut u64) -> Option<()> {
        for from in &self.readable[1..] {
            let mut data = vec![0; from.bytes as usize];
            memory.read_slice(&mut data, from.address).ok()?;
            disk.write_all_at(&data, self.offset + *count).ok()?;
            *count += u64::from(from.bytes);
        }
        Some(())
    }
}
