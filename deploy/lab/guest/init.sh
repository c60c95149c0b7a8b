#!/bin/busybox sh
# /sbin/init of a lab guest: workloads, mounts, the network of QEMU's user mode, the agent, the lab's
# exec server; then it reaps. After a kexec this is on the way to a workload's resumption, where a process
# costs ten milliseconds: what workloads need comes first, and only builtins are used up to there.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root
log=/var/log

# mount_once TYPE TARGET [OPTIONS]. The early init has been here before and has mounted some.
mount_once() {
    while read -r _ target _; do
        [ "$target" = "$2" ] && return
    done </proc/mounts
    busybox mkdir -p "$2"
    busybox mount -t "$1" ${3:+-o "$3"} "$1" "$2"
}

# keep LOG COMMAND: run it again whenever it ends, 0.2 s later. COMMAND is a line of shell.
keep() {
    (
        while :; do
            (eval "$2") >>"$1" 2>&1 </dev/null
            echo "ended with status $?: $2" >>"$1"
            busybox usleep 200000
        done
    ) &
}

[ -e /proc/mounts ] || busybox mount -t proc proc /proc
mount_once tmpfs /run mode=755

if [ -r /etc/liveroll/workloads ]; then
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in '' | '#'*) continue ;; esac
        number=$((number + 1))
        keep "$log/workload-$number.log" "$line"
    done </etc/liveroll/workloads
fi

mount_once sysfs /sys
mount_once devtmpfs /dev
mount_once tmpfs /tmp mode=1777
mount_once devpts /dev/pts
mount_once tmpfs /dev/shm
[ -d /sys/kernel/debug ] && mount_once debugfs /sys/kernel/debug
busybox mkdir -p /run/luod /run/liveroll-agent /run/lock

busybox ip link set lo up
busybox ip addr add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
busybox ip route add default via 10.0.2.2
[ -r /etc/hostname ] && busybox hostname -F /etc/hostname

agent() {
    # The file in /etc is for whoever wants the agent to stay away over a boot.
    if [ -e /run/no-agent ] || [ -e /etc/liveroll/no-agent ] || [ ! -r /etc/liveroll/agent.toml ]; then
        return
    fi
    (
        set -a
        [ -r /etc/liveroll/agent.env ] && . /etc/liveroll/agent.env
        exec /usr/bin/liveroll-agent run --config /etc/liveroll/agent.toml
    ) >>"$log/agent.log" 2>&1 </dev/null
    echo "agent ended with status $?" >>"$log/agent.log"
}
while :; do
    agent
    busybox usleep 200000
done &
keep "$log/execd.log" "exec /usr/bin/python3 -I -S /usr/lib/liveroll/guest/execd.py"

echo "lab guest is up: $(busybox uname -r)" >/dev/console

# As process 1 this shell reaps what is left to it while it waits for its own children, which do not end.
while :; do
    wait
    busybox usleep 200000
done
