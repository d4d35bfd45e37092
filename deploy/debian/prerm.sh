#!/bin/sh
set -e

if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop bramble.service >/dev/null || true
fi
# What postinst compiled; dpkg does not know of it.
if [ -d /usr/lib/bramble ]; then
    find /usr/lib/bramble -type d -name __pycache__ -prune -exec rm -rf {} +
fi
exit 0
