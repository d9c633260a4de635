// SPDX-License-Identifier: GPL-2.0
/*
 * The options and the rounds.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "burst.h"

static const char usage[] =
	"burst [OPTION ...] DISK ...\n"
	"Threads that begin to transfer at the same moment, and what that did.\n"
	"  -r N  direct readers        -w N  direct writers\n"
	"  -R N  buffered readers      -W N  buffered writers\n"
	"  -s N  KiB of a transfer, 1024\n"
	"  -x    scattered buffers, each page on its own; otherwise of huge pages\n"
	"  -p    each thread stays on one CPU\n"
	"  -f N  first touch N MiB and give back every second page\n"
	"  -i N  seconds of rest before the first round, 2\n"
	"  -t N  seconds of a round, 30; each thread makes one transfer at least\n"
	"  -n N  rounds, 1\n"
	"  -e N  seconds from the start of a round to the next\n"
	"  -g N  seconds that a round may last longer before it counts as hung, 120\n";

/* The most of its disk that a thread uses. */
#define PART_BYTES	(64 * MIB)

static struct {
	int kinds[4];
	size_t bytes;
	size_t fragment_bytes;
	bool scattered;
	bool bound;
	int rest_s;
	int round_s;
	int rounds;
	int every_s;
	int grace_s;
} options = {
	.bytes = MIB,
	.rest_s = 2,
	.round_s = 30,
	.rounds = 1,
	.grace_s = 120,
};

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

void die(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "burst: ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	_exit(2);
}

static long parse_number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (!*text || *end || value < 0 || value > 1 << 20)
		die("%s is not a number that makes sense", text);
	return value;
}

static void parse(int argc, char **argv)
{
	static const char kinds[] = "rwRW";
	int option;

	while ((option = getopt(argc, argv, "r:w:R:W:s:f:i:t:n:e:g:xp")) >= 0) {
		switch (option) {
		case 'r':
		case 'w':
		case 'R':
		case 'W':
			options.kinds[strchr(kinds, option) - kinds] =
				parse_number(optarg);
			break;
		case 's':
			options.bytes = parse_number(optarg) * KIB;
			break;
		case 'f':
			options.fragment_bytes = parse_number(optarg) * MIB;
			break;
		case 'i':
			options.rest_s = parse_number(optarg);
			break;
		case 't':
			options.round_s = parse_number(optarg);
			break;
		case 'n':
			options.rounds = parse_number(optarg);
			break;
		case 'e':
			options.every_s = parse_number(optarg);
			break;
		case 'g':
			options.grace_s = parse_number(optarg);
			break;
		case 'x':
			options.scattered = true;
			break;
		case 'p':
			options.bound = true;
			break;
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}
	if (!options.bytes || options.bytes % PAGE_BYTES)
		die("a transfer has whole pages");
}

static struct disk *open_disks(char **paths, int count)
{
	struct disk *disks = calloc(count + 1, sizeof(*disks));
	int d;

	for (d = 0; disks && d < count; d++) {
		int fd = open(paths[d], O_RDONLY);

		disks[d].path = paths[d];
		if (fd < 0 || ioctl(fd, BLKGETSIZE64, &disks[d].bytes))
			die("%s: %s", paths[d], strerror(errno));
		close(fd);
	}
	return disks;
}

static struct worker *make_workers(const struct disk *disks, int disk_count,
				   int count)
{
	struct worker *workers = calloc(count + 1, sizeof(*workers));
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int kind = 0, left = options.kinds[0], w, each;

	if (!workers || (count && !disk_count))
		die(workers ? "which disks?" : "no memory");
	each = disk_count ? (count + disk_count - 1) / disk_count : 0;
	for (w = 0; w < count; w++) {
		struct worker *worker = &workers[w];
		uint64_t length;

		while (!left)
			left = options.kinds[++kind];
		left--;
		worker->writes = kind % 2;
		worker->direct = kind < 2;
		worker->disk = &disks[w % disk_count];
		length = worker->disk->bytes / each;
		if (length > PART_BYTES)
			length = PART_BYTES;
		worker->length = length / options.bytes * options.bytes;
		if (!worker->length)
			die("%s is too small", worker->disk->path);
		worker->start = w / disk_count * worker->length;
		worker->cpu = options.bound ? w % cpus : -1;
	}
	return workers;
}

static void report_round(int round, int64_t start_ms,
			 const struct worker *workers, int count)
{
	int w;

	printf("round %d start %lld\n", round, (long long)start_ms);
	for (w = 0; w < count; w++)
		printf("worker %d %d %c%c %lld %llu %llu %d\n", round, w,
		       workers[w].direct ? 'd' : 'b',
		       workers[w].writes ? 'w' : 'r',
		       (long long)workers[w].first_ms,
		       (unsigned long long)workers[w].transfers,
		       (unsigned long long)workers[w].errors,
		       workers[w].error);
}

/* Returns whether all workers have come to an end. */
static bool run_round(int round, const struct worker *workers, int count)
{
	int64_t start_ms = now_ms(), hung_ms, next_ms;
	int busy;

	begin_round(options.round_s);
	hung_ms = start_ms + (options.round_s + options.grace_s) * 1000LL;
	next_ms = start_ms + options.round_s * 1000LL;
	while (((busy = workers_busy()) && now_ms() < hung_ms) ||
	       now_ms() < next_ms)
		usleep(10000);
	report_round(round, start_ms, workers, count);
	if (busy) {
		printf("hung %d\n", busy);
		return false;
	}
	if (round + 1 < options.rounds) {
		next_ms = start_ms + options.every_s * 1000LL;
		while (now_ms() < next_ms)
			usleep(10000);
	}
	return true;
}

int main(int argc, char **argv)
{
	struct worker *workers;
	struct disk *disks;
	int disk_count, count = 0, i;
	bool ended = true;

	parse(argc, argv);
	disk_count = argc - optind;
	disks = open_disks(argv + optind, disk_count);
	for (i = 0; i < 4; i++)
		count += options.kinds[i];
	workers = make_workers(disks, disk_count, count);

	printf("began %lld\n", (long long)now_ms());
	show_free_memory("before");
	if (!options.scattered)
		make_buffers(workers, count, options.bytes, false);
	if (options.fragment_bytes)
		fragment(options.fragment_bytes);
	if (options.scattered)
		make_buffers(workers, count, options.bytes, true);
	show_free_memory("after");

	start_workers(workers, count, options.bytes);
	sleep(options.rest_s);
	start_sampler(disks, disk_count);
	usleep(300000);
	for (i = 0; i < options.rounds && ended; i++)
		ended = run_round(i, workers, count);
	stop_sampler();
	printf("ended %lld\n", (long long)now_ms());
	fflush(stdout);
	/* A worker that hangs would keep exit() from coming to an end. */
	_exit(ended ? 0 : 1);
}
