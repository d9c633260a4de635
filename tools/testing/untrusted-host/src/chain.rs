// SPDX-License-Identifier: GPL-2.0

//! Walks a chain of descriptors and finds those that point outside shared memory.
//!
//! `virtio_queue::DescriptorChain` silently ends at the first descriptor that it cannot read. Here
//! such descriptors are looked for.

use std::fmt;
use std::mem::size_of;
use virtio_queue::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory};

const DESCRIPTOR_BYTES: u64 = size_of::<Descriptor>() as u64;

/// The memory that the device may use.
pub struct Shared<'a, M: GuestMemory> {
    pub memory: &'a M,
    /// Addresses from here on are taken for private.
    pub end: u64,
}

/// A buffer that the driver has shown to the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buffer {
    pub address: GuestAddress,
    pub bytes: u32,
    /// Whether the device may write to it.
    pub writable: bool,
    /// The address of its descriptor.
    pub descriptor: GuestAddress,
}

/// The fault of a chain.
#[derive(Debug, PartialEq)]
pub enum Fault {
    Buffer(u64, u32),
    Table(u64, u32),
    /// A table in a table, or one with a broken size.
    NoTable(u64, u32),
    /// It goes on at a descriptor that is not there.
    Index(u16),
    Endless,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(at, bytes) => write!(to, "buffer at {at:#x}, {bytes} bytes"),
            Self::Table(at, bytes) => write!(to, "indirect table at {at:#x}, {bytes} bytes"),
            Self::NoTable(at, bytes) => write!(to, "no indirect table: {at:#x}, {bytes} bytes"),
            Self::Index(index) => write!(to, "descriptor {index} does not exist"),
            Self::Endless => write!(to, "endless chain"),
        }
    }
}

impl<M: GuestMemory> Shared<'_, M> {
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        let end = address.checked_add(bytes);
        end.is_some_and(|end| end <= self.end)
            && self
                .memory
                .check_range(GuestAddress(address), bytes as usize)
    }

    /// The buffers of the chain that begins with descriptor `head` of a ring's table.
    pub fn chain(&self, table: u64, size: u16, head: u16) -> Result<Vec<Buffer>, Fault> {
        let first = self.descriptor(table, size, head)?.1;
        if !first.refers_to_indirect_table() {
            return self.walk(table, size, head);
        }
        let (at, bytes) = (first.addr().raw_value(), first.len());
        let count = u64::from(bytes) / DESCRIPTOR_BYTES;
        if u64::from(bytes) % DESCRIPTOR_BYTES != 0 || !(1..=u64::from(u16::MAX)).contains(&count) {
            return Err(Fault::NoTable(at, bytes));
        }
        if !self.holds(at, u64::from(bytes)) {
            return Err(Fault::Table(at, bytes));
        }
        self.walk(at, count as u16, 0)
    }

    /// A descriptor and where it is.
    fn descriptor(
        &self,
        table: u64,
        size: u16,
        index: u16,
    ) -> Result<(GuestAddress, Descriptor), Fault> {
        if index >= size {
            return Err(Fault::Index(index));
        }
        let at = GuestAddress(table + u64::from(index) * DESCRIPTOR_BYTES);
        let read = self.memory.read_obj(at);
        let found = read.map_err(|_| Fault::Table(at.raw_value(), DESCRIPTOR_BYTES as u32))?;
        Ok((at, found))
    }

    fn walk(&self, table: u64, size: u16, head: u16) -> Result<Vec<Buffer>, Fault> {
        let mut buffers = Vec::new();
        let mut index = head;
        while buffers.len() < usize::from(size) {
            let (at, found) = self.descriptor(table, size, index)?;
            let (address, bytes) = (found.addr(), found.len());
            if found.refers_to_indirect_table() {
                return Err(Fault::NoTable(address.raw_value(), bytes));
            }
            if !self.holds(address.raw_value(), u64::from(bytes)) {
                return Err(Fault::Buffer(address.raw_value(), bytes));
            }
            buffers.push(Buffer {
                address,
                bytes,
                writable: found.is_write_only(),
                descriptor: at,
            });
            if !found.has_next() {
                return Ok(buffers);
            }
            index = found.next();
        }
        Err(Fault::Endless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    const BASE: u64 = 0x1000_0000;
    const END: u64 = BASE + 0x10000;
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    const INDIRECT_TABLE: u64 = BASE + 0x800;

    /// Walks from descriptor 0 of `ring`, a ring's table, with `table` as an indirect one.
    fn walk(ring: &[(u64, u32, u16, u16)], table: &[(u64, u32, u16, u16)]) -> Result<u32, Fault> {
        let ranges = [(GuestAddress(BASE), (END - BASE) as usize)];
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        for (to, from) in [(BASE, ring), (INDIRECT_TABLE, table)] {
            for (index, &(address, bytes, flags, next)) in from.iter().enumerate() {
                let at = GuestAddress(to + index as u64 * DESCRIPTOR_BYTES);
                let mut descriptor = address.to_le_bytes().to_vec();
                descriptor.extend(bytes.to_le_bytes());
                descriptor.extend([flags, next].map(u16::to_le_bytes).concat());
                memory.write_slice(&descriptor, at).unwrap();
            }
        }
        // The device must not use the last page.
        let shared = Shared {
            memory: &memory,
            end: END - 0x1000,
        };
        let buffers = shared.chain(BASE, 4, 0)?;
        Ok(buffers.iter().map(|each| each.bytes).sum())
    }

    #[test]
    fn all_inside() {
        let ring = [
            (BASE + 64, 16, NEXT, 2),
            (0, 0, 0, 0),
            (BASE + 512, 100, WRITE, 0),
        ];
        assert_eq!(walk(&ring, &[]), Ok(116));
        let table = [(BASE + 64, 16, NEXT, 1), (END - 0x2000, 0x1000, WRITE, 0)];
        assert_eq!(
            walk(&[(INDIRECT_TABLE, 32, INDIRECT, 0)], &table),
            Ok(0x1010)
        );
    }

    #[test]
    fn buffer_outside() {
        let cases = [
            (0x1000, 16),
            (BASE - 1, 16),
            (END - 0x1008, 16),
            (END - 0x800, 16),
            (END - 8, 16),
            (END, 1),
            (u64::MAX - 4, 16),
            (BASE, u32::MAX),
        ];
        for (address, bytes) in cases {
            let fault = Err(Fault::Buffer(address, bytes));
            assert_eq!(walk(&[(address, bytes, 0, 0)], &[]), fault);
            let second = [(BASE, 16, NEXT, 1), (address, bytes, WRITE, 0)];
            assert_eq!(walk(&second, &[]), fault);
            assert_eq!(walk(&[(INDIRECT_TABLE, 32, INDIRECT, 0)], &second), fault);
        }
    }

    #[test]
    fn table_outside() {
        for address in [
            0x1000,
            BASE - 16,
            END - 0x1010,
            END - 16,
            END,
            u64::MAX - 15,
        ] {
            let fault = Err(Fault::Table(address, 32));
            assert_eq!(walk(&[(address, 32, INDIRECT, 0)], &[]), fault);
        }
    }

    #[test]
    fn broken_chains() {
        assert_eq!(walk(&[(BASE, 1, NEXT, 4)], &[]), Err(Fault::Index(4)));
        assert_eq!(walk(&[(BASE, 1, NEXT, 0)], &[]), Err(Fault::Endless));
        let nested = [(INDIRECT_TABLE, 16, INDIRECT, 0)];
        let fault = Err(Fault::NoTable(INDIRECT_TABLE, 16));
        assert_eq!(walk(&nested, &nested), fault);
        for bytes in [0, 15, 17] {
            let fault = Err(Fault::NoTable(INDIRECT_TABLE, bytes));
            assert_eq!(walk(&[(INDIRECT_TABLE, bytes, INDIRECT, 0)], &[]), fault);
        }
    }
}
