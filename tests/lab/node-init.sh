#!/usr/bin/env bash
# Process 1 of a node: gives the node a root of its own, with the machine's programs and with folders that outlive the node
# or not, as on a real one; then reaps orphans. It runs in new namespaces of every kind but user.
#
#   node-init.sh NAME FOLDER BIN BOOT_ID HIERARCHY=OPTIONS...
#
# FOLDER/etc is what the node is configured with, FOLDER/disk what survives its death; BIN has kubelet. FOLDER/etc/pid is written when
# the node is ready for services: this process' number on the machine.
set -euo pipefail

name=$1 folder=$2 bin=$3 boot_id=$4
shift 4
# Before /proc becomes the node's.
read -r pid _ < /proc/self/stat
root=$folder/root
mkdir -p "$root"
echo "$name" > /proc/sys/kernel/hostname

mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc/cni proc sys dev run tmp opt/cni var/lib/{containerd,kubelet,cni} var/log lab/{etc,bin} old
ln -s /run var/run
for link in bin sbin lib lib64; do [ ! -L "/$link" ] || ln -s "usr/$link" $link; done
mount --rbind /usr usr
mount -o remount,bind,ro usr
for file in passwd group nsswitch.conf ssl alternatives ld.so.cache; do [ ! -e "/etc/$file" ] || cp -a "/etc/$file" etc/; done
cp -L /etc/os-release etc/os-release
echo "$name" > etc/hostname
echo '127.0.0.1 localhost' > etc/hosts
: > etc/resolv.conf
md5sum <<< "$name" | cut -c 1-32 > etc/machine-id

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
for hierarchy in "$@"; do
  mkdir "sys/fs/cgroup/${hierarchy%%=*}"
  case ${hierarchy#*=} in
    cgroup2) mount -t cgroup2 cgroup2 "sys/fs/cgroup/${hierarchy%%=*}" ;;
    *) mount -t cgroup -o "${hierarchy#*=}" cgroup "sys/fs/cgroup/${hierarchy%%=*}" ;;
  esac
done
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$folder/etc" lab/etc
mount --bind "$bin" lab/bin
for disk in var/lib/containerd var/lib/kubelet var/lib/cni var/log etc/cni opt/cni; do
  mkdir -p "$folder/disk/$disk"
  mount --bind "$folder/disk/$disk" $disk
done
mkdir -p etc/cni/net.d opt/cni/bin run/lab

pivot_root . old
umount -l /old
rmdir /old
# So that what appears in the node appears in pods that ask for it, and the other way round.
mount --make-rshared /

# Kubelet sets these for the whole machine; here it finds them as it wants them. The boot ID is this node's own.
fake() {
  local file=/run/lab/${1##*/}
  echo "$2" > "$file"
  mount --bind "$file" "/proc/sys/$1"
}
fake vm/overcommit_memory 1
fake vm/panic_on_oom 0
fake kernel/panic 10
fake kernel/panic_on_oops 1
fake kernel/keys/root_maxkeys 1000000
fake kernel/keys/root_maxbytes 25000000
fake kernel/random/boot_id "$boot_id"

# The folder is out of sight from here on, but for this.
echo "$pid" > /lab/etc/pid.partial
mv /lab/etc/pid.partial /lab/etc/pid
while :; do
  sleep 86400 &
  wait $!
done
