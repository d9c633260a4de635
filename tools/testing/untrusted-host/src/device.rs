// SPDX-License-Identifier: GPL-2.0

//! The device: takes requests from its queue, and completes them as its mode says.

use crate::chain::Shared;
use crate::hostile::{publish, Mode, Used, Vandal};
use crate::random::Random;
use crate::report::Report;
use crate::request::{Request, SECTOR_BYTES};
use std::fs::File;
use std::io::Result;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::Backend;
use vhost_user_backend::{VhostUserBackendMut, VringMutex, VringT};
use virtio_bindings::bindings::virtio_blk::{
    virtio_blk_config, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_S_OK,
};
use virtio_bindings::bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap,
    GuestMemoryRegion,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::timerfd::TimerFd;

pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

const QUEUE_SIZE: usize = 128;
/// What QEMU knows of a block device without asking: up to and including the segments.
const CONFIG_BYTES: usize = size_of_config();
/// The event of the timer; 0 is the queue and 1 the end.
pub const TIMER: u64 = 2;
const TICK: Duration = Duration::from_millis(5);
const LATEST_MS: u64 = 20;

const fn size_of_config() -> usize {
    std::mem::size_of::<virtio_blk_config>()
}

/// A request whose completion, or whose transfer, comes later.
struct Pending {
    due: Instant,
    request: Request,
}

pub struct Device {
    pub report: Report,
    mode: Mode,
    random: Random,
    disk: File,
    disk_bytes: u64,
    /// How much of each region counts as shared.
    window: u64,
    memory: Memory,
    /// Whether it is hostile by now.
    armed: bool,
    pending: Vec<Pending>,
    end: EventFd,
    timer: TimerFd,
    /// Held open for QEMU; nothing is asked of it.
    backend: Option<Backend>,
}

impl Device {
    pub fn new(mode: Mode, seed: u64, disk: File, window: u64, memory: Memory) -> Result<Self> {
        let disk_bytes = disk.metadata()?.len();
        let mut timer = TimerFd::new()?;
        timer.reset(TICK, Some(TICK))?;
        Ok(Self {
            report: Report {
                mode: mode.to_string(),
                seed,
                ..Report::default()
            },
            mode,
            random: Random::new(seed),
            disk,
            disk_bytes,
            window,
            memory,
            armed: false,
            pending: Vec::new(),
            end: EventFd::new(EFD_NONBLOCK)?,
            timer,
            backend: None,
        })
    }

    pub fn timer(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Takes and handles all requests of the queue. Returns whether there is news for the guest.
    pub fn serve(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> bool {
        let mut news = self.serve_pending(memory, queue);
        loop {
            let heads: Vec<u16> = match queue.iter(memory) {
                Ok(chains) => chains.map(|chain| chain.head_index()).collect(),
                Err(error) => {
                    self.report.outside(format!("ring: {error}"));
                    return news;
                }
            };
            for head in &heads {
                if let Some(request) = self.take(*head, memory, queue) {
                    let alone = heads.len() == 1 && self.pending.is_empty();
                    news |= self.handle(request, alone, memory, queue);
                } else {
                    publish(memory, queue, &[Used::new(u32::from(*head), 0)], 0);
                    news = true;
                }
            }
            match queue.enable_notification(memory) {
                Ok(true) => (),
                Ok(false) => return news,
                Err(error) => {
                    self.report.outside(format!("ring: {error}"));
                    return news;
                }
            }
        }
    }

    /// The request that a chain makes, if all of it lies where it may.
    fn take(&mut self, head: u16, memory: &GuestMemoryMmap, queue: &Queue) -> Option<Request> {
        let start = memory
            .iter()
            .map(|region| region.start_addr().raw_value())
            .min();
        let shared = Shared {
            memory,
            end: start.unwrap_or(0).saturating_add(self.window),
        };
        match shared.chain(queue.desc_table(), queue.size(), head) {
            Ok(buffers) => {
                let request = Request::parse(head, &buffers, memory);
                if request.is_none() {
                    self.report.outside(format!("no request: {buffers:?}"));
                }
                request
            }
            Err(fault) => {
                self.report.outside(fault.to_string());
                None
            }
        }
    }

    /// Handles a request. `alone` means that no other one is under way.
    fn handle(
        &mut self,
        request: Request,
        alone: bool,
        memory: &GuestMemoryMmap,
        queue: &mut Queue,
    ) -> bool {
        self.report.requests += 1;
        self.report.search(&request.data, memory);
        // Until then the driver sets the device up, and looks for partitions, undisturbed.
        self.armed |= request.offset >= self.disk_bytes / 2;
        // A queue that breaks takes other requests under way along, for which the driver waits for
        // ever.
        if !self.armed || self.mode.breaks_queue() && !alone {
            self.finish(&request, memory, queue);
            return true;
        }
        let done = Used::new(u32::from(request.head), request.length());
        match self.mode {
            Mode::Honest => {
                self.finish(&request, memory, queue);
                return true;
            }
            Mode::Late => self.postpone(request),
            Mode::Early => {
                if self.random.next() % 2 == 0 {
                    self.set_status(&request, VIRTIO_BLK_S_OK as u8, memory);
                }
                publish(memory, queue, &[done], 0);
                self.postpone(request);
            }
            Mode::Never => self.report.held += 1,
            Mode::Twice | Mode::Index => {
                self.transfer(&request, memory, u64::MAX);
                let mode = self.mode;
                let (entries, more) = self.vandal(memory).lies(mode, done, queue.size());
                publish(memory, queue, &entries, more);
                // These have broken the queue.
                self.armed = false;
            }
            Mode::Length => {
                self.transfer(&request, memory, u64::MAX);
                let any = self.random.next() as u32;
                let right = request.length();
                let length = self
                    .random
                    .pick(&[0, 1, right - 1, right + 1, u32::MAX, any]);
                let done = Used::new(u32::from(request.head), length);
                publish(memory, queue, &[done], 0);
            }
            Mode::Short => {
                let all = u64::from(request.length() - 1);
                let part = self.random.within(0..all.max(1));
                self.transfer(&request, memory, part);
                publish(memory, queue, &[done], 0);
                if !request.is_read() {
                    return true;
                }
            }
            Mode::Status => {
                self.transfer(&request, memory, u64::MAX);
                let any = self.random.next() as u8;
                let status = self.random.pick(&[1, 2, 3, 4, 0x7f, 0x80, 0xff, any]);
                self.set_status(&request, status, memory);
                publish(memory, queue, &[done], 0);
            }
            Mode::Change | Mode::Scribble | Mode::Chain => {
                self.transfer(&request, memory, u64::MAX);
                let mode = self.mode;
                let mut vandal = self.vandal(memory);
                let events = match mode {
                    Mode::Change => vandal.change(&request),
                    Mode::Chain => vandal.chain(queue),
                    _ => vandal.scribble_request(&request, queue),
                };
                // One event is counted below.
                self.report.hostile_events += events - 1;
                publish(memory, queue, &[done], 0);
            }
            Mode::ScribbleAll | Mode::FillAll => {
                self.transfer(&request, memory, u64::MAX);
                let fill = self.mode == Mode::FillAll;
                let size = queue.size();
                let mut vandal = self.vandal(memory);
                let events = if fill {
                    vandal.fill_all(queue)
                } else {
                    vandal.scribble_all(queue)
                };
                let (entries, more) = match vandal.random.within(0..8) {
                    0 => vandal.lies(Mode::Index, done, size),
                    _ => (vec![done], 0),
                };
                self.report.hostile_events += events - 1;
                self.armed = entries.len() == 1 && more == 0;
                publish(memory, queue, &entries, more);
            }
        }
        self.report.hostile_events += 1;
        true
    }

    fn vandal<'a>(&'a mut self, memory: &'a GuestMemoryMmap) -> Vandal<'a> {
        Vandal {
            memory,
            random: &mut self.random,
        }
    }

    fn postpone(&mut self, request: Request) {
        let delay = Duration::from_millis(self.random.within(0..LATEST_MS));
        let due = Instant::now() + delay;
        self.pending.push(Pending { due, request });
    }

    /// Serves the requests that were put off and are due. Returns whether there is news for the
    /// guest.
    fn serve_pending(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> bool {
        let now = Instant::now();
        let all = std::mem::take(&mut self.pending);
        let (due, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|each| each.due <= now);
        self.pending = rest;
        for each in &due {
            if self.mode == Mode::Early {
                self.transfer(&each.request, memory, u64::MAX);
            } else {
                self.finish(&each.request, memory, queue);
            }
        }
        !due.is_empty()
    }

    /// Handles a request as a device should.
    fn finish(&mut self, request: &Request, memory: &GuestMemoryMmap, queue: &mut Queue) {
        self.transfer(request, memory, u64::MAX);
        let done = Used::new(u32::from(request.head), request.length());
        publish(memory, queue, &[done], 0);
    }

    fn transfer(&mut self, request: &Request, memory: &GuestMemoryMmap, limit: u64) {
        let done = request.transfer(&self.disk, memory, limit);
        self.report.written_bytes += done.written_bytes;
        self.report.read_bytes += done.read_bytes;
        self.set_status(request, done.status, memory);
    }

    fn set_status(&self, request: &Request, status: u8, memory: &GuestMemoryMmap) {
        let written = memory.write_obj(status, request.status.address);
        written.expect("it was looked at");
    }
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        let bits = [
            VIRTIO_F_VERSION_1,
            VIRTIO_F_ACCESS_PLATFORM,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_SEG_MAX,
        ];
        let offered: u64 = bits.iter().map(|bit| 1 << bit).sum();
        offered | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// The driver sets the device up.
    fn acked_features(&mut self, _features: u64) {
        self.armed = false;
        self.pending.clear();
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            // QEMU wants these where the device has an IOMMU, or could have one.
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = [0; CONFIG_BYTES];
        config[..8].copy_from_slice(&(self.disk_bytes / SECTOR_BYTES).to_le_bytes());
        // A request has a header and a status besides.
        config[12..16].copy_from_slice(&(QUEUE_SIZE as u32 - 2).to_le_bytes());
        let (start, end) = (offset as usize, offset as usize + size as usize);
        config.get(start..end).unwrap_or_default().to_vec()
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self.backend = Some(backend);
    }

    fn update_memory(&mut self, memory: Memory) -> Result<()> {
        let regions = memory.memory();
        let regions = regions
            .iter()
            .map(|each| (each.start_addr().raw_value(), each.len()));
        self.report.regions = regions.collect();
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<EventFd> {
        self.end.try_clone().ok()
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[Self::Vring],
        _thread: usize,
    ) -> Result<()> {
        if u64::from(event) == TIMER {
            self.timer.wait()?;
        }
        let memory = self.memory.memory();
        let mut vring = vrings[0].get_mut();
        if !vring.get_queue().ready() {
            self.pending.clear();
            return Ok(());
        }
        if self.serve(&memory, vring.get_queue_mut()) {
            vring.signal_used_queue()?;
        }
        Ok(())
    }
}
