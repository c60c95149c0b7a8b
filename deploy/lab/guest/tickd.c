/*
 * tickd: a workload in C that is suspended and resumed, and measures its own pause.
 *
 *   tickd [--fault F] SOCKET ID MIB LOG
 *
 * F is one of never-ready (hears START_PRESERVATION and says nothing), die-after-ready, unpreservable (offers
 * a pipe), damage (flips a byte after it was resumed, before it is compared). It speaks luo-agent's protocol with
 * the extension "suspend" (node_agent/workloads/protocol.py). The pause goes from the SUSPEND that it heard to the
 * RESUME: within one boot by CLOCK_BOOTTIME, over a kexec by the TSC at the rate measured before it. LOG gets a
 * JSON object a line: fresh, claimed, preserved, suspended, resumed, released, lost, failed.
 */
#include "client.h"

#define TICK_MS 10
#define UNCERTAINTY_S 1e-4	   /* two clocks of one reading are this far apart at worst */
#define RELATIVE_UNCERTAINTY 1e-4 /* of a rate measured over CALIBRATION_NS or more */
#define CALIBRATION_NS 100000000ull
#define HELLO "\"id\":\"%s\",\"extensions\":[\"suspend\"]"

static const char *socket_path, *id, *fault = "";
static struct wire wire = { .socket = -1, .fd = -1 };
static struct memory memory;
static int session = -1;
static char boot_id[40];
static uint64_t first_ns, first_tsc;

static void drop_session(void)
{
	if (session >= 0)
		close(session);
	session = -1;
}

static unsigned long long ticks(void)
{
	return memory.header->ticks;
}

static uint64_t rate(uint64_t ns, uint64_t tsc)
{
	if (ns - first_ns < CALIBRATION_NS)
		return memory.header->hz;
	return (uint64_t)((tsc - first_tsc) * 1e9 / (ns - first_ns));
}

static void fail(const char *what)
{
	report("{\"event\":\"failed\",\"what\":\"%s\",\"errno\":%d}", what, errno);
	exit(1);
}

static void subscribe(void)
{
	wire_send(&wire, "{\"cmd\":\"SUBSCRIBE\"," HELLO "%s}", id,
		  memory.header->suspended ? ",\"suspended\":true" : "");
}

/* 1 if a session came through a kexec. */
static int claim(void)
{
	struct line line = { .fd = -1 };
	char reason[64];
	uint64_t ns;
	int fd;

	do {
		wire_connect(&wire, socket_path);
		wire_send(&wire, "{\"cmd\":\"CLAIM\"," HELLO "}", id);
	} while (wire_line(&wire, &line, -1) < 0);
	if (!event_is(&line, "CLAIMED")) {
		json_string(line.text, "reason", reason, sizeof(reason));
		if (!strcmp(reason, "NO_SUCH_CLAIM"))
			return 0;
		report("{\"event\":\"failed\",\"what\":\"claim\",\"reason\":\"%s\"}", reason);
		exit(1);
	}
	ns = clock_ns(CLOCK_MONOTONIC);
	fd = session_retrieve(line.fd);
	ns = clock_ns(CLOCK_MONOTONIC) - ns;
	if (fd < 0 || memory_attach(&memory, fd))
		fail("retrieve");
	close(line.fd);
	report("{\"event\":\"claimed\",\"ticks\":%llu,\"retrieve_ns\":%llu}", ticks(), (unsigned long long)ns);
	return 1;
}

static void preserve(int fd)
{
	int pipes[2], given = memory.fd;
	uint64_t ns;

	drop_session();
	session = fd;
	if (!strcmp(fault, "unpreservable") && !pipe2(pipes, O_CLOEXEC))
		given = pipes[0];
	ns = clock_ns(CLOCK_MONOTONIC);
	if (session_preserve(session, given)) {
		report("{\"event\":\"failed\",\"what\":\"preserve\",\"errno\":%d}", errno);
		wire_send(&wire, "{\"cmd\":\"FAILED\",\"id\":\"%s\",\"error\":\"PRESERVE_FD: %s\"}", id,
			  strerrorname_np(errno));
		return;
	}
	ns = clock_ns(CLOCK_MONOTONIC) - ns;
	report("{\"event\":\"preserved\",\"ticks\":%llu,\"preserve_ns\":%llu}", ticks(), (unsigned long long)ns);
	if (!strcmp(fault, "never-ready"))
		return;
	wire_send(&wire, "{\"cmd\":\"READY\"}");
	if (!strcmp(fault, "die-after-ready"))
		exit(1);
}

static void suspend(void)
{
	struct header *header = memory.header;

	header->suspended = 1;
	header->boottime_ns = clock_ns(CLOCK_BOOTTIME);
	header->tsc = __rdtsc();
	header->hz = rate(header->boottime_ns, header->tsc);
	memcpy(header->boot_id, boot_id, sizeof(boot_id));
	wire_send(&wire, "{\"cmd\":\"SUSPENDED\"}");
	report("{\"event\":\"suspended\",\"ticks\":%llu,\"tsc\":%llu,\"hz\":%llu}", ticks(),
	       (unsigned long long)header->tsc, (unsigned long long)header->hz);
}

static void resume(void)
{
	uint64_t tsc = __rdtsc(), ns = clock_ns(CLOCK_BOOTTIME);
	struct header *header = memory.header;
	const char *clock = "tsc", *rejected = "";
	double pause_s, uncertainty_s = UNCERTAINTY_S;
	unsigned long long at = ticks();
	int intact;

	if (!header->suspended)
		rejected = "it was not suspended";
	header->suspended = 0;
	memory_tick(&memory);
	if (!strcmp(header->boot_id, boot_id)) {
		clock = "boottime";
		pause_s = ((double)ns - (double)header->boottime_ns) / 1e9;
	} else {
		pause_s = header->hz ? ((double)tsc - (double)header->tsc) / header->hz : 0;
		uncertainty_s += pause_s * RELATIVE_UNCERTAINTY;
		if (!header->hz)
			rejected = "the rate of the TSC was not measured";
	}
	if (!*rejected && pause_s < 0)
		rejected = "the clock went backwards";
	if (*rejected)
		pause_s = uncertainty_s = 0;
	if (!strcmp(fault, "damage"))
		((char *)body(&memory, 1))[100] ^= 1;
	intact = memory_verify(&memory);
	wire_send(&wire,
		  "{\"cmd\":\"RESUMED\",\"duration_s\":%.9f,\"uncertainty_s\":%.9f,\"clock\":\"%s\","
		  "\"memory_intact\":%s,\"bytes_checked\":%llu,\"rejected\":\"%s\"}",
		  pause_s, uncertainty_s, clock, intact ? "true" : "false",
		  (unsigned long long)((header->pages + 1) * PAGE), rejected);
	report("{\"event\":\"resumed\",\"ticks\":%llu,\"pause_s\":%.9f,\"uncertainty_s\":%.9f,\"clock\":\"%s\","
	       "\"tsc\":%llu,\"intact\":%s,\"bytes\":%llu,\"rejected\":\"%s\"}",
	       at, pause_s, uncertainty_s, clock, (unsigned long long)tsc, intact ? "true" : "false",
	       (unsigned long long)((header->pages + 1) * PAGE), rejected);
}

static void hear(struct line *line)
{
	int fd = line->fd;

	if (event_is(line, "START_PRESERVATION") && fd >= 0) {
		preserve(fd);
		return;
	}
	if (fd >= 0)
		close(fd);
	if (event_is(line, "SUSPEND")) {
		suspend();
	} else if (event_is(line, "RESUME")) {
		resume();
	} else if (event_is(line, "RELEASE")) {
		drop_session();
		wire_send(&wire, "{\"cmd\":\"RELEASED\"}");
		report("{\"event\":\"released\",\"ticks\":%llu}", ticks());
	} else if (event_is(line, "ERROR")) {
		report("{\"event\":\"failed\",\"what\":\"refused\",\"answer\":%s}", line->text);
		exit(1);
	}
}

/* Its loop: a tick whenever TICK_MS passed without one, unless suspended. */
static void live(void)
{
	uint64_t next_ns = clock_ns(CLOCK_MONOTONIC);

	for (;;) {
		struct line line;
		uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
		int wait_ms = memory.header->suspended ? -1 : next_ns > now_ns ? (int)((next_ns - now_ns) / 1000000) + 1 : 0;
		int got = wire_line(&wire, &line, wait_ms);

		if (got > 0) {
			hear(&line);
		} else if (got < 0) {
			drop_session();
			report("{\"event\":\"lost\",\"ticks\":%llu}", ticks());
			wire_connect(&wire, socket_path);
			subscribe();
		}
		if (!memory.header->suspended && clock_ns(CLOCK_MONOTONIC) >= next_ns) {
			memory_tick(&memory);
			next_ns = clock_ns(CLOCK_MONOTONIC) + TICK_MS * 1000000ull;
		}
	}
}

int main(int count, char **words)
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (count > 2 && !strcmp(words[1], "--fault")) {
		fault = words[2];
		words += 2;
		count -= 2;
	}
	if (count != 5 || atoi(words[3]) < 1) {
		fprintf(stderr, "usage: tickd [--fault F] SOCKET ID MIB LOG\n");
		return 2;
	}
	if (!file || fscanf(file, "%39s", boot_id) != 1)
		fail("boot_id");
	fclose(file);
	first_ns = clock_ns(CLOCK_BOOTTIME);
	first_tsc = __rdtsc();
	socket_path = words[1];
	id = words[2];
	log_file = fopen(words[4], "ae");
	if (!claim()) {
		if (memory_create(&memory, atoi(words[3]), 0x7469636b00 + getpid()))
			fail("memory");
		subscribe();
		report("{\"event\":\"fresh\",\"bytes\":%llu}",
		       (unsigned long long)((memory.header->pages + 1) * PAGE));
	}
	live();
}
