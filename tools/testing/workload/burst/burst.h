/* SPDX-License-Identifier: GPL-2.0 */
/*
 * burst: many threads that begin to read or write at the same moment.
 *
 * burst.c has the options and the rounds, worker.c what a thread does,
 * memory.c the fragmented memory and the buffers, sampler.c the counters.
 *
 * Everything is reported in lines of words on standard output, at the end, so
 * that printing does not disturb what is measured.
 */
#ifndef CC_SWIOTLB_BURST_H
#define CC_SWIOTLB_BURST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <sys/uio.h>

#define KIB		1024UL
#define MIB		(1024 * KIB)
#define PAGE_BYTES	(4 * KIB)

/* A disk that is read or written. */
struct disk {
	const char *path;
	uint64_t bytes;
};

/**
 * struct worker - one thread and what has become of it
 * @thread: the thread
 * @disk: disk that it uses
 * @start: first byte of its part of the disk
 * @length: bytes of that part
 * @writes: whether it writes
 * @direct: whether it goes around the page cache
 * @buffer: what it reads into: one entry, or one for each page
 * @entries: entries in @buffer
 * @cpu: CPU that it is bound to, or -1
 * @first_ms: from the start of the round until its first transfer was done, -1
 *	before
 * @transfers: complete transfers within the time of the round
 * @errors: transfers that failed
 * @error: errno of the last of them
 */
struct worker {
	pthread_t thread;
	const struct disk *disk;
	uint64_t start;
	uint64_t length;
	bool writes;
	bool direct;
	struct iovec *buffer;
	int entries;
	int cpu;
	int64_t first_ms;
	uint64_t transfers;
	uint64_t errors;
	int error;
};

/* Milliseconds since the guest has booted. */
int64_t now_ms(void);
/* Ends the program with a message. */
noreturn void die(const char *format, ...);

/* memory.c */
void *map_or_die(size_t bytes);
void fragment(size_t bytes);
void make_buffers(struct worker *workers, int count, size_t bytes,
		  bool scattered);
void show_free_memory(const char *when);

/* worker.c */
void start_workers(struct worker *workers, int count, size_t bytes);
void begin_round(int seconds);
int workers_busy(void);

/* sampler.c */
void start_sampler(const struct disk *disks, int count);
void stop_sampler(void);

#endif /* CC_SWIOTLB_BURST_H */
