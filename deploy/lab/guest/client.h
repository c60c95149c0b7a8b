/*
 * What the lab's workloads in C share: the ioctls of a LUO session, a connection to the broker that
 * carries lines and descriptors, and a memory whose every byte follows from its header. Nothing of the
 * product is in here; each program speaks the protocol for itself.
 *
 * Source of the ioctls: include/uapi/linux/liveupdate.h of Linux 7.2, spelled out because no Debian
 * release's headers have them yet.
 */
#ifndef LAB_CLIENT_H
#define LAB_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

/* -- sessions ---------------------------------------------------------------------------------- */

#define SESSION_PRESERVE_FD _IO(0xBA, 0x40)
#define SESSION_RETRIEVE_FD _IO(0xBA, 0x41)
#define SESSION_FINISH _IO(0xBA, 0x42)
#define TOKEN 7 /* any: a session is one workload's own */

struct session_fd {
	uint32_t size;
	int32_t fd;
	uint64_t token;
};

struct session_finish {
	uint32_t size;
	uint32_t reserved;
};

static inline int session_preserve(int session, int fd)
{
	struct session_fd words = { sizeof(words), fd, TOKEN };

	return ioctl(session, SESSION_PRESERVE_FD, &words);
}

static inline int session_retrieve(int session)
{
	struct session_fd words = { sizeof(words), -1, TOKEN };

	return ioctl(session, SESSION_RETRIEVE_FD, &words) ? -1 : words.fd;
}

static inline int session_finish(int session)
{
	struct session_finish words = { sizeof(words), 0 };

	return ioctl(session, SESSION_FINISH, &words);
}

/* -- clocks ------------------------------------------------------------------------------------ */

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* -- the log: one JSON object a line, to a file that outlives the boot, and to stdout ------------ */

static FILE *log_file;

__attribute__((format(printf, 1, 2))) static inline void report(const char *format, ...)
{
	FILE *to[] = { stdout, log_file };

	for (int i = 0; i < 2; i++) {
		va_list values;

		if (!to[i])
			continue;
		va_start(values, format);
		vfprintf(to[i], format, values);
		va_end(values);
		fputc('\n', to[i]);
		fflush(to[i]);
	}
}

/* -- memory ------------------------------------------------------------------------------------ */

#define PAGE 4096ull
#define MAGIC 0x4c41424d454d3031ull /* a session may hold something that is not ours */

/* Page 0. Tick n writes n into the first word of body page n mod pages; all else is the pattern. */
struct header {
	uint64_t magic, seed, pages, ticks, suspended;
	uint64_t tsc, hz, boottime_ns; /* at the last suspend */
	char boot_id[40];
};

struct memory {
	int fd;
	struct header *header;
};

static inline uint64_t pattern(uint64_t seed, uint64_t word)
{
	uint64_t x = seed + word * 0x9e3779b97f4a7c15ull; /* splitmix64 */

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline uint64_t *body(struct memory *memory, uint64_t page)
{
	return (uint64_t *)((char *)memory->header + (page + 1) * PAGE);
}

static inline int memory_map(struct memory *memory, int fd)
{
	struct stat facts;
	void *at;

	if (fstat(fd, &facts) || facts.st_size < (off_t)(2 * PAGE))
		return -1;
	at = mmap(NULL, facts.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -1;
	memory->fd = fd;
	memory->header = at;
	return 0;
}

static inline int memory_create(struct memory *memory, uint64_t mib, uint64_t seed)
{
	uint64_t pages = mib * 1024 * 1024 / PAGE - 1;
	int fd = memfd_create("guest", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (pages + 1) * PAGE) || memory_map(memory, fd))
		return -1;
	for (uint64_t page = 0; page < pages; page++) {
		uint64_t *words = body(memory, page);

		words[0] = 0;
		for (uint64_t i = 1; i < PAGE / 8; i++)
			words[i] = pattern(seed, page * (PAGE / 8) + i);
	}
	memory->header->seed = seed;
	memory->header->pages = pages;
	memory->header->magic = MAGIC;
	return 0;
}

static inline int memory_attach(struct memory *memory, int fd)
{
	struct stat facts;

	if (memory_map(memory, fd))
		return -1;
	fstat(fd, &facts);
	if (memory->header->magic == MAGIC && (off_t)((memory->header->pages + 1) * PAGE) == facts.st_size)
		return 0;
	errno = EBADMSG;
	return -1;
}

static inline void memory_tick(struct memory *memory)
{
	uint64_t tick = memory->header->ticks + 1;

	body(memory, tick % memory->header->pages)[0] = tick;
	memory->header->ticks = tick;
}

/* 1 if every byte is what the header says, else 0. */
static inline int memory_verify(struct memory *memory)
{
	uint64_t pages = memory->header->pages, ticks = memory->header->ticks, seed = memory->header->seed;

	for (uint64_t page = 0; page < pages; page++) {
		uint64_t *words = body(memory, page), back = (ticks % pages + pages - page) % pages;

		if (words[0] != (ticks >= back ? ticks - back : 0))
			return 0;
		for (uint64_t i = 1; i < PAGE / 8; i++)
			if (words[i] != pattern(seed, page * (PAGE / 8) + i))
				return 0;
	}
	return 1;
}

/* -- the connection ----------------------------------------------------------------------------- */

struct line {
	char text[4096];
	int fd; /* that came with it, or before it and was not taken; -1 if none */
};

struct wire {
	int socket; /* -1 while there is no connection */
	int fd;
	size_t filled;
	char buffer[4096];
};

static inline void wire_close(struct wire *wire)
{
	if (wire->socket >= 0)
		close(wire->socket);
	if (wire->fd >= 0)
		close(wire->fd);
	wire->socket = wire->fd = -1;
	wire->filled = 0;
}

/* Until the broker is there: it starts later than we do, and after a kexec every moment counts. */
static inline void wire_connect(struct wire *wire, const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	useconds_t wait_us = 1000;

	strncpy(to.sun_path, path, sizeof(to.sun_path) - 1);
	wire_close(wire);
	for (;;) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (!connect(fd, (struct sockaddr *)&to, sizeof(to))) {
			wire->socket = fd;
			return;
		}
		close(fd);
		usleep(wait_us);
		if (wait_us < 100000)
			wait_us *= 2;
	}
}

__attribute__((format(printf, 2, 3))) static inline void wire_send(struct wire *wire, const char *format, ...)
{
	char text[1024];
	va_list values;
	int size;

	va_start(values, format);
	size = vsnprintf(text, sizeof(text) - 1, format, values);
	va_end(values);
	text[size++] = '\n';
	/* A lost connection shows at the next read. */
	if (wire->socket >= 0 && send(wire->socket, text, size, MSG_NOSIGNAL) != size)
		return;
}

/* 1 with a line, 0 after timeout_ms (-1: no limit) without one, -1 if the connection is gone. */
static inline int wire_line(struct wire *wire, struct line *line, int timeout_ms)
{
	for (;;) {
		char *end = memchr(wire->buffer, '\n', wire->filled);

		if (end) {
			size_t size = end - wire->buffer;

			memcpy(line->text, wire->buffer, size);
			line->text[size] = 0;
			wire->filled -= size + 1;
			memmove(wire->buffer, end + 1, wire->filled);
			line->fd = wire->fd;
			wire->fd = -1;
			return 1;
		}
		if (wire->filled == sizeof(wire->buffer))
			return -1;

		struct pollfd ready = { .fd = wire->socket, .events = POLLIN };
		int count = poll(&ready, 1, timeout_ms);

		if (count == 0)
			return 0;

		char room[CMSG_SPACE(sizeof(int))];
		struct iovec into = { wire->buffer + wire->filled, sizeof(wire->buffer) - wire->filled };
		struct msghdr message = {
			.msg_iov = &into, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)
		};
		ssize_t got = recvmsg(wire->socket, &message, MSG_CMSG_CLOEXEC);

		if (got <= 0)
			return -1;
		wire->filled += got;

		struct cmsghdr *extra = CMSG_FIRSTHDR(&message);

		if (extra && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS) {
			if (wire->fd >= 0)
				close(wire->fd);
			memcpy(&wire->fd, CMSG_DATA(extra), sizeof(int));
		}
	}
}

/* The string under `key` in a flat JSON object, into `value`; "" if there is none. */
static inline void json_string(const char *text, const char *key, char *value, size_t size)
{
	char quoted[64];
	const char *at;
	size_t used = 0;

	snprintf(quoted, sizeof(quoted), "\"%s\"", key);
	at = strstr(text, quoted);
	if (at)
		at = strchr(at + strlen(quoted), '"');
	for (at = at ? at + 1 : ""; *at && *at != '"' && used + 1 < size; at++)
		value[used++] = *at;
	value[used] = 0;
}

static inline int event_is(const struct line *line, const char *name)
{
	char event[64];

	json_string(line->text, "event", event, sizeof(event));
	return !strcmp(event, name);
}

#endif
