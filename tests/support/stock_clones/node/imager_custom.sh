#!/bin/sh
# Stand-in for raspberrypi-sys-mods' imager_custom, written for test images: the verbs that firstrun.sh uses.
set -eu
verb=$1
shift
case $verb in
set_hostname)
    old=$(cat /etc/hostname)
    echo "$1" > /etc/hostname
    sed -i "s/127\.0\.1\.1.*$old/127.0.1.1\t$1/" /etc/hosts
    ;;
enable_ssh)
    if [ "${1:-}" = -k ]; then
        shift
        home=$(getent passwd 1000 | cut -d: -f6)
        install -d -o 1000 -g 1000 -m 700 "$home/.ssh"
        printf '%s\n' "$@" > "$home/.ssh/authorized_keys"
        chown 1000:1000 "$home/.ssh/authorized_keys"
        chmod 600 "$home/.ssh/authorized_keys"
        printf 'PasswordAuthentication no\n' > /etc/ssh/sshd_config.d/10-imager.conf
    fi
    systemctl enable ssh
    ;;
set_timezone)
    echo "$1" > /etc/timezone
    ln -sf "/usr/share/zoneinfo/$1" /etc/localtime
    ;;
set_keymap)
    sed -i "s/^XKBLAYOUT=.*/XKBLAYOUT=\"$1\"/" /etc/default/keyboard
    ;;
set_wlan)
    echo "set_wlan: the stand-in has no radio" >&2
    ;;
*)
    echo "imager_custom: unknown verb $verb" >&2
    exit 1
    ;;
esac
