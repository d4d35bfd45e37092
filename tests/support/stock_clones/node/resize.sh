#!/bin/sh
# Stand-in for what Raspberry Pi OS trixie does when its command line says "resize", written for test images: the root
# partition grows to its disk, the disk gets a new signature, and fstab and cmdline.txt follow.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
root=$(findmnt -n -o SOURCE /)
disk=/dev/$(lsblk -n -d -o PKNAME "$root")
growpart "$disk" "${root##*[!0-9]}" || true
resize2fs "$root"
modprobe vfat
mount /boot/firmware
old=$(sfdisk --disk-id "$disk" | sed 's/^0x//')
new=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
sfdisk --no-reread --force --disk-id "$disk" "0x$new"
sed -i "s/PARTUUID=$old/PARTUUID=$new/" /etc/fstab /boot/firmware/cmdline.txt
sed -i 's/ resize\b//' /boot/firmware/cmdline.txt
umount /boot/firmware
sync
echo "first boot (stand-in): disk signature $old is now $new"
