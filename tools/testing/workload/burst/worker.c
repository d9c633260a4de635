// SPDX-License-Identifier: GPL-2.0
/*
 * The threads that read and write.
 */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "burst.h"

/* Small: there are hundreds of them. */
#define STACK_BYTES	(64 * KIB)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Rounds that have begun, when the last one did, and when it ends. */
static int rounds;
static int64_t started_ms, end_ms;

static atomic_int busy;
static size_t transfer_bytes;

static bool transfer(struct worker *worker, int fd, uint64_t offset)
{
	ssize_t done;

	if (worker->writes)
		done = pwritev(fd, worker->buffer, worker->entries, offset);
	else
		done = preadv(fd, worker->buffer, worker->entries, offset);
	if (done == (ssize_t)transfer_bytes && worker->writes &&
	    !worker->direct && fdatasync(fd))
		done = -1;
	if (done == (ssize_t)transfer_bytes)
		return true;
	worker->error = done < 0 ? errno : ENODATA;
	return false;
}

static void run_round(struct worker *worker, int fd)
{
	uint64_t at = 0;

	/* Drop the data of an earlier round from the page cache. */
	if (!worker->direct)
		posix_fadvise(fd, worker->start, worker->length,
			      POSIX_FADV_DONTNEED);
	do {
		if (!transfer(worker, fd, worker->start + at)) {
			worker->errors++;
			continue;
		}
		if (worker->first_ms < 0)
			worker->first_ms = now_ms() - started_ms;
		worker->transfers += now_ms() <= end_ms;
		at += transfer_bytes;
		if (at + transfer_bytes > worker->length)
			at = 0;
	} while (now_ms() < end_ms);
}

static void *work(void *data)
{
	struct worker *worker = data;
	int flags = worker->writes ? O_WRONLY : O_RDONLY;
	int fd, seen = 0;

	fd = open(worker->disk->path, flags | (worker->direct ? O_DIRECT : 0));
	if (fd < 0)
		die("%s: %s", worker->disk->path, strerror(errno));
	if (worker->cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(worker->cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			die("CPU %d cannot be used", worker->cpu);
	}
	for (;;) {
		pthread_mutex_lock(&lock);
		while (rounds == seen)
			pthread_cond_wait(&changed, &lock);
		seen = rounds;
		pthread_mutex_unlock(&lock);

		run_round(worker, fd);
		atomic_fetch_sub(&busy, 1);
	}
	return NULL;
}

static int count;
static struct worker *all;

void start_workers(struct worker *workers, int number, size_t bytes)
{
	pthread_attr_t attributes;
	int w;

	all = workers;
	count = number;
	transfer_bytes = bytes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	for (w = 0; w < number; w++) {
		if (pthread_create(&workers[w].thread, &attributes, work,
				   &workers[w]))
			die("no thread");
	}
}

/* All workers have to be done with the round before. */
void begin_round(int seconds)
{
	int w;

	for (w = 0; w < count; w++) {
		all[w].first_ms = -1;
		all[w].transfers = 0;
		all[w].errors = 0;
		all[w].error = 0;
	}
	atomic_store(&busy, count);
	pthread_mutex_lock(&lock);
	started_ms = now_ms();
	end_ms = started_ms + seconds * 1000;
	rounds++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

int workers_busy(void)
{
	return atomic_load(&busy);
}
