"""This machine's kernel: ports.Kernel over /dev/liveupdate, kexec_file_load(2) and reboot(2).

kernel      RealKernel and RealSession: each call in its thread, each errno through kernel/failure
threads     Worker (one call after another) and alone(): threads whose answer survives a cancel
kexec       load, unload, loaded and reboot as blocking functions
facts       boot id, release, command line, hardware model, what KHO says of the kernel before
kho         KhoFacts: scratch areas and ABI strings of the running kernel, for preflight
meminfo     MemoryFacts: what is free outside scratch, for preflight
fdt         as much of a flat device tree as KHO's own node needs
clock       RealClock (ports.Clock): CLOCK_BOOTTIME, CLOCK_REALTIME, the TSC and its frequency

The calls on /dev/liveupdate and on session fds are those of emulated/syncclient, which the
blackout path uses too: with an empty root they are plain open(2) and ioctl(2).
"""
