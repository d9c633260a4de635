// SPDX-License-Identifier: GPL-2.0

//! Tests of the device with a driver that is made here, and the memory of both in view.

use crate::device::{Device, Memory};
use crate::hostile::Mode;
use clap::ValueEnum;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::tempfile::TempFile;

const BASE: u64 = 0x10_0000_0000;
const BYTES: usize = 0x50000;
const TABLE: u64 = BASE;
const AVAILABLE: u64 = BASE + 0x1000;
const USED: u64 = BASE + 0x2000;
const SIZE: u16 = 16;
/// Where the buffers of a request are: header, payload, status.
const BUFFERS: [(u64, u32); 3] = [
    (BASE + 0x10000, 16),
    (BASE + 0x10200, 512),
    (BASE + 0x11000, 1),
];
/// Memory that has been shared and is not shown to the device.
const OTHERS: u64 = BASE + 0x40000;
const DISK_SECTORS: u64 = 64;
const HARMLESS: u64 = 3;
const ARMED: u64 = DISK_SECTORS / 2 + 3;
const HEAD: u16 = 5;

struct Guest {
    memory: GuestMemoryMmap,
    queue: Queue,
    device: Device,
    submitted: u16,
}

fn sector(index: u64) -> Vec<u8> {
    vec![index as u8 + 1; 512]
}

impl Guest {
    fn new(mode: Mode, seed: u64, window: u64) -> Self {
        let disk = TempFile::new().unwrap().into_file();
        for index in 0..DISK_SECTORS {
            disk.write_all_at(&sector(index), index * 512).unwrap();
        }
        let file = TempFile::new().unwrap().into_file();
        file.set_len(BYTES as u64).unwrap();
        let region = (GuestAddress(BASE), BYTES, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([region]).unwrap();
        memory
            .write_slice(&[0x77; 0x8000], GuestAddress(OTHERS))
            .unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(TABLE))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(AVAILABLE))
            .unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_event_idx(true);
        queue.set_ready(true);
        let handed = Memory::new(memory.clone());
        Self {
            memory,
            queue,
            device: Device::new(mode, seed, disk, window, handed).unwrap(),
            submitted: 0,
        }
    }

    /// Hands a request over: a write of these bytes, or a read.
    fn submit(&mut self, sector: u64, data: Option<&[u8]>) {
        let kind = u32::from(data.is_some());
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.write(BUFFERS[0].0, &header);
        self.write(BUFFERS[1].0, data.unwrap_or(&[0; 512]));
        self.write(BUFFERS[2].0, &[0xee]);
        let payload_flags = if data.is_some() { 1 } else { 1 | 2 };
        for (index, flags) in [1, payload_flags, 2].into_iter().enumerate() {
            let (address, bytes) = BUFFERS[index];
            let next = HEAD + index as u16 + 1;
            let mut descriptor = address.to_le_bytes().to_vec();
            descriptor.extend(bytes.to_le_bytes());
            descriptor.extend([flags, next].map(u16::to_le_bytes).concat());
            self.write(TABLE + u64::from(next - 1) * 16, &descriptor);
        }
        let slot = AVAILABLE + 4 + u64::from(self.submitted % SIZE) * 2;
        self.write(slot, &HEAD.to_le_bytes());
        self.submitted = self.submitted.wrapping_add(1);
        self.write(AVAILABLE + 2, &self.submitted.to_le_bytes());
    }

    fn serve(&mut self) {
        self.device.serve(&self.memory, &mut self.queue);
    }

    fn write(&self, at: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(at)).unwrap();
    }

    fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    /// The index of the used ring, and its entry for this request.
    fn used(&self, request: u16) -> (u16, u32, u32) {
        let index = self.memory.read_obj(GuestAddress(USED + 2)).unwrap();
        let entry = USED + 4 + u64::from(request % SIZE) * 8;
        let id = self.memory.read_obj(GuestAddress(entry)).unwrap();
        let length = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
        (index, id, length)
    }

    fn payload(&self) -> Vec<u8> {
        self.read(BUFFERS[1].0, 512)
    }

    fn status(&self) -> u8 {
        self.read(BUFFERS[2].0, 1)[0]
    }

    /// A read by which the device becomes hostile, or a write.
    fn attack(mode: Mode, seed: u64, data: Option<&[u8]>) -> Self {
        let mut guest = Self::new(mode, seed, u64::MAX);
        guest.submit(ARMED, data);
        guest.serve();
        guest
    }
}

#[test]
fn honest() {
    let mut guest = Guest::new(Mode::Honest, 1, u64::MAX);
    guest.submit(ARMED, Some(&[0xab; 512]));
    guest.serve();
    assert_eq!((guest.used(0), guest.status()), ((1, HEAD.into(), 1), 0));
    guest.submit(HARMLESS, None);
    guest.serve();
    assert_eq!((guest.used(1), guest.status()), ((2, HEAD.into(), 513), 0));
    assert_eq!(guest.payload(), sector(HARMLESS));
    guest.submit(ARMED, None);
    guest.serve();
    assert_eq!(guest.payload(), [0xab; 512]);
    guest.submit(DISK_SECTORS, None);
    guest.serve();
    assert_eq!((guest.used(3).0, guest.status()), (4, 1));
    let report = &guest.device.report;
    assert_eq!(
        (report.requests, report.hostile_events, report.outside),
        (4, 0, 0)
    );
    assert_eq!((report.written_bytes, report.read_bytes), (512, 1024));
}

#[test]
fn words_are_counted() {
    let mut guest = Guest::new(Mode::Honest, 1, u64::MAX);
    let words = ["alpha".to_string(), "beta".to_string()];
    guest.device.report.seek(&words);
    // In a buffer to fill, and in one to write to the disk, which the device may read.
    guest.submit(HARMLESS, None);
    guest.write(BUFFERS[1].0, b"alpha, alpha and gamma");
    guest.serve();
    guest.submit(HARMLESS, Some(&[b'a'; 512]));
    guest.write(BUFFERS[1].0, b"alpha and beta");
    guest.serve();
    let seen: Vec<u64> = guest.device.report.seen.into_values().collect();
    assert_eq!(seen, [2, 0]);
}

#[test]
fn all_behave_at_first() {
    for mode in Mode::value_variants() {
        let mut guest = Guest::new(*mode, 1, u64::MAX);
        guest.submit(HARMLESS, None);
        guest.serve();
        assert_eq!(
            (guest.used(0), guest.status()),
            ((1, HEAD.into(), 513), 0),
            "{mode}"
        );
        assert_eq!(guest.payload(), sector(HARMLESS), "{mode}");
        assert_eq!(guest.device.report.hostile_events, 0, "{mode}");
        guest.submit(ARMED, None);
        guest.serve();
        let hostile = guest.device.report.hostile_events > 0;
        assert_eq!(hostile, *mode != Mode::Honest, "{mode}");
    }
}

#[test]
fn completions() {
    let delay = Duration::from_millis(25);
    for seed in 0..20 {
        let mut late = Guest::attack(Mode::Late, seed, None);
        assert_eq!((late.used(0).0, late.status()), (0, 0xee));
        thread::sleep(delay);
        late.serve();
        assert_eq!(
            (late.used(0), late.payload()),
            ((1, HEAD.into(), 513), sector(ARMED))
        );

        let mut early = Guest::attack(Mode::Early, seed, None);
        assert_eq!(
            (early.used(0), early.payload()),
            ((1, HEAD.into(), 513), vec![0; 512])
        );
        thread::sleep(delay);
        early.serve();
        assert_eq!((early.used(0).0, early.payload()), (1, sector(ARMED)));

        let never = Guest::attack(Mode::Never, seed, None);
        assert_eq!((never.used(0).0, never.device.report.held), (0, 1));

        let twice = Guest::attack(Mode::Twice, seed, None);
        let (index, id, length) = twice.used(1);
        assert_eq!((index, id, length), (2, HEAD.into(), 513));

        let index = Guest::attack(Mode::Index, seed, None);
        assert_eq!(index.used(0).1, u32::from(HEAD));
        assert!(index.used(0).0 > 1 || index.used(0).0 == 0);
        assert_eq!(index.payload(), sector(ARMED));
    }
}

#[test]
fn lies_about_what_was_done() {
    let mut lengths = Vec::new();
    for seed in 0..20 {
        let length = Guest::attack(Mode::Length, seed, None);
        assert_eq!((length.used(0).0, length.used(0).1), (1, HEAD.into()));
        assert_eq!((length.payload(), length.status()), (sector(ARMED), 0));
        lengths.push(length.used(0).2);

        let short = Guest::attack(Mode::Short, seed, None);
        assert_eq!((short.used(0), short.status()), ((1, HEAD.into(), 513), 0));
        let written = short.payload().iter().filter(|byte| **byte != 0).count();
        assert!(written < 512);
        assert_eq!(short.payload()[..written], sector(ARMED)[..written]);

        let status = Guest::attack(Mode::Status, seed, None);
        assert_ne!(status.status(), 0xee);
        assert_eq!(status.used(0), (1, HEAD.into(), 513));
    }
    assert!(lengths.contains(&u32::MAX) && lengths.contains(&0));
}

/// The addresses at which memory differs from that of an honest device.
fn changed(guest: &Guest, data: Option<&[u8]>) -> Vec<u64> {
    let honest = Guest::attack(Mode::Honest, 1, data);
    let (here, there) = (guest.read(BASE, BYTES), honest.read(BASE, BYTES));
    let different = |at: &u64| here[(at - BASE) as usize] != there[(at - BASE) as usize];
    (BASE..BASE + BYTES as u64).filter(different).collect()
}

#[test]
fn only_what_is_shown_is_overwritten() {
    let table = TABLE + u64::from(HEAD) * 16;
    let shown = |at: u64| {
        let buffer = BUFFERS
            .iter()
            .any(|(start, bytes)| (*start..start + u64::from(*bytes)).contains(&at));
        buffer || (table..table + 48).contains(&at) || (USED..USED + 0x1000).contains(&at)
    };
    for mode in Mode::value_variants() {
        if *mode == Mode::Chain {
            continue;
        }
        let anywhere = matches!(mode, Mode::ScribbleAll | Mode::FillAll);
        let mut others = 0;
        for seed in 0..20 {
            for data in [None, Some([0xcd; 512].as_slice())] {
                let guest = Guest::attack(*mode, seed, data);
                let found = changed(&guest, data);
                others += found.iter().filter(|at| !shown(**at)).count();
                // No mode changes the ring by which requests come.
                assert!(!found
                    .iter()
                    .any(|at| (AVAILABLE..AVAILABLE + 38).contains(at)));
                if *mode == Mode::Change {
                    assert!(found.iter().any(|at| (table..table + 48).contains(at)));
                    let header = BUFFERS[0].0;
                    assert!(found.iter().any(|at| (header..header + 16).contains(at)));
                    let payload = BUFFERS[1].0..BUFFERS[1].0 + 512;
                    let hit = found.iter().any(|at| payload.contains(at));
                    assert_eq!(hit, data.is_some());
                }
            }
        }
        assert_eq!(others > 0, anywhere, "{mode}");
    }
}

#[test]
fn each_descriptor_has_another() {
    let guest = Guest::attack(Mode::Chain, 1, None);
    for index in 0..u64::from(SIZE) {
        assert_eq!(guest.read(TABLE + index * 16 + 12, 1)[0] & 1, 1);
    }
    assert_eq!(guest.used(0), (1, HEAD.into(), 513));
    assert_eq!((guest.payload(), guest.status()), (sector(ARMED), 0));
    let flags = |at: &u64| (TABLE..TABLE + 256).contains(at) && at % 16 / 2 == 6;
    assert!(changed(&guest, None).iter().all(flags));
}

#[test]
fn what_was_written_is_stored_before_it_is_changed() {
    let mut guest = Guest::attack(Mode::Change, 1, Some(&[0xcd; 512]));
    assert_ne!(guest.payload(), [0xcd; 512]);
    guest.submit(ARMED, None);
    guest.serve();
    assert_eq!(guest.payload(), [0xcd; 512]);
}

#[test]
fn everything_is_overwritten() {
    for seed in 0..20 {
        let filled = Guest::attack(Mode::FillAll, seed, None);
        let others = filled.read(OTHERS, 0x8000);
        let table = filled.read(TABLE, usize::from(SIZE) * 16);
        let all = others.iter().chain(&table);
        assert!(all.copied().all(|byte| byte == others[0]) && others[0] != 0x77);
        assert_eq!(filled.used(0).1, u32::from(HEAD));
    }
}

#[test]
fn same_seed_same_deeds() {
    for mode in [Mode::Scribble, Mode::Change, Mode::ScribbleAll, Mode::Index] {
        let memory = |seed| Guest::attack(mode, seed, None).read(BASE, BYTES);
        assert!(memory(3) == memory(3), "{mode}");
        assert!(memory(3) != memory(4), "{mode}");
    }
}

#[test]
fn outside_is_reported() {
    let mut guest = Guest::new(Mode::Honest, 1, 0x10800);
    guest.submit(HARMLESS, None);
    guest.serve();
    // The status lies behind the end.
    assert_eq!(guest.device.report.outside, 1);
    assert!(guest.device.report.reports[0].contains("0x1000011000"));
    assert!(guest.device.report.failed());
    assert_eq!((guest.used(0), guest.status()), ((1, HEAD.into(), 0), 0xee));
}
