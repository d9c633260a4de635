// SPDX-License-Identifier: GPL-2.0

//! cc_swiotlb: bounce buffers for confidential guests.
//!
//! A device outside the trust boundary of a confidential guest cannot read its private memory, so
//! every streaming DMA mapping is copied through memory that is shared with the host. This
//! allocator keeps such memory ready, in slots of ten size classes from 512 B to 512 KiB:
//!
//! - [`pool`] serves the mappings: per-CPU stacks of free slots in front of the depots of each NUMA
//!   node, and a table from addresses to slots. Never converts or sleeps; any context but NMI.
//! - [`kccd`] is the thread that converts memory before it is needed, and gives idle memory back.
//! - [`glue`] is the one door to C: the hooks below the DMA API, devices, memory, threads.
//! - [`params`] and [`trace`]: what users set, and what they see.
//!
//! Until the pool exists, and where no slot fits, the legacy pool of kernel/dma/swiotlb.c serves.
//! Documentation/design.rst explains the reasons for this design.

mod glue;
mod kccd;
mod params;
mod pool;
mod trace;

use glue::{
    link::Link,
    memory,
    sysfs::Folder,
    thread, //
};
use kccd::Kccd;
use kernel::{
    debugfs::Scope,
    prelude::*, //
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
static POOL: Link<Pool> = Link::new();

/// Mappings that were asked for before the pool existed.
pub(crate) static EARLY: Counter = Counter::new(0);

/// The pool, if it can serve.
#[inline]
pub(crate) fn pool() -> Option<&'static Pool> {
    POOL.get()
}

/// The module, which is built in and stays.
struct CcSwiotlb;

/// Makes the files in debugfs. Nothing depends on them: a file that cannot be made is missing.
fn debug(pool: Option<&'static Pool>) -> Result {
    let files = Scope::dir(pool, c"cc_swiotlb", |pool, dir| {
        dir.read_callback_file(c"stats", pool, &Pool::write_stats);
        if let Some(pool) = pool {
            dir.read_callback_file(c"classes", *pool, &Pool::write_classes);
            dir.read_callback_file(c"nodes", *pool, &Pool::write_nodes);
            // Any write makes every CPU return the slots that it holds to the depots, so that tests
            // can count them.
            dir.write_only_callback_file(c"drain", *pool, &|_: &Pool, text| {
                text.skip(text.len())?;
                glue::cpus::drain_all();
                Ok(())
            });
        }
    });
    glue::leak(KBox::pin_init(files, GFP_KERNEL)?);
    Ok(())
}

/// Makes the files in sysfs.
fn publish(pool: Option<&'static Pool>) -> Result {
    let folder = Folder::mm().folder(c"cc_swiotlb")?;
    folder.files(&show::STATE)?;
    if pool.is_some() {
        folder.files(&show::TOTALS)?;
        for (name, files) in &show::CLASS_FOLDERS {
            folder.folder(name)?.files(files)?;
        }
    }
    Ok(())
}

/// Sets the pool up and fills it, so that no driver that starts after us finds it empty.
fn start() -> Result<&'static Pool> {
    if !memory::has_legacy_pool() {
        // The DMA API bounces nothing then.
        pr_err!("swiotlb is off, and nothing is bounced without it\n");
        return Err(ENODEV);
    }
    let pool = glue::leak(KBox::pin_init(Pool::new(memory::nodes()), GFP_KERNEL)?);
    let mut kccd = Kccd::new(pool)?;
    if let Some(obstacle) = kccd.fill() {
        pr_warn!("not all memory could be made ready ({obstacle}), kccd goes on\n");
    }
    if let Err(error) = glue::register() {
        pr_warn!("neither memory pressure nor CPU hotplug is heard of ({error:?})\n");
    }
    thread::spawn(c"kccd", move || kccd.run())?;
    Ok(pool)
}

impl kernel::Module for CcSwiotlb {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let started = glue::wanted().then(start).transpose();
        let running = started.unwrap_or_else(|error| {
            pr_err!("cannot start ({error:?}), only the legacy pool serves\n");
            glue::switch_off();
            None
        });
        if let Some(pool) = running {
            // From here on the hooks find the pool.
            POOL.set(Some(pool));
            pr_info!("on, watermark {}\n", params::watermark());
        }
        if let Err(error) = publish(running) {
            pr_warn!("not all files in sysfs ({error:?})\n");
        }
        if let Err(error) = debug(running) {
            pr_warn!("no files in debugfs ({error:?})\n");
        }
        Ok(Self)
    }
}
