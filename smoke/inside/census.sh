#!/bin/sh
# Everything on this host that VMs could leave behind, a line each. Names of idle taps mean nothing:
# they are counted.
LC_ALL=C
echo "taps $(ip -o link show type tun 2>/dev/null | wc -l)"
ip -o link show type bridge | sed 's/^[0-9]*: \([^:]*\):.*/bridge \1/'
losetup --noheadings --list --output NAME,BACK-FILE | sed 's/^/loop /'
dmsetup ls | sed 's/^/dm /'
nft list tables | sed 's/^/nft /'
awk '{ print "mount " $5 }' /proc/self/mountinfo
for name in firecracker jailer qemu-system; do
	pgrep -a "$name" | sed 's/^/process /'
done
find /var/lib/banger-root/jail -mindepth 2 -maxdepth 2 2>/dev/null | sed 's/^/jail /'
find /run/banger -mindepth 2 2>/dev/null | sed 's/^/run /'
find /var/lib/banger/disks /var/lib/banger/vm /var/lib/banger/failed -mindepth 1 2>/dev/null |
	sed 's/^/state /'
find /sys/fs/cgroup/banger.slice -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sed 's/^/cgroup /'
systemctl list-units --all --plain --no-legend 'banger-vm*' | sed 's/^/unit /'
