/*
 * bare: how long a kexec takes when userspace does nothing.
 *
 *   bare kexec IMAGE CMDLINE   load IMAGE (no initramfs), say a line with the TSC, kexec
 *   bare mark WORD             say a line with the TSC
 *   as process 1               say a line with the TSC as the very first act, then power off
 *
 * A line on the first serial port: "\nbare: WORD tsc=N hz=N\n", hz 0 where it was not measured. Pause =
 * (tsc of "up" - tsc of "kexec") / hz of "kexec": the counter does not stop at a kexec, and the old kernel's
 * calibration is the better one. Written by port I/O: no driver and no console is waited for.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define COM1 0x3f8
#define TRANSMITTER_EMPTY 0x20
#define CALIBRATION_NS 1000000000ull
#define KEXEC_FILE_NO_INITRAMFS 4
#define RB_KEXEC 0x45584543

static void port_write(const char *text)
{
	for (; *text; text++) {
		/* Bounded: a machine without this port must not hang here. */
		for (int wait = 0; wait < 100000 && !(inb(COM1 + 5) & TRANSMITTER_EMPTY); wait++)
			;
		outb((unsigned char)*text, COM1);
	}
}

static void say(const char *word, uint64_t tsc, uint64_t hz)
{
	char line[128];

	snprintf(line, sizeof(line), "\nbare: %s tsc=%llu hz=%llu\n", word, (unsigned long long)tsc,
		 (unsigned long long)hz);
	port_write(line);
}

static uint64_t boottime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static uint64_t calibrate(void)
{
	uint64_t ns = boottime_ns(), tsc = __rdtsc(), now;

	do {
		usleep(10000);
		now = boottime_ns();
	} while (now - ns < CALIBRATION_NS);
	return (uint64_t)((__rdtsc() - tsc) * 1e9 / (now - ns));
}

static int fail(const char *what)
{
	fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
	return 1;
}

static int kexec(const char *image, const char *command_line)
{
	int kernel = open(image, O_RDONLY | O_CLOEXEC);
	uint64_t hz;

	if (kernel < 0)
		return fail(image);
	if (syscall(SYS_kexec_file_load, kernel, -1, strlen(command_line) + 1, command_line,
		    (unsigned long)KEXEC_FILE_NO_INITRAMFS))
		return fail("kexec_file_load");
	sync();
	hz = calibrate();
	say("kexec", __rdtsc(), hz);
	reboot(RB_KEXEC);
	return fail("reboot");
}

int main(int count, char **words)
{
	uint64_t tsc = __rdtsc();

	if (ioperm(COM1, 8, 1))
		return fail("ioperm");
	if (getpid() == 1) {
		say("up", tsc, 0);
		reboot(RB_POWER_OFF);
		for (;;)
			pause();
	}
	if (count == 4 && !strcmp(words[1], "kexec"))
		return kexec(words[2], words[3]);
	if (count == 3 && !strcmp(words[1], "mark")) {
		say(words[2], tsc, 0);
		return 0;
	}
	fprintf(stderr, "usage: bare kexec IMAGE CMDLINE | bare mark WORD\n");
	return 2;
}
