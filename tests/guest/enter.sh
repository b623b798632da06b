#!/bin/sh
# Runs a command in a root made of read-only layers and a writable directory, entered by pivot_root, in namespaces of its
# own (mount and pid; with NETWORK=own also net): whatever it mounts and starts goes with it.
#   LOWERS=a:b (topmost first)  UPPER=dir  WORK=dir (same file system)  ROOT=an empty directory
#   LENT=dir: the host's name servers, CA bundle and pip configuration, for the time of this command
#   DATA=dir: a directory outside the layers for what overlayfs cannot hold (an upper of its own, a socket's directory)
# Called by roots.py with `unshare`; see there.
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$LOWERS,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t sysfs sysfs "$ROOT/sys"
[ ! -d /sys/fs/cgroup ] || mount --rbind /sys/fs/cgroup "$ROOT/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/run"
if [ -n "${LENT:-}" ]; then
  mkdir "$ROOT/run/lent"
  mount --rbind "$LENT" "$ROOT/run/lent"
  mount --bind "$LENT/resolv.conf" "$ROOT/etc/resolv.conf"
  [ ! -e "$LENT/ca-certificates.crt" ] || mount --bind "$LENT/ca-certificates.crt" "$ROOT/etc/ssl/certs/ca-certificates.crt"
fi
if [ -n "${DATA:-}" ]; then
  for place in tmp var/tmp var/lib/daybook var/log; do
    mkdir -p "$DATA/$place" "$ROOT/$place"
    mount --bind "$DATA/$place" "$ROOT/$place"
  done
  chmod 1777 "$DATA/tmp" "$DATA/var/tmp"
fi
[ "${NETWORK:-}" != own ] || ip link set lo up
cd "$ROOT"
pivot_root . mnt
cd /
umount -l /mnt
unset LOWERS UPPER WORK ROOT DATA NETWORK
# Not exec: this shell is the pid namespace's first process and waits for orphans too.
status=0
"$@" || status=$?
exit $status
