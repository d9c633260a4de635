// SPDX-License-Identifier: GPL-2.0
/*
 * Looks at the counters ten times a second, and notes what has changed.
 *
 * A sample is a line: "sample", the time in milliseconds since the guest has
 * booted, and each counter that has another value than before as name=value.
 * Which counters there are, and what they mean, is left to the reader.
 */

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "burst.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define PERIOD_NS	100000000
#define COUNTERS	1024
#define NAME_BYTES	40

struct counter {
	char name[NAME_BYTES];
	int64_t value;
};

static struct counter counters[COUNTERS];
static int known;
/* Counters come in the same order each time: where the next one is expected. */
static int expected;

static const struct disk *sampled_disks;
static int sampled_count;

static pthread_t thread;
static atomic_bool stopping;
static FILE *log_file;
static char *log_text;
static size_t log_bytes;

static struct counter *find(const char *name)
{
	int i;

	for (i = 0; i < known; i++) {
		int at = (expected + i) % known;

		if (!strcmp(counters[at].name, name)) {
			expected = at + 1;
			return &counters[at];
		}
	}
	if (known == COUNTERS)
		die("too many counters");
	expected = known + 1;
	snprintf(counters[known].name, NAME_BYTES, "%s", name);
	counters[known].value = INT64_MIN;
	return &counters[known++];
}

static void note(const char *name, int64_t value)
{
	struct counter *counter = find(name);

	if (counter->value == value)
		return;
	counter->value = value;
	fprintf(log_file, " %s=%lld", name, (long long)value);
}

/* The file's text until the next call; empty if there is no such file. */
static char *content(const char *path)
{
	static char text[64 * 1024];
	size_t size = 0;
	ssize_t part;
	int fd = open(path, O_RDONLY);

	while (fd >= 0 && size < sizeof(text) - 1) {
		part = read(fd, text + size, sizeof(text) - 1 - size);
		if (part <= 0)
			break;
		size += part;
	}
	if (fd >= 0)
		close(fd);
	text[size] = '\0';
	return text;
}

/* Lines of the form "name: number". */
static void sample_stats(void)
{
	char *rest = content(DEBUGFS "cc_swiotlb/stats");
	char *line, name[NAME_BYTES];
	long long value;

	while ((line = strsep(&rest, "\n"))) {
		if (sscanf(line, "%39[a-z_0-9]: %lld", name, &value) == 2)
			note(name, value);
	}
}

/* A table: the first line has the columns' names, the first column the rows'. */
static void sample_classes(void)
{
	char *columns[32], name[NAME_BYTES * 2];
	char *rest = content(DEBUGFS "cc_swiotlb/classes");
	char *line, *word, *row;
	int count = 0, c;

	line = strsep(&rest, "\n");
	while (count < 32 && (word = strsep(&line, " "))) {
		if (*word)
			columns[count++] = word;
	}
	while ((line = strsep(&rest, "\n"))) {
		row = NULL;
		c = 0;
		while ((word = strsep(&line, " "))) {
			if (!*word)
				continue;
			if (!row)
				row = word;
			else if (c < count)
				snprintf(name, NAME_BYTES, "%s.%s", row,
					 columns[c]),
				note(name, strtoll(word, NULL, 10));
			c++;
		}
	}
}

static void sample_swiotlb(void)
{
	static const char * const names[] = {
		"io_tlb_nslabs", "io_tlb_used", "io_tlb_transient_nslabs",
	};
	char path[128];
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const char *text;

		snprintf(path, sizeof(path), DEBUGFS "swiotlb/%s", names[i]);
		text = content(path);
		if (*text)
			note(names[i], strtoll(text, NULL, 10));
	}
}

/* CPU time in hundredths of a second. */
static void sample_cpu(void)
{
	long long user, nice, system, idle, wait, irq, softirq;

	if (sscanf(content("/proc/stat"),
		   "cpu %lld %lld %lld %lld %lld %lld %lld", &user, &nice,
		   &system, &idle, &wait, &irq, &softirq) != 7)
		die("/proc/stat cannot be read");
	note("cpu_user", user + nice);
	note("cpu_system", system);
	note("cpu_irq", irq);
	note("cpu_softirq", softirq);
}

static bool is_sampled(const char *name)
{
	int d;

	for (d = 0; d < sampled_count; d++) {
		const char *slash = strrchr(sampled_disks[d].path, '/');

		if (!strcmp(slash ? slash + 1 : sampled_disks[d].path, name))
			return true;
	}
	return false;
}

/* What the disks have completed. */
static void sample_disks(void)
{
	char *rest = content("/proc/diskstats");
	char *line, name[NAME_BYTES];
	long long read = 0, written = 0, in, out;

	while ((line = strsep(&rest, "\n"))) {
		if (sscanf(line, "%*d %*d %39s %*d %*d %lld %*d %*d %*d %lld",
			   name, &in, &out) == 3 && is_sampled(name)) {
			read += in;
			written += out;
		}
	}
	note("disk_read_bytes", read * 512);
	note("disk_written_bytes", written * 512);
}

static void take_sample(void)
{
	fprintf(log_file, "sample %lld", (long long)now_ms());
	sample_stats();
	sample_classes();
	sample_swiotlb();
	sample_cpu();
	sample_disks();
	fprintf(log_file, "\n");
}

static void *run(void *unused)
{
	struct timespec next;

	(void)unused;
	/* Readers may leave little time to others. */
	setpriority(PRIO_PROCESS, 0, -20);
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (!stopping) {
		take_sample();
		next.tv_nsec += PERIOD_NS;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	take_sample();
	return NULL;
}

void start_sampler(const struct disk *disks, int count)
{
	sampled_disks = disks;
	sampled_count = count;
	log_file = open_memstream(&log_text, &log_bytes);
	if (!log_file || pthread_create(&thread, NULL, run, NULL))
		die("no memory for samples");
}

/* Prints what was noted. */
void stop_sampler(void)
{
	stopping = true;
	pthread_join(thread, NULL);
	fclose(log_file);
	fwrite(log_text, 1, log_bytes, stdout);
}
