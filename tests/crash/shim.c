/* Records what a process does to the files below one directory, and makes chosen operations fail.
 *
 * Preloaded (LD_PRELOAD); what it is for and how to use it stands at the top of shim.py, which also reads the log.
 * Every hook ends in a raw system call, so nothing here depends on which libc function a caller went through, and no
 * hook calls another. A call on a file below the root and its entry in the log happen under one lock: a mutex for the
 * threads of a process, a POSIX record lock on the log for the processes (flock would not tell a process from its
 * fork). So the order of the log is the order of execution. Calls on anything else are passed on without the lock,
 * since they may block for as long as a peer likes. 64-bit Linux only: there each offset is one argument.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if !defined(__linux__) || !defined(__LP64__)
#error "only 64-bit Linux"
#endif

#define EXPORT __attribute__((visibility("default")))

enum { OPEN = 1, WRITE, TRUNCATE, ALLOCATE, SYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR, CLOSE, MARK, MAP };
enum { NO_FAULT = 0, F_ENOSPC, F_EIO, F_EINTR, F_EMFILE, F_SHORT, F_SYNC };
enum { CREATED = 1 << 30, DATA_ONLY = 1 << 29, DIRECTORY = 1 << 28 }; /* in `flags`, beside what the caller passed */

struct entry {
  uint32_t size;
  uint8_t op, fault;
  uint16_t path_length, other_length, unused;
  int32_t pid, error;
  int64_t result;
  uint64_t device, inode, other_inode, directory, other_directory;
  int64_t offset, length;
  uint32_t flags, data_length;
};

struct place { /* a directory entry below the root */
  char path[PATH_MAX], parent[PATH_MAX];
  uint64_t directory;
  struct stat found;
  int exists;
};

enum { UNKNOWN = 0, OUTSIDE, INSIDE };
#define FDS 65536
static struct descriptor { dev_t device; ino_t inode; int state, is_directory; char *path; } fds[FDS];

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static long armed_at, armed_kind, armed_sticky, counted, fitting, fired;

static void record_lock(int type) {
  struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
  if (log_fd >= 0)
    while (syscall(SYS_fcntl, log_fd, F_SETLKW, &lock) < 0 && errno == EINTR) {
    }
}

static void enter(void) { pthread_mutex_lock(&mutex); record_lock(F_WRLCK); }
static void leave(void) { int saved = errno; record_lock(F_UNLCK); pthread_mutex_unlock(&mutex); errno = saved; }
static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void after_fork(void) { pthread_mutex_unlock(&mutex); }

EXPORT void shim_arm(long at, int kind, int sticky) {
  pthread_mutex_lock(&mutex);
  armed_at = at, armed_kind = kind, armed_sticky = sticky, counted = fitting = fired = 0;
  pthread_mutex_unlock(&mutex);
}
EXPORT void shim_disarm(void) {
  pthread_mutex_lock(&mutex);
  armed_kind = NO_FAULT;
  pthread_mutex_unlock(&mutex);
}
EXPORT long shim_count(void) { return counted; }
EXPORT long shim_fitting(void) { return fitting; }
EXPORT long shim_fired(void) { return fired; }

/* Begin to look below a root, once in the life of a process; `log` may be absent. */
EXPORT void shim_begin(const char *wanted, const char *log) {
  char found[PATH_MAX];
  if (!realpath(wanted, found)) { fprintf(stderr, "shim: the root %s cannot be found\n", wanted); _exit(99); }
  if (log) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int high = fd < 0 ? -1 : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900); /* out of the way of other numbers */
    if (high >= 0) syscall(SYS_close, fd);
    log_fd = high >= 0 ? high : fd;
    if (log_fd < 0) { fprintf(stderr, "shim: the log %s cannot be opened\n", log); _exit(99); }
  }
  memcpy(root, found, sizeof root);
  root_length = strlen(root);
}

__attribute__((constructor)) static void start(void) {
  const char *wanted = getenv("CRASH_SHIM_ROOT"), *log = getenv("CRASH_SHIM_LOG"), *fault = getenv("CRASH_SHIM_FAULT");
  pthread_atfork(before_fork, after_fork, after_fork);
  if (wanted) shim_begin(wanted, log);
  if (fault) {
    int kind = 0, sticky = 0;
    long at = 0;
    if (sscanf(fault, "%ld,%d,%d", &at, &kind, &sticky) != 3) { fprintf(stderr, "shim: bad fault\n"); _exit(99); }
    shim_arm(at, kind, sticky);
  }
}

static int below_root(const char *path) {
  return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}
static const char *relative(const char *path) { return path[root_length] ? path + root_length + 1 : ""; }

/* The log */

static void append(struct entry *entry, const char *path, const char *other, const struct iovec *data, int pieces,
                   size_t data_length) {
  static const char zero[1];
  struct iovec out[3 + 1024];
  int count = 3;
  if (log_fd < 0) return;
  entry->pid = (int32_t)syscall(SYS_getpid);
  entry->path_length = path ? (uint16_t)strlen(path) : 0;
  entry->other_length = other ? (uint16_t)strlen(other) : 0;
  entry->data_length = (uint32_t)data_length;
  entry->size = (uint32_t)(sizeof *entry + entry->path_length + entry->other_length + data_length);
  out[0] = (struct iovec){entry, sizeof *entry};
  out[1] = (struct iovec){(void *)(path ? path : zero), entry->path_length};
  out[2] = (struct iovec){(void *)(other ? other : zero), entry->other_length};
  for (int i = 0; i < pieces && data_length; i++) {
    size_t part = data[i].iov_len < data_length ? data[i].iov_len : data_length;
    out[count++] = (struct iovec){data[i].iov_base, part};
    data_length -= part;
  }
  for (int i = 0; i < count;) {
    int some = count - i < 512 ? count - i : 512;
    size_t wanted = 0;
    for (int j = i; j < i + some; j++) wanted += out[j].iov_len;
    if (syscall(SYS_writev, log_fd, out + i, some) != (long)wanted) {
      fprintf(stderr, "shim: the log cannot be written: %s\n", strerror(errno));
      _exit(99);
    }
    i += some;
  }
}

/* Faults: called under the lock for each operation that counts; returns the fault that befalls it */

static int can_befall(long kind, int op, int flags) {
  switch (kind) {
    case F_ENOSPC: return op != UNLINK && op != RMDIR && (op != OPEN || (flags & O_CREAT));
    case F_EIO: return 1;
    case F_EINTR: return op == OPEN || op == WRITE || op == TRUNCATE || op == ALLOCATE || op == SYNC;
    case F_EMFILE: return op == OPEN;
    case F_SHORT: return op == WRITE;
    case F_SYNC: return op == SYNC;
    default: return 0;
  }
}

static int fault_for(int op, int flags) {
  counted++;
  if (!armed_kind || !can_befall(armed_kind, op, flags)) return NO_FAULT;
  fitting++;
  if (!armed_at || (armed_sticky ? fitting < armed_at : fitting != armed_at)) return NO_FAULT;
  fired++;
  return (int)armed_kind;
}

static int error_of(int fault) {
  return fault == F_ENOSPC ? ENOSPC : fault == F_EINTR ? EINTR : fault == F_EMFILE ? EMFILE : EIO;
}

/* Which files are below the root */

static int locate(int at, const char *path, struct place *place) {
  char whole[PATH_MAX], base[PATH_MAX], *slash;
  struct stat parent;
  if (!root_length || !path || !*path) return 0;
  if (*path == '/') {
    if (snprintf(whole, sizeof whole, "%s", path) >= (int)sizeof whole) return 0;
  } else {
    char link[64];
    ssize_t length;
    if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    if (length <= 0) return 0;
    base[length] = 0;
    if (snprintf(whole, sizeof whole, "%s/%s", base, path) >= (int)sizeof whole) return 0;
  }
  for (size_t n = strlen(whole); n > 1 && whole[n - 1] == '/'; n--) whole[n - 1] = 0;
  slash = strrchr(whole, '/');
  if (!slash) return 0;
  *slash = 0;
  if (!realpath(*whole ? whole : "/", place->parent)) return 0;
  if (snprintf(place->path, sizeof place->path, "%s/%s", place->parent, slash + 1) >= (int)sizeof place->path) return 0;
  if (!strcmp(slash + 1, ".") && !realpath(place->parent, place->path)) return 0;
  if (!below_root(place->path) || stat(place->parent, &parent)) return 0;
  place->directory = parent.st_ino;
  return 1;
}

static void look(struct place *place) { place->exists = !lstat(place->path, &place->found); }

static void forget(int fd) {
  if (fd >= 0 && fd < FDS) { free(fds[fd].path); fds[fd] = (struct descriptor){0}; }
}

/* Under the mutex. Whether the descriptor is of a file or directory below the root; what is known is kept for as long
 * as the descriptor is of the same inode. `found` is what fstat says. */
static int is_inside(int fd, struct stat *found, const char **path) {
  static char uncached[PATH_MAX];
  char link[64], target[PATH_MAX];
  ssize_t length;
  if (path) *path = "";
  if (!root_length || fd < 0 || fstat(fd, found)) return 0;
  if (!S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode)) return 0;
  if (fd < FDS && fds[fd].state && fds[fd].device == found->st_dev && fds[fd].inode == found->st_ino) {
    if (path) *path = fds[fd].path ? fds[fd].path : "";
    return fds[fd].state == INSIDE;
  }
  forget(fd);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  length = syscall(SYS_readlinkat, AT_FDCWD, link, target, sizeof target - 1);
  if (length <= 0) return 0;
  target[length] = 0;
  int inside = below_root(target);
  if (inside) snprintf(uncached, sizeof uncached, "%s", relative(target));
  if (fd < FDS)
    fds[fd] = (struct descriptor){found->st_dev, found->st_ino, inside ? INSIDE : OUTSIDE, S_ISDIR(found->st_mode),
                                  inside ? strdup(uncached) : NULL};
  if (path && inside) *path = uncached;
  return inside;
}

/* Take the lock for a descriptor below the root; 0, without the lock, for any other. */
static int enter_for(int fd, struct stat *found, const char **path) {
  if (!root_length) return 0;
  pthread_mutex_lock(&mutex);
  if (is_inside(fd, found, path)) { record_lock(F_WRLCK); return 1; }
  pthread_mutex_unlock(&mutex);
  return 0;
}

static struct entry entry_of(int op, const struct stat *found, int fault, long result) {
  struct entry entry = {.op = (uint8_t)op, .fault = (uint8_t)fault, .result = result};
  entry.error = result < 0 ? errno : 0;
  if (found) entry.device = found->st_dev, entry.inode = found->st_ino;
  if (found && S_ISDIR(found->st_mode)) entry.flags |= DIRECTORY;
  return entry;
}

/* Opening and closing */

static int do_open(int at, const char *path, int flags, mode_t mode) {
  struct place place;
  struct stat found = {0};
  int fd = -1, fault;
  if (!locate(at, path, &place)) return (int)syscall(SYS_openat, at, path, flags, mode);
  enter();
  look(&place);
  fault = fault_for(OPEN, place.exists ? flags & ~O_CREAT : flags); /* only making a file takes room */
  if (fault) errno = error_of(fault);
  else fd = (int)syscall(SYS_openat, at, path, flags, mode);
  struct entry entry = entry_of(OPEN, NULL, fault, fd);
  if (fd >= 0 && !fstat(fd, &found)) {
    forget(fd);
    entry = entry_of(OPEN, &found, fault, fd);
    if (fd < FDS && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)))
      fds[fd] = (struct descriptor){found.st_dev, found.st_ino, INSIDE, S_ISDIR(found.st_mode),
                                    strdup(relative(place.path))};
  }
  entry.flags |= (uint32_t)(flags & 0x0fffffff) | (fd >= 0 && !place.exists ? CREATED : 0);
  entry.directory = place.directory;
  entry.offset = mode;
  entry.length = place.exists ? place.found.st_size : -1;
  append(&entry, relative(place.path), NULL, NULL, 0, 0);
  leave();
  return fd;
}

#define OPEN_MODE                                                    \
  mode_t mode = 0;                                                   \
  if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {         \
    va_list list;                                                    \
    va_start(list, flags);                                           \
    mode = (mode_t)va_arg(list, int);                                \
    va_end(list);                                                    \
  }
EXPORT int open(const char *path, int flags, ...) { OPEN_MODE return do_open(AT_FDCWD, path, flags, mode); }
EXPORT int open64(const char *path, int flags, ...) { OPEN_MODE return do_open(AT_FDCWD, path, flags, mode); }
EXPORT int openat(int at, const char *path, int flags, ...) { OPEN_MODE return do_open(at, path, flags, mode); }
EXPORT int openat64(int at, const char *path, int flags, ...) { OPEN_MODE return do_open(at, path, flags, mode); }
EXPORT int __open_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
EXPORT int __openat_2(int at, const char *path, int flags) { return do_open(at, path, flags, 0); }
EXPORT int __openat64_2(int at, const char *path, int flags) { return do_open(at, path, flags, 0); }
EXPORT int creat(const char *path, mode_t mode) {
  return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode) {
  return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int close(int fd) {
  struct stat found;
  const char *path;
  int result;
  if (fd == log_fd && fd >= 0) { errno = EBADF; return -1; }
  if (!enter_for(fd, &found, &path)) return (int)syscall(SYS_close, fd);
  result = (int)syscall(SYS_close, fd);
  struct entry entry = entry_of(CLOSE, &found, 0, result);
  entry.length = fd;
  append(&entry, path, NULL, NULL, 0, 0);
  forget(fd);
  leave();
  return result;
}

/* Writing */

static ssize_t raw_write(int fd, const struct iovec *pieces, int count, off_t offset) {
  if (offset < 0) return syscall(SYS_writev, fd, pieces, count);
  return syscall(SYS_pwritev, fd, pieces, count, offset, 0L);
}

/* `offset` -1: at the descriptor's position. A short write takes half of what was asked for, a byte at least. */
static ssize_t do_write(int fd, const struct iovec *pieces, int count, off_t offset) {
  struct stat found;
  const char *path;
  size_t total = 0, half;
  ssize_t result = -1;
  int fault;
  if (!enter_for(fd, &found, &path)) return raw_write(fd, pieces, count, offset);
  fault = fault_for(WRITE, 0);
  for (int i = 0; i < count; i++) total += pieces[i].iov_len;
  if (fault == F_SHORT && total > 1) {
    struct iovec some[1024];
    int used = 0;
    half = total / 2;
    for (int i = 0; i < count && half; i++) {
      some[used] = pieces[i];
      if (some[used].iov_len > half) some[used].iov_len = half;
      half -= some[used++].iov_len;
    }
    result = raw_write(fd, some, used, offset);
  } else if (fault && fault != F_SHORT) {
    errno = error_of(fault);
  } else {
    result = raw_write(fd, pieces, count, offset);
  }
  struct entry entry = entry_of(WRITE, &found, fault, result);
  entry.offset = offset >= 0 ? offset : (result > 0 ? lseek(fd, 0, SEEK_CUR) - result : -1);
  entry.length = (int64_t)total;
  append(&entry, path, NULL, pieces, count, result > 0 ? (size_t)result : 0);
  leave();
  return result;
}

EXPORT ssize_t write(int fd, const void *data, size_t size) {
  struct iovec piece = {(void *)data, size};
  return do_write(fd, &piece, 1, -1);
}
EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  struct iovec piece = {(void *)data, size};
  if (offset < 0) { errno = EINVAL; return -1; }
  return do_write(fd, &piece, 1, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return pwrite(fd, data, size, offset); }
EXPORT ssize_t writev(int fd, const struct iovec *pieces, int count) {
  if (count < 0 || count > 1024) { errno = EINVAL; return -1; }
  return do_write(fd, pieces, count, -1);
}
EXPORT ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
  if (count < 0 || count > 1024 || offset < 0) { errno = EINVAL; return -1; }
  return do_write(fd, pieces, count, offset);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off_t offset) {
  return pwritev(fd, pieces, count, offset);
}
EXPORT ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
  struct stat found;
  if (flags) { /* never used by what is recorded here; a record without its flags would be wrong */
    pthread_mutex_lock(&mutex);
    int inside = is_inside(fd, &found, NULL);
    pthread_mutex_unlock(&mutex);
    if (inside) { errno = EOPNOTSUPP; return -1; }
    return syscall(SYS_pwritev2, fd, pieces, count, offset, 0L, flags);
  }
  return offset < 0 ? writev(fd, pieces, count) : pwritev(fd, pieces, count, offset);
}
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
  return pwritev2(fd, pieces, count, offset, flags);
}

/* Copies within the kernel would escape the log: below the root callers are sent to their fallback of read and write. */
static int is_below(int fd) {
  struct stat found;
  pthread_mutex_lock(&mutex);
  int inside = is_inside(fd, &found, NULL);
  pthread_mutex_unlock(&mutex);
  return inside;
}
EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
  if (is_below(out)) { errno = ENOTSOCK; return -1; }
  return syscall(SYS_sendfile, out, in, offset, count);
}
EXPORT ssize_t sendfile64(int out, int in, off_t *offset, size_t count) { return sendfile(out, in, offset, count); }
EXPORT ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t count, unsigned flags) {
  if (is_below(out)) { errno = EXDEV; return -1; }
  return syscall(SYS_copy_file_range, in, from, out, to, count, flags);
}

/* Lengths */

static int do_length(int op, int fd, int mode, off_t offset, off_t length) {
  struct stat found;
  const char *path;
  int result = -1, fault;
  if (!enter_for(fd, &found, &path))
    return (int)(op == TRUNCATE ? syscall(SYS_ftruncate, fd, length) : syscall(SYS_fallocate, fd, mode, offset, length));
  fault = fault_for(op, 0);
  if (fault) errno = error_of(fault);
  else if (op == TRUNCATE) result = (int)syscall(SYS_ftruncate, fd, length);
  else result = (int)syscall(SYS_fallocate, fd, mode, offset, length);
  struct entry entry = entry_of(op, &found, fault, result);
  entry.offset = offset, entry.length = length, entry.flags |= (uint32_t)mode;
  append(&entry, path, NULL, NULL, 0, 0);
  leave();
  return result;
}
EXPORT int ftruncate(int fd, off_t length) { return do_length(TRUNCATE, fd, 0, 0, length); }
EXPORT int ftruncate64(int fd, off_t length) { return do_length(TRUNCATE, fd, 0, 0, length); }
EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
  return do_length(ALLOCATE, fd, mode, offset, length);
}
EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length) {
  return do_length(ALLOCATE, fd, mode, offset, length);
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
  int saved = errno, result = do_length(ALLOCATE, fd, 0, offset, length) ? errno : 0;
  errno = saved;
  return result;
}
EXPORT int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }
EXPORT int truncate(const char *path, off_t length) {
  struct place place;
  int result, fd;
  if (!locate(AT_FDCWD, path, &place)) return (int)syscall(SYS_truncate, path, length);
  fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  result = do_length(TRUNCATE, fd, 0, 0, length);
  int saved = errno;
  syscall(SYS_close, fd);
  errno = saved;
  return result;
}
EXPORT int truncate64(const char *path, off_t length) { return truncate(path, length); }

/* Syncing */

static int do_sync(int fd, int data_only) {
  struct stat found;
  const char *path;
  int result = -1, fault, number = data_only ? SYS_fdatasync : SYS_fsync;
  if (!enter_for(fd, &found, &path)) return (int)syscall(number, fd);
  fault = fault_for(SYNC, 0);
  if (fault) errno = error_of(fault);
  else result = (int)syscall(number, fd);
  struct entry entry = entry_of(SYNC, &found, fault, result);
  entry.flags |= data_only ? DATA_ONLY : 0;
  append(&entry, path, NULL, NULL, 0, 0);
  leave();
  return result;
}
EXPORT int fsync(int fd) { return do_sync(fd, 0); }
EXPORT int fdatasync(int fd) { return do_sync(fd, 1); }

/* Names */

static int do_pair(int op, int at, const char *path, int other_at, const char *other, int flags) {
  static const int numbers[] = {[RENAME] = SYS_renameat2, [LINK] = SYS_linkat};
  struct place from, to;
  int result = -1, fault, inside = locate(other_at, other, &to), from_inside = locate(at, path, &from);
  if (!inside && !from_inside) return (int)syscall(numbers[op], at, path, other_at, other, flags);
  if (inside != from_inside) { errno = EXDEV; return -1; } /* as if the root were a file system of its own */
  enter();
  look(&from), look(&to);
  fault = fault_for(op, 0);
  if (fault) errno = error_of(fault);
  else result = (int)syscall(numbers[op], at, path, other_at, other, flags);
  struct entry entry = entry_of(op, from.exists ? &from.found : NULL, fault, result);
  entry.directory = from.directory, entry.other_directory = to.directory;
  entry.other_inode = to.exists ? to.found.st_ino : 0;
  append(&entry, relative(from.path), relative(to.path), NULL, 0, 0);
  leave();
  return result;
}
EXPORT int rename(const char *path, const char *other) { return do_pair(RENAME, AT_FDCWD, path, AT_FDCWD, other, 0); }
EXPORT int renameat(int at, const char *path, int other_at, const char *other) {
  return do_pair(RENAME, at, path, other_at, other, 0);
}
EXPORT int renameat2(int at, const char *path, int other_at, const char *other, unsigned flags) {
  return do_pair(RENAME, at, path, other_at, other, (int)flags);
}
EXPORT int link(const char *path, const char *other) { return do_pair(LINK, AT_FDCWD, path, AT_FDCWD, other, 0); }
EXPORT int linkat(int at, const char *path, int other_at, const char *other, int flags) {
  return do_pair(LINK, at, path, other_at, other, flags);
}

/* op: UNLINK, RMDIR or MKDIR; `detail` is the flags of unlinkat or the mode of mkdirat */
static int do_name(int op, int at, const char *path, int detail) {
  struct place place;
  int result = -1, fault, number = op == MKDIR ? SYS_mkdirat : SYS_unlinkat;
  if (!locate(at, path, &place)) return (int)syscall(number, at, path, detail);
  enter();
  look(&place);
  fault = fault_for(op, 0);
  if (fault) errno = error_of(fault);
  else result = (int)syscall(number, at, path, detail);
  int error = errno;
  if (op == MKDIR && !result) look(&place);
  errno = error;
  struct entry entry = entry_of(op, place.exists ? &place.found : NULL, fault, result);
  entry.directory = place.directory, entry.offset = op == MKDIR ? detail : 0;
  append(&entry, relative(place.path), NULL, NULL, 0, 0);
  leave();
  return result;
}
EXPORT int unlink(const char *path) { return do_name(UNLINK, AT_FDCWD, path, 0); }
EXPORT int unlinkat(int at, const char *path, int flags) {
  return do_name(flags & AT_REMOVEDIR ? RMDIR : UNLINK, at, path, flags);
}
EXPORT int rmdir(const char *path) { return do_name(RMDIR, AT_FDCWD, path, AT_REMOVEDIR); }
EXPORT int remove(const char *path) {
  struct stat found;
  if (lstat(path, &found)) return -1;
  return S_ISDIR(found.st_mode) ? rmdir(path) : unlink(path);
}
EXPORT int mkdir(const char *path, mode_t mode) { return do_name(MKDIR, AT_FDCWD, path, (int)mode); }
EXPORT int mkdirat(int at, const char *path, mode_t mode) { return do_name(MKDIR, at, path, (int)mode); }

/* Memory that writes through to a file is not seen; that there is any is. */

static void *do_map(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  void *result = (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
  struct stat found;
  const char *path;
  if (result == MAP_FAILED || !root_length || fd < 0 || !(protection & PROT_WRITE)) return result;
  if ((flags & MAP_TYPE) == MAP_PRIVATE || !enter_for(fd, &found, &path)) return result;
  struct entry entry = entry_of(MAP, &found, 0, 0);
  entry.offset = offset, entry.length = (int64_t)length;
  append(&entry, path, NULL, NULL, 0, 0);
  leave();
  return result;
}
EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  return do_map(address, length, protection, flags, fd, offset);
}
EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  return do_map(address, length, protection, flags, fd, offset);
}

/* Put a text into the log, in order with all else that stands there. */
EXPORT void shim_mark(const char *text) {
  if (log_fd < 0) return;
  struct iovec piece = {(void *)text, strlen(text)};
  struct entry entry = {.op = MARK};
  enter();
  append(&entry, NULL, NULL, &piece, 1, piece.iov_len);
  leave();
}
