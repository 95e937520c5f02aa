#!/bin/sh
# Makes the files of the smoke host: a stock Debian with a kernel and an initrd of its own. Runs as
# root, or as root of a user namespace, in a mount and a process namespace of its own if there can be.
#
# usage: host.sh SUITE PACKAGES   with in the environment
#   WORK    empty private directory for everything temporary
#   OUTPUT  where disk.img (SIZE bytes), vmlinuz and initrd.img go
#   KEYS    client.pub, who may log in; host, host.pub, whom the client knows
# and on stdin a tar archive as banger.image.sources makes it.
set -eu

suite=$1
packages=$2
tree=$WORK/tree
mkdir "$WORK/tmp" "$WORK/apt"
tar -C "$WORK/apt" -x
export TMPDIR="$WORK/tmp"
sources=
if [ -s "$WORK/apt/host.sources" ]; then
	sources=$WORK/apt/host.sources
fi

# What the initrd needs is known: a list makes it a tenth as large as all that might be.
# shellcheck disable=SC2016
mmdebstrap --mode=root --format=directory --variant=minbase \
	--dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*/LC_MESSAGES/*' \
	--setup-hook='cp "$WORK/apt/apt.conf" "$1/etc/apt/apt.conf.d/98build"' \
	--setup-hook='install -D -m 0600 "$WORK/apt/auth.conf" "$1/etc/apt/auth.conf"' \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/ssh"' \
	--essential-hook='printf "%s\n" virtio_pci virtio_blk ext4 >"$1/etc/initramfs-tools/modules"' \
	--essential-hook='printf "%s\n" MODULES=list COMPRESS=lz4 FSTYPE=ext4 >"$1/etc/initramfs-tools/conf.d/smoke"' \
	--essential-hook='touch "$1/etc/ssh/ssh_host_rsa_key" "$1/etc/ssh/ssh_host_ecdsa_key" "$1/etc/ssh/ssh_host_ed25519_key"' \
	--include="$packages" "$suite" "$tree" ${sources:+"$sources"} </dev/null >&2

cd "$tree"
mv boot/vmlinuz-* "$OUTPUT/vmlinuz"
mv boot/initrd.img-* "$OUTPUT/initrd.img"
rm -rf dev/* run/* tmp/* var/tmp/* boot/* initrd.img* vmlinuz* var/cache/apt/*.bin
rm -f etc/apt/apt.conf.d/98build etc/apt/apt.conf.d/99mmdebstrap etc/apt/auth.conf \
	etc/apt/sources.list.d/* etc/apt/sources.list etc/ssh/ssh_host_* etc/resolv.conf
find var/lib/apt/lists var/log -type f -delete

echo smoke >etc/hostname
echo '127.0.0.1 localhost smoke' >etc/hosts
echo 'LANG=C.UTF-8' >etc/default/locale
echo '/dev/vda / ext4 noatime,errors=remount-ro 0 1' >etc/fstab
ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
# Every start of a host is the first of a machine of its own.
: >etc/machine-id

# QEMU's user-mode network; what it is told by DHCP there never changes.
cat >etc/systemd/network/10-outside.network <<'FILE'
[Match]
Name=en* eth*
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
IPv6AcceptRA=no
LinkLocalAddressing=no
FILE
ln -s /dev/null etc/systemd/network/99-default.link

install -m 0600 "$KEYS/host" etc/ssh/ssh_host_ed25519_key
install -m 0644 "$KEYS/host.pub" etc/ssh/ssh_host_ed25519_key.pub
cat >etc/ssh/sshd_config.d/smoke.conf <<'FILE'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxSessions 100
FILE

# The owner of banger, who may not be root, and somebody else who is nobody here.
chroot . useradd --create-home --shell /bin/bash --groups kvm dev
chroot . useradd --create-home --shell /bin/bash stranger
for home in root home/dev home/stranger; do
	install -d -m 0700 "$home/.ssh"
	install -m 0600 "$KEYS/client.pub" "$home/.ssh/authorized_keys"
done
chroot . chown -R dev: /home/dev
chroot . chown -R stranger: /home/stranger
echo 'dev ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/dev

# A machine that is switched off hard keeps what its journal had.
install -d etc/systemd/journald.conf.d var/log/journal
printf '[Journal]\nStorage=persistent\nSyncIntervalSec=1s\n' >etc/systemd/journald.conf.d/smoke.conf
printf '%s\n' kvm-amd tun vhost_vsock dm-snapshot loop >etc/modules-load.d/smoke.conf
chroot . systemctl --quiet enable systemd-networkd systemd-resolved ssh
chroot . systemctl --quiet mask e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer fstrim.timer systemd-networkd-wait-online.service getty@tty1.service \
	e2scrub_all.timer

MKE2FS_CONFIG=/dev/null mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 \
	-O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
	-E root_owner=0:0,assume_storage_prezeroed=1 -L smoke -d "$tree" "$OUTPUT/disk.img" "$((SIZE / 4096))"
debugfs -w -R "set_inode_field / mode 040755" "$OUTPUT/disk.img"
