// SPDX-License-Identifier: GPL-2.0
/*
 * Memory: whole or in single pages, and buffers that are one or the other.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "burst.h"

/* Memory that is left to others while all the rest is touched. */
#define LEFT_KB		(96 * 1024)
/* Memory that is touched before free memory is looked at again. */
#define STEP_BYTES	(4 * MIB)
#define HUGE_PAGE	(2 * MIB)
#define ORDERS		11

void *map_or_die(size_t bytes)
{
	char *area = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		die("no address space for %zu bytes", bytes);
	return area + (-(uintptr_t)area & (HUGE_PAGE - 1));
}

static void touch(char *area, size_t bytes)
{
	if (madvise(area, bytes, MADV_POPULATE_WRITE))
		die("no memory for %zu bytes", bytes);
}

static long free_kb(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	char line[128];
	long found = -1;

	while (file && found < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "MemFree: %ld kB", &found);
	if (found < 0)
		die("/proc/meminfo does not say how much is free");
	fclose(file);
	return found;
}

/* Free blocks of each order, over all zones. */
void show_free_memory(const char *when)
{
	FILE *file = fopen("/proc/buddyinfo", "r");
	long sum[ORDERS] = {};
	char line[256];
	int order;

	while (file && fgets(line, sizeof(line), file)) {
		char *next = strstr(line, "zone");

		if (!next)
			continue;
		/* "zone", then its name. */
		next += strcspn(next, " ");
		next += strspn(next, " ");
		next += strcspn(next, " ");
		for (order = 0; order < ORDERS; order++)
			sum[order] += strtol(next, &next, 10);
	}
	if (file)
		fclose(file);

	printf("free %s", when);
	for (order = 0; order < ORDERS; order++)
		printf(" %ld", sum[order]);
	printf("\n");
}

/* Every second page of a step, in one system call. */
static void give_back(int self, char *area)
{
	struct iovec pages[STEP_BYTES / PAGE_BYTES / 2];
	size_t i;

	for (i = 0; i < STEP_BYTES / PAGE_BYTES / 2; i++) {
		pages[i].iov_base = area + 2 * i * PAGE_BYTES;
		pages[i].iov_len = PAGE_BYTES;
	}
	if (process_madvise(self, pages, i, MADV_DONTNEED, 0) !=
	    STEP_BYTES / 2)
		die("MADV_DONTNEED is refused");
}

/*
 * Touches memory, @bytes unless less is free, and gives back every second page:
 * only single pages are free then. The others are kept until the end.
 */
void fragment(size_t bytes)
{
	char *area = map_or_die(bytes);
	int self = pidfd_open(getpid(), 0);
	size_t done, at;

	bytes -= bytes % STEP_BYTES;
	if (madvise(area, bytes, MADV_NOHUGEPAGE))
		die("MADV_NOHUGEPAGE is refused");
	for (done = 0; done < bytes && free_kb() > LEFT_KB; done += STEP_BYTES)
		touch(area + done, STEP_BYTES);
	for (at = 0; at < done; at += STEP_BYTES)
		give_back(self, area + at);
	printf("fragmented %zu\n", done);
}

/* How many pieces of physical memory a buffer has. */
static int pieces(const struct worker *worker)
{
	int map = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry, frame, last = 0;
	int found = 0, i;
	size_t at;

	if (map < 0)
		die("there is no /proc/self/pagemap");
	for (i = 0; i < worker->entries; i++) {
		uintptr_t base = (uintptr_t)worker->buffer[i].iov_base;

		for (at = 0; at < worker->buffer[i].iov_len; at += PAGE_BYTES) {
			off_t place = (base + at) / PAGE_BYTES * sizeof(entry);

			if (pread(map, &entry, sizeof(entry), place) !=
			    sizeof(entry))
				die("/proc/self/pagemap cannot be read");
			/* The lower 55 bits are the page frame's number. */
			frame = entry & ((1ULL << 55) - 1);
			found += frame != last + 1;
			last = frame;
		}
	}
	close(map);
	return found;
}

/*
 * A buffer for each worker. A contiguous one is a part of a huge page; pages of
 * a scattered one are neighbours by rare chance only, because those that would
 * follow them are in use as well.
 */
void make_buffers(struct worker *workers, int count, size_t bytes,
		  bool scattered)
{
	size_t step = scattered ? 2 * PAGE_BYTES : bytes;
	size_t length = scattered ? PAGE_BYTES : bytes;
	size_t entries = bytes / length;
	size_t total = count * entries * step;
	struct iovec *vector;
	long sum = 0;
	char *area;
	size_t i;
	int w;

	if (!count)
		return;
	total = (total + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	area = map_or_die(total);
	if (madvise(area, total, scattered ? MADV_NOHUGEPAGE : MADV_HUGEPAGE))
		die("huge pages cannot be chosen");
	touch(area, total);

	vector = calloc(count * entries, sizeof(*vector));
	if (!vector)
		die("no memory");
	for (i = 0; i < count * entries; i++) {
		vector[i].iov_base = area + i * step;
		vector[i].iov_len = length;
	}
	for (w = 0; w < count; w++) {
		workers[w].buffer = vector + w * entries;
		workers[w].entries = entries;
		sum += pieces(&workers[w]);
	}
	printf("pieces %ld.%02ld\n", sum / count, sum * 100 / count % 100);
}
