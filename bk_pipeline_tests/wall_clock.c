/* A wall clock that is off by WALL_CLOCK_SHIFT_S seconds, for LD_PRELOAD: see `make test-any-day`.

   Only what tells the date is shifted: no monotonic clock, and no wait. (Debian's faketime makes
   time.sleep fail or hang: Python waits with an absolute clock_nanosleep.) The times of files are
   shifted too, so that a file's age stays its age. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long shift(void) {
	const char *seconds = getenv("WALL_CLOCK_SHIFT_S");
	return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t id, struct timespec *now) {
	static __typeof__(&clock_gettime) real;
	if (!real) real = REAL(clock_gettime);
	int status = real(id, now);
	if (status == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
	return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
	(void)zone;
	struct timespec exact;
	int status = clock_gettime(CLOCK_REALTIME, &exact);
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return status;
}

time_t time(time_t *now) {
	struct timespec exact;
	clock_gettime(CLOCK_REALTIME, &exact);
	if (now) *now = exact.tv_sec;
	return exact.tv_sec;
}

/* Its deadline was made with the shifted clock. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline) {
	struct timespec due = *deadline;
	due.tv_sec -= shift();
	return REAL(sem_timedwait)(semaphore, &due);
}

static int shifted(int status, struct stat *file) {
	if (status == 0) {
		file->st_atim.tv_sec += shift();
		file->st_mtim.tv_sec += shift();
		file->st_ctim.tv_sec += shift();
	}
	return status;
}

/* Programs for large files call the second name of each; the structures are the same. */
#define SHIFTED_STAT(suffix)                                                                      \
	int stat##suffix(const char *restrict path, struct stat##suffix *restrict file) {             \
		return shifted(REAL(stat##suffix)(path, file), (struct stat *)file);                      \
	}                                                                                             \
	int lstat##suffix(const char *restrict path, struct stat##suffix *restrict file) {            \
		return shifted(REAL(lstat##suffix)(path, file), (struct stat *)file);                     \
	}                                                                                             \
	int fstat##suffix(int fd, struct stat##suffix *file) {                                        \
		return shifted(REAL(fstat##suffix)(fd, file), (struct stat *)file);                       \
	}                                                                                             \
	int fstatat##suffix(                                                                          \
		int folder, const char *restrict path, struct stat##suffix *restrict file, int flags) {   \
		return shifted(REAL(fstatat##suffix)(folder, path, file, flags), (struct stat *)file);    \
	}
SHIFTED_STAT()
SHIFTED_STAT(64)

/* What wheels call that were built for glibc before 2.33, pyarrow's among them. */
#define SHIFTED_XSTAT(name, type)                                                                 \
	int name(int version, type where, struct stat *file) {                                        \
		int (*real)(int, type, struct stat *) =                                                   \
			(int (*)(int, type, struct stat *))dlsym(RTLD_NEXT, #name);                           \
		return shifted(real(version, where, file), file);                                         \
	}
SHIFTED_XSTAT(__xstat, const char *)
SHIFTED_XSTAT(__xstat64, const char *)
SHIFTED_XSTAT(__lxstat, const char *)
SHIFTED_XSTAT(__lxstat64, const char *)
SHIFTED_XSTAT(__fxstat, int)
SHIFTED_XSTAT(__fxstat64, int)

static const struct timespec *unshifted(const struct timespec given[2], struct timespec real[2]) {
	if (!given) return NULL;
	for (int n = 0; n < 2; n++) {
		real[n] = given[n];
		if (given[n].tv_nsec != UTIME_NOW && given[n].tv_nsec != UTIME_OMIT) real[n].tv_sec -= shift();
	}
	return real;
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
	struct timespec real[2];
	return REAL(utimensat)(folder, path, unshifted(times, real), flags);
}

int futimens(int fd, const struct timespec times[2]) {
	struct timespec real[2];
	return REAL(futimens)(fd, unshifted(times, real));
}
