#!/bin/busybox sh
# PID 1 of a throw-away guest: makes the cgroups of a small node, gives them something to do, and prints the files that the metrics crate
# reads on the second serial port. Frame: `=== PATH`, then the file; a link is `=== PATH -> TARGET`; `=== PATH/` lists names; the last
# line is `=== end`. On failure the line is `=== failed WHAT`, which the host takes for an error.
# A controller that the kernel's command line switched off costs its settings and its load, nothing else.

busybox=/bin/busybox
$busybox mkdir -p /proc /sys /dev /run /data /tmp
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
$busybox mount -t devtmpfs dev /dev
$busybox mount -t tmpfs -o size=8m run /run
$busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
$busybox --install -s /bin
export PATH=/bin
out=/dev/ttyS1

fail() {
    echo "=== failed $*" >$out
    poweroff -f
}

stty -F $out raw 115200 || fail "set $out raw"
for module in /modules/*.ko; do
    insmod "$module" || fail "load $module"
done
for disk in vda vdb; do
    tries=0
    while [ ! -b /dev/$disk ]; do
        tries=$((tries + 1))
        [ $tries -lt 2000 ] || fail "find /dev/$disk"
        usleep 50000
    done
done
mke2fs /dev/vda >/dev/null || fail "make a filesystem"
mount -t ext4 /dev/vda /data || fail "mount /dev/vda"
mkswap /dev/vdb >/dev/null && swapon /dev/vdb || fail "swap on /dev/vdb"

top=/sys/fs/cgroup
pod=$top/kubepods/burstable/pod7d3c2a54-0f6e-4c1b-9f2d-5e8a1b6c9d70
sandbox=$pod/a0a1a2a3a4a5a6a7a8a9aaabacadaeaf
web=$pod/b0b1b2b3b4b5b6b7b8b9babbbcbdbebf
hog=$pod/c0c1c2c3c4c5c6c7c8c9cacbcccdcecf
mkdir -p $top/init $sandbox $web $hog 2>/dev/null || fail "make the cgroups"
echo 1 >$top/init/cgroup.procs || fail "move PID 1"
for group in $top $top/kubepods $top/kubepods/burstable $pod; do
    for controller in $(cat $group/cgroup.controllers); do
        case $controller in
        cpu | io | memory | pids) echo "+$controller" >$group/cgroup.subtree_control || fail "switch on $controller in $group" ;;
        esac
    done
done
has_memory=$(grep -c memory $top/cgroup.controllers)

set_to() {
    [ -f "$1" ] || [ "$has_memory" = 1 ] || return 0
    echo "$2" >"$1" || fail "write $2 to $1"
}
set_to $top/kubepods/memory.max 200M
set_to $pod/cpu.weight 20
set_to $pod/cpu.max "30000 100000"
set_to $pod/memory.max 96M
set_to $pod/pids.max 64
set_to $web/cpu.weight 39
set_to $web/cpu.max "20000 100000"
set_to $web/cpu.max.burst 10000
set_to $web/memory.max 64M
set_to $web/memory.min 4M
set_to $web/memory.swap.max 0
set_to $hog/memory.max 16M
set_to $hog/memory.swap.max 0
number=$(cat /sys/block/vda/dev)
set_to $top/io.cost.qos "$number enable=1"

# The sandbox: a process in a network namespace of its own, with one link to the node.
sh -c "echo 0 >$sandbox/cgroup.procs; exec unshare -n sleep 1000" &
pause=$!
tries=0
while [ "$(readlink /proc/$pause/ns/net)" = "$(readlink /proc/1/ns/net)" ]; do
    tries=$((tries + 1))
    [ $tries -lt 2000 ] || fail "see a new network namespace"
    usleep 20000
done
# The kernel names the other end: veth0.
ip link add pod7d3c2a54 type veth || fail "make a link"
ip link set veth0 netns $pause || fail "give the link away"
inside="nsenter -t $pause -n"
$inside ip link set veth0 name eth0 || fail "name the link"
$inside ip link set lo up
$inside ip addr add 10.1.0.2/24 dev eth0
$inside ip link set eth0 up
ip link set lo up
ip addr add 10.1.0.1/24 dev pod7d3c2a54
ip link set pod7d3c2a54 up
ping -c 3 -s 1000 10.1.0.2 >/dev/null || fail "reach the sandbox"

# A container with a CPU limit that it meets, files that it writes and reads, and an open socket.
sh -c "echo 0 >$web/cgroup.procs
    dd if=/dev/urandom of=/data/web bs=64k count=64 conv=fsync 2>/dev/null
    dd if=/data/web of=/dev/null bs=64k iflag=direct 2>/dev/null
    (while :; do :; done) & burn=\$!
    sleep 3
    kill \$burn
    echo done >/run/web
    exec nc -l -p 8080" &
web_pid=$!
# A container that wants more memory than it may have; its first process survives.
sh -c "echo 0 >$hog/cgroup.procs
    dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null
    echo done >/run/hog
    exec sleep 1000" &
hog_pid=$!
tries=0
while [ ! -f /run/web ] || [ ! -f /run/hog ]; do
    tries=$((tries + 1))
    [ $tries -lt 3000 ] || fail "see the loads end"
    usleep 100000
done
[ "$has_memory" = 0 ] || grep -q 'oom_kill [1-9]' $hog/memory.events || fail "see an OOM kill"
sync
# Both have become what the recording shows: nc, which listens, and sleep.
tries=0
while [ "$(cat /proc/$web_pid/comm)$(cat /proc/$hog_pid/comm)" != ncsleep ] || ! netstat -ltn | grep -q :8080; do
    tries=$((tries + 1))
    [ $tries -lt 2000 ] || fail "see the programs of the containers"
    usleep 50000
done

show() {
    for file in "$@"; do
        if [ -L "$file" ]; then
            echo "=== $file -> $(readlink "$file")"
        elif [ -f "$file" ]; then
            # Some files refuse to be read by the state of their group; they are then absent for the reader too.
            cat "$file" >/tmp/shown 2>/dev/null || continue
            echo "=== $file"
            cat /tmp/shown
        fi
    done
}
record() {
    show /proc/meminfo /proc/stat /proc/vmstat /proc/loadavg /proc/diskstats /proc/net/dev /proc/self/mountinfo
    show /proc/sys/kernel/osrelease /proc/sys/kernel/pid_max /proc/sys/kernel/random/boot_id
    show /sys/devices/system/cpu/online /sys/class/dmi/id/product_uuid
    show /sys/devices/system/cpu/cpu*/topology/physical_package_id /sys/devices/system/cpu/cpu*/topology/core_id
    for group in $top $top/init $top/kubepods $top/kubepods/burstable $pod $sandbox $web $hog; do
        for name in cpu.stat cpu.weight cpu.max cpu.pressure memory.stat memory.current memory.peak memory.max memory.min \
            memory.swap.current memory.swap.max memory.events memory.pressure io.stat io.pressure pids.current pids.max cgroup.procs; do
            show $group/$name
        done
    done
    # What else this kernel has there.
    for group in $top $web; do
        echo "=== $group/"
        ls $group
    done
    for group in $sandbox $web $hog; do
        for pid in $(cat $group/cgroup.procs); do
            show /proc/$pid/limits /proc/$pid/net/dev /proc/$pid/fd/*
        done
    done
    echo "=== end"
}
record >/run/tree
cat /run/tree >$out
sync
poweroff -f
