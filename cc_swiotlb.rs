// SPDX-License-Identifier: GPL-2.0

//! cc_swiotlb: bounce buffers for confidential guests.
//!
//! A device outside the trust boundary of a confidential guest cannot read its private memory, so
//! that every streaming DMA mapping is copied through memory that is shared with the host. This
//! allocator keeps such memory ready, in slots of ten size classes from 512 B to 512 KiB:
//!
//! - [`pool`] serves the mappings: per-CPU stacks of free slots in front of the depots of each NUMA
//!   node, and a table from addresses to slots. No conversion and no sleep, in any context but NMI.
//! - [`kccd`] is the thread that converts memory before it is needed, and gives back what idles.
//! - [`glue`] is the one door to C: the hooks below the DMA API, devices, memory, threads.
//! - [`params`] and [`trace`]: what users set, and what they see.
//!
//! Until the pool exists, and where no slot fits, the legacy pool of kernel/dma/swiotlb.c serves.
//! Documentation/design.rst explains why all this is as it is.

mod glue;
mod kccd;
mod params;
mod pool;
mod trace;

use glue::{
    memory,
    sysfs::Folder,
    thread, //
};
use kccd::Kccd;
use kernel::{
    debugfs,
    debugfs::Dir,
    prelude::*,
    sync::SetOnce, //
};
use pool::{
    show,
    stats::Counter,
    Pool, //
};

module! {
    type: CcSwiotlb,
    name: "cc_swiotlb",
    authors: ["cc_swiotlb developers"],
    description: "Bounce buffers for confidential guests",
    license: "GPL",
}

/// The pool, once it can serve. Never taken down: mappings may live until the machine stops.
static POOL: SetOnce<&'static Pool> = SetOnce::new();

/// Mappings that came before the pool.
pub(crate) static EARLY: Counter = Counter::new();

/// The pool, if it can serve.
#[inline]
pub(crate) fn pool() -> Option<&'static Pool> {
    POOL.copy()
}

/// The module, which is built in and stays.
struct CcSwiotlb {
    _debugfs: Option<Files>,
}

/// A file in debugfs, about the pool if there is one.
type PoolFile = Pin<KBox<debugfs::File<Option<&'static Pool>>>>;

/// What is to be seen in debugfs. Nobody depends on it: files that cannot be made are missing.
struct Files {
    _dir: Dir,
    _stats: PoolFile,
    _of_pool: Option<[PoolFile; 3]>,
}

impl Files {
    fn new(pool: Option<&'static Pool>) -> Result<Self> {
        let dir = Dir::new(c"cc_swiotlb");
        let stats = KBox::pin_init(
            dir.read_callback_file(c"stats", pool, &|pool: &Option<&Pool>, out| {
                Pool::write_stats(*pool, out)
            }),
            GFP_KERNEL,
        )?;
        let of_pool = pool.map(|_| Self::of_pool(&dir, pool)).transpose()?;
        Ok(Self {
            _dir: dir,
            _stats: stats,
            _of_pool: of_pool,
        })
    }

    /// What there is only where there is a pool.
    fn of_pool(dir: &Dir, pool: Option<&'static Pool>) -> Result<[PoolFile; 3]> {
        let classes = dir.read_callback_file(c"classes", pool, &|pool: &Option<&Pool>, out| {
            pool.map_or(Ok(()), |pool| pool.write_classes(out))
        });
        let nodes = dir.read_callback_file(c"nodes", pool, &|pool: &Option<&Pool>, out| {
            pool.map_or(Ok(()), |pool| pool.write_nodes(out))
        });
        // Whatever is written: every CPU returns what it holds to the depots. For tests, which can
        // count the slots then.
        let drain = dir.write_callback_file(c"drain", pool, &|_: &Option<&Pool>, text| {
            text.skip(text.len())?;
            glue::cpus::drain_all();
            Ok(())
        });
        Ok([
            KBox::pin_init(classes, GFP_KERNEL)?,
            KBox::pin_init(nodes, GFP_KERNEL)?,
            KBox::pin_init(drain, GFP_KERNEL)?,
        ])
    }
}

/// Makes the files in sysfs.
fn publish(pool: Option<&'static Pool>) -> Result {
    let folder = Folder::in_mm(c"cc_swiotlb")?;
    folder.files(&show::STATE)?;
    if pool.is_some() {
        folder.files(&show::TOTALS)?;
        for (name, files) in &show::CLASS_FOLDERS {
            folder.folder(name)?.files(files)?;
        }
    }
    Ok(())
}

/// Sets the pool up and fills it, so that no driver that starts after us meets an empty one.
fn start() -> Result<&'static Pool> {
    if !memory::has_legacy_pool() {
        // The DMA API bounces nothing then.
        pr_err!("swiotlb is off, and nothing is bounced without it\n");
        return Err(ENODEV);
    }
    let pool = glue::leak(KBox::pin_init(Pool::new(memory::nodes()), GFP_KERNEL)?);
    let mut kccd = KBox::new(Kccd::new(pool)?, GFP_KERNEL)?;
    if let Some(obstacle) = kccd.fill() {
        pr_warn!("not all memory could be made ready ({obstacle:?}), kccd goes on\n");
    }
    if let Err(error) = glue::register() {
        pr_warn!("neither memory pressure nor CPU hotplug is heard of ({error:?})\n");
    }
    thread::spawn(kccd::NAME, kccd)?;
    Ok(pool)
}

impl kernel::Module for CcSwiotlb {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        params::configure();
        let started = glue::wanted().then(start).transpose();
        let running = started.unwrap_or_else(|error| {
            pr_err!("cannot start ({error:?}), only the legacy pool serves\n");
            glue::switch_off();
            None
        });
        if let Some(pool) = running {
            // From here on the hooks find it.
            POOL.populate(pool);
            pr_info!("on, watermark {}\n", params::watermark());
        }
        if let Err(error) = publish(running) {
            pr_warn!("not all files in sysfs ({error:?})\n");
        }
        Ok(Self {
            _debugfs: Files::new(running)
                .inspect_err(|error| pr_warn!("no files in debugfs ({error:?})\n"))
                .ok(),
        })
    }
}
