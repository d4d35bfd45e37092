#!/bin/sh
set -e

if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
case "$1" in
remove)
    if [ -x /usr/bin/deb-systemd-helper ]; then
        deb-systemd-helper mask bramble.service >/dev/null || true
    fi
    ;;
purge)
    if [ -x /usr/bin/deb-systemd-helper ]; then
        deb-systemd-helper purge bramble.service >/dev/null || true
        deb-systemd-helper unmask bramble.service >/dev/null || true
    fi
    rm -rf /var/cache/bramble
    # The cluster's keys are in it: nobody but its owner decides about them.
    if [ -d /var/lib/bramble ]; then
        echo "bramble: kept /var/lib/bramble, which holds the cluster's keys" >&2
    fi
    ;;
esac
exit 0
