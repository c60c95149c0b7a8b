#!/bin/busybox sh
# /sbin/init of a lab guest: mounts, the network of QEMU's user mode, workloads, the agent, the
# lab's exec server; then it reaps. The early init has been here before and may have mounted some.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root

mounted() { busybox grep -q " $1 " /proc/mounts 2>/dev/null; }
mount_once() { # type source target [options]
    mounted "$3" || busybox mount -t "$1" ${4:+-o "$4"} "$2" "$3"
}

busybox mount -o remount,rw / 2>/dev/null
[ -e /proc/mounts ] || busybox mount -t proc proc /proc
mount_once sysfs sysfs /sys
mount_once devtmpfs devtmpfs /dev
busybox mkdir -p /dev/pts /dev/shm
mount_once devpts devpts /dev/pts
mount_once tmpfs tmpfs /dev/shm
mount_once tmpfs tmpfs /run mode=755
mount_once tmpfs tmpfs /tmp mode=1777
[ -d /sys/kernel/debug ] && mount_once debugfs debugfs /sys/kernel/debug
busybox mkdir -p /run/luod /run/liveroll-agent /run/lock /var/lib/liveroll-agent /var/log

log=/var/log

# Restart whatever ends. $1 log file, then the command. 0.2 s between starts.
keep() {
    to=$1
    shift
    (
        while :; do
            "$@" >>"$to" 2>&1 </dev/null
            echo "ended with status $?: $*" >>"$to"
            busybox usleep 200000
        done
    ) &
}

# Workloads come first: after a kexec each waits for its session.
if [ -r /etc/liveroll/workloads ]; then
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in '' | '#'*) continue ;; esac
        number=$((number + 1))
        keep "$log/workload-$number.log" busybox setsid /bin/sh -c "$line"
    done </etc/liveroll/workloads
fi

busybox ip link set lo up
busybox ip addr add 10.0.2.15/24 dev eth0 2>/dev/null
busybox ip link set eth0 up
busybox ip route add default via 10.0.2.2 2>/dev/null
if [ -r /etc/hostname ]; then busybox hostname -F /etc/hostname; fi

agent() {
    while :; do
        # The file in /etc is for whoever wants the agent to stay away over a boot.
        if [ -e /run/no-agent ] || [ -e /etc/liveroll/no-agent ] || [ ! -r /etc/liveroll/agent.toml ]; then
            busybox usleep 200000
            continue
        fi
        (
            set -a
            [ -r /etc/liveroll/agent.env ] && . /etc/liveroll/agent.env
            set +a
            exec /usr/bin/liveroll-agent run --config /etc/liveroll/agent.toml
        ) >>"$log/agent.log" 2>&1 </dev/null
        echo "agent ended with status $?" >>"$log/agent.log"
        busybox usleep 200000
    done
}
agent &
keep "$log/execd.log" /usr/bin/python3 -I -S /usr/lib/liveroll/guest/execd.py

echo "lab guest is up: $(busybox uname -r)" >/dev/console

# As pid 1 this shell reaps whatever is left to it while it waits for its own children, which do
# not end. A signal only interrupts the wait.
while :; do wait; busybox usleep 200000; done
