/* Adds the seconds in the file BENT_SECONDS to the time of day of a program that loads
 * this before libc. Timers, which run on the monotonic clock, stay as they are. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

__attribute__((constructor)) static void load(void) {
	const char *path = getenv("BENT_SECONDS");
	int fd = path ? open(path, O_RDONLY) : -1;
	if (fd < 0)
		return;
	void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (page != MAP_FAILED)
		ahead = page;
}

int clock_gettime(clockid_t clock, struct timespec *ts) {
	int res = syscall(SYS_clock_gettime, clock, ts);
	if (res == 0 && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		ts->tv_sec += *ahead;
	return res;
}

int gettimeofday(struct timeval *tv, void *zone) {
	struct timespec ts;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *out) {
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (out)
		*out = ts.tv_sec;
	return ts.tv_sec;
}
