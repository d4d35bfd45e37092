#!/bin/sh
set -e

case "$1" in
configure | abort-upgrade | abort-deconfigure | abort-remove)
    if ! getent passwd bramble >/dev/null; then
        useradd --system --user-group --home-dir /var/lib/bramble --no-create-home \
            --shell /usr/sbin/nologin --comment Bramble bramble
    fi
    # Compiled once, here: the service's user may not write there, and a Pi takes seconds to compile it.
    python=$(readlink -f /usr/bin/python3)
    home=/usr/lib/bramble/${python##*/}
    if [ -x "$home/bin/python3" ]; then
        "$home/bin/python3" -m compileall -q -j 0 /usr/lib/bramble/common "$home/lib" >/dev/null || true
    fi
    if [ -x /usr/bin/deb-systemd-helper ]; then
        deb-systemd-helper unmask bramble.service >/dev/null || true
        if deb-systemd-helper --quiet was-enabled bramble.service; then
            deb-systemd-helper enable bramble.service >/dev/null || true
        else
            deb-systemd-helper update-state bramble.service >/dev/null || true
        fi
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        # Starts it at an installation, restarts it at an upgrade; without /etc/bramble/cluster.yaml it waits for one.
        deb-systemd-invoke restart bramble.service >/dev/null || true
    fi
    ;;
esac
exit 0
