#!/bin/sh
# Stand-in for the initramfs scripts of Raspberry Pi OS trixie that the word "resize" arms, written for test images. It
# runs after the root is mounted and before it becomes the root, and leaves the work to the root's own programs.
[ "${1:-}" != prereqs ] || exit 0
case " $(cat /proc/cmdline) " in *" resize "*) ;; *) exit 0 ;; esac
# shellcheck disable=SC2154  # initramfs-tools exports it
root=$rootmnt
mount -o remount,rw "$root"
for place in dev proc sys; do mount -o bind "/$place" "$root/$place"; done
chroot "$root" /bin/sh /usr/lib/raspberrypi-sys-mods/resize || echo "first boot (stand-in) failed: resize"
for place in sys proc dev; do umount "$root/$place"; done
mount -o remount,ro "$root"
