/*
 * luoclient: a workload that knows nothing but luo-agent's README.
 *
 *   luoclient SOCKET ID MIB LOG
 *
 * After a reboot it says CLAIM, takes its memory out of the session, compares every byte, says FINISH to
 * the kernel; without a session it starts afresh. Then SUBSCRIBE; at START_PRESERVATION (the README calls
 * the event PRESERVATION_REQUEST in one place) it preserves its memory and says READY. Its counter ticks all
 * the time. It never hears of SUSPEND. LOG gets a JSON object a line: claimed, fresh, preserved, failed.
 */
#include "client.h"

#define TICK_MS 10

static const char *socket_path, *id;
static struct wire wire = { .socket = -1, .fd = -1 };
static struct memory memory;

/* 1 if the memory came through a reboot. */
static int claim(void)
{
	struct line line = { .fd = -1 };
	int fd, intact;

	do {
		wire_connect(&wire, socket_path);
		wire_send(&wire, "{\"cmd\": \"CLAIM\", \"id\": \"%s\"}", id);
	} while (wire_line(&wire, &line, -1) < 0);
	if (line.fd < 0) {
		/* What the answer is without a session the README leaves open. */
		wire_close(&wire);
		return 0;
	}
	fd = session_retrieve(line.fd);
	if (fd < 0 || memory_attach(&memory, fd)) {
		report("{\"event\":\"failed\",\"what\":\"retrieve\",\"errno\":%d}", errno);
		exit(1);
	}
	intact = memory_verify(&memory);
	report("{\"event\":\"claimed\",\"ticks\":%llu,\"bytes\":%llu,\"intact\":%s,\"finish\":%d}",
	       (unsigned long long)memory.header->ticks, (unsigned long long)((memory.header->pages + 1) * PAGE),
	       intact ? "true" : "false", session_finish(line.fd) ? errno : 0);
	close(line.fd);
	return 1;
}

static int preserve(int session)
{
	if (session_preserve(session, memory.fd)) {
		report("{\"event\":\"failed\",\"what\":\"preserve\",\"errno\":%d}", errno);
		close(session);
		return -1;
	}
	report("{\"event\":\"preserved\",\"ticks\":%llu}", (unsigned long long)memory.header->ticks);
	wire_send(&wire, "{\"cmd\": \"READY\"}");
	return session;
}

int main(int count, char **words)
{
	int session = -1;

	if (count != 5 || atoi(words[3]) < 1) {
		fprintf(stderr, "usage: luoclient SOCKET ID MIB LOG\n");
		return 2;
	}
	socket_path = words[1];
	id = words[2];
	log_file = fopen(words[4], "ae");
	if (!claim()) {
		if (memory_create(&memory, atoi(words[3]), 0x6c756f00 + getpid())) {
			perror("luoclient: memory");
			return 1;
		}
		report("{\"event\":\"fresh\",\"bytes\":%llu}",
		       (unsigned long long)((memory.header->pages + 1) * PAGE));
	}
	if (wire.socket >= 0)
		wire_send(&wire, "{\"cmd\": \"SUBSCRIBE\", \"id\": \"%s\"}", id);
	for (;;) {
		struct line line;
		int got;

		if (wire.socket < 0) {
			wire_connect(&wire, socket_path);
			wire_send(&wire, "{\"cmd\": \"SUBSCRIBE\", \"id\": \"%s\"}", id);
		}
		got = wire_line(&wire, &line, TICK_MS);
		memory_tick(&memory);
		if (got < 0)
			wire_close(&wire);
		/* With the broker gone, or a new attempt begun, the old session is nobody's. */
		if (session >= 0 && (got < 0 || (got > 0 && line.fd >= 0))) {
			close(session);
			session = -1;
		}
		if (got <= 0)
			continue;
		if (line.fd >= 0 && (event_is(&line, "START_PRESERVATION") || event_is(&line, "PRESERVATION_REQUEST")))
			session = preserve(line.fd);
		else if (line.fd >= 0)
			close(line.fd);
	}
}
