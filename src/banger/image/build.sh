#!/bin/sh
# Makes an image's files out of Debian packages. Runs as root: the host's, or that of a user
# namespace in which the invoking user is root; in a mount and a process namespace of its own where
# the host allows that, so that nothing it mounted or started outlives it.
#
# usage: build.sh SUITE MMDEBSTRAP_OPTION...   with in the environment
#   WORK        empty private directory for everything temporary
#   MEMORY      bytes of a tmpfs to put over WORK, or empty
#   SEEDS       where rootfs.ext4 (ROOT_SIZE bytes) and work.ext4 (WORK_SIZE bytes) go
#   BOOT        where vmlinuz, lib-modules/ and facts go
#   DOCUMENTATION  empty, or anything to keep manuals and translations
# and on stdin a tar archive with apt.conf (for this build alone), auth.conf (likewise), mirror.conf
# (for the guest too) and host.sources (empty: mmdebstrap knows its own mirror).
set -eu

stage() {
	echo "banger: $1" >&2
}

if [ -n "$MEMORY" ]; then
	mount -t tmpfs -o "size=$MEMORY,mode=0700" banger-build "$WORK"
fi
mkdir "$WORK/tmp" "$WORK/host"
tar -C "$WORK/host" -x
export TMPDIR="$WORK/tmp"
tree=$WORK/tree
suite=$1
shift

if [ -z "$DOCUMENTATION" ]; then
	set -- "$@" \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*/LC_MESSAGES/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-include=/usr/share/doc/*/copyright'
fi
# Merges /usr from the start, which spares installing the package that does it and its Perl.
merged=/usr/share/mmdebstrap/hooks/maybe-merged-usr
if [ -d "$merged" ]; then
	set -- "$@" --hook-dir="$merged"
fi
if [ -s "$WORK/host/host.sources" ]; then
	sources=$WORK/host/host.sources
else
	sources=
fi

# Hooks get the tree as $1. The kernel comes from banger's store and with an initrd of banger's own,
# so no initrd is ever built in the guest, and ssh host keys are each VM's own: the empty files keep
# the package from generating some here.
# shellcheck disable=SC2016
mmdebstrap --mode=root --format=directory --variant=minbase --verbose \
	--dpkgopt=force-unsafe-io \
	--setup-hook='cp "$WORK/host/apt.conf" "$1/etc/apt/apt.conf.d/98banger-build"' \
	--setup-hook='install -D -m 0600 "$WORK/host/auth.conf" "$1/etc/apt/auth.conf"' \
	--essential-hook='echo "do_symlinks = no" >"$1/etc/kernel-img.conf"' \
	--essential-hook='chroot "$1" dpkg-divert --quiet --local --add --rename --divert /usr/sbin/update-initramfs.distrib /usr/sbin/update-initramfs' \
	--essential-hook='ln -s ../bin/true "$1/usr/sbin/update-initramfs"' \
	--essential-hook='mkdir -p "$1/etc/ssh" && touch "$1/etc/ssh/ssh_host_rsa_key" "$1/etc/ssh/ssh_host_ecdsa_key" "$1/etc/ssh/ssh_host_ed25519_key"' \
	"$@" "$suite" "$tree" ${sources:+"$sources"} </dev/null >&2

stage "write root filesystem"
cd "$tree"
if grep -qF " $tree/" /proc/self/mountinfo; then
	echo "E: something is still mounted below $tree" >&2
	exit 1
fi

# What only the build needed, what tells of the build host, and what no two machines may share.
rm -rf dev/* run/* tmp/* var/tmp/* boot/initrd.img* boot/System.map* initrd.img* vmlinuz*
rm -f etc/apt/apt.conf.d/98banger-build etc/apt/apt.conf.d/99mmdebstrap etc/apt/auth.conf \
	etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/ssh/ssh_host_* etc/hostname etc/resolv.conf etc/fstab \
	etc/mailname var/lib/systemd/random-seed var/lib/dbus/machine-id
rm -f var/cache/apt/*.bin var/cache/debconf/*-old var/lib/dpkg/*-old
find var/lib/apt/lists var/log -type f -delete
: >etc/machine-id
echo 'LANG=C.UTF-8' >etc/default/locale
if [ -s "$WORK/host/mirror.conf" ]; then
	install -m 0644 "$WORK/host/mirror.conf" etc/apt/apt.conf.d/90mirror
fi
for file in etc/apt/sources.list.d/0000*.sources; do
	[ ! -e "$file" ] || mv "$file" etc/apt/sources.list.d/debian.sources
done

set -- boot/vmlinuz-*
if [ ! -f "$1" ] || [ $# -ne 1 ]; then
	echo "E: the packages install no kernel, or more than one" >&2
	exit 1
fi
release=${1#boot/vmlinuz-}
mv "$1" "$BOOT/vmlinuz"
cp -R "usr/lib/modules/$release" "$BOOT/lib-modules"
{
	echo "release=$release"
	echo "kernel_version=$(dpkg-query --root="$tree" -W -f '${Version}' "linux-image-$release")"
	sed -n 's/^PRETTY_NAME="\(.*\)"$/distribution=\1/p' etc/os-release
} >"$BOOT/facts"

# The same features on every build host: those e2fsck and kernels since Debian 12 know. The files
# are new, so what is not written reads as zeros: neither inode tables nor the journal need to be
# cleared, here or by the guest in the background. -d leaves the root directory's mode alone.
write_ext4() {
	MKE2FS_CONFIG=/dev/null mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 -J size=32 \
		-O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum \
		-E root_owner=0:0,assume_storage_prezeroed=1 \
		-e remount-ro -L "$1" -d "$2" "$3" "$(($4 / 4096))"
	# inode(7): 04 is what makes it a directory.
	debugfs -w -R "set_inode_field / mode 04$5" "$3"
}
write_ext4 banger-root "$tree" "$SEEDS/rootfs.ext4" "$ROOT_SIZE" 0755
write_ext4 banger-work "$tree/root" "$SEEDS/work.ext4" "$WORK_SIZE" 0700
