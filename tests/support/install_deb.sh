#!/bin/sh
# Run by tests: install, upgrade, downgrade, remove and purge Bramble's package in a copy of this system that nobody else sees.
#   unshare --user --map-root-user --mount install_deb.sh DIRECTORY NEW.deb OLD.deb CLUSTER.yaml
# Every change goes into memory: /usr, /etc and /var are read through overlays.
set -eu
work=$1 new=$2 old=$3 cluster=$4

mount -t tmpfs tmpfs "$work"
cd "$work"
mkdir m m/tmp m/dev m/proc m/run m/root
for top in usr etc var; do
    mkdir "up-$top" "work-$top" "m/$top"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=$work/up-$top,workdir=$work/work-$top,userxattr" "m/$top"
done
for link in bin sbin lib lib64; do [ ! -e "/$link" ] || ln -s "usr/$link" "m/$link"; done
mount --rbind /dev m/dev
mount --rbind /proc m/proc
# Their group is none in this user namespace, so useradd could not replace them.
for file in passwd group shadow gshadow; do
    cat "/etc/$file" >copy
    rm -f "m/etc/$file" "m/etc/$file-"
    cat copy >"m/etc/$file"
done
cp "$new" m/tmp/new.deb
cp "$old" m/tmp/old.deb
cp "$cluster" m/tmp/cluster.yaml

inside() { chroot m env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
say() { printf '== %s\n' "$*"; }

say install
inside dpkg -i /tmp/old.deb
say run
inside bramble --version
inside bramble check /tmp/cluster.yaml
inside bramble service install /tmp/cluster.yaml --dry-run | sed -n 's/^ExecStart=/ExecStart=/p'
say user
inside getent passwd bramble
say enabled
inside ls /etc/systemd/system/multi-user.target.wants/bramble.service
say preset
# As Debian 13 enables it, on an image of ours.
mkdir -p m/etc/systemd/system-preset
echo 'disable *' >m/etc/systemd/system-preset/00-bramble.preset
rm m/etc/systemd/system/multi-user.target.wants/bramble.service
inside systemctl --root=/ --preset-mode=enable-only preset bramble.service 2>/dev/null
inside ls /etc/systemd/system/multi-user.target.wants/bramble.service
say compiled
inside find /usr/lib/bramble/common/bramble -name 'cli.*.pyc'
say verify
inside dpkg -V bramble
say unit
inside systemd-analyze verify /usr/lib/systemd/system/bramble.service
version() { inside dpkg -s bramble | sed -n 's/^Version: //p'; }

say upgrade
inside dpkg -i /tmp/new.deb
version
say downgrade
inside dpkg -i /tmp/old.deb
version
say purge
inside mkdir -p /var/lib/bramble/attic
inside dpkg -P bramble
say left
inside find /usr/lib/bramble /usr/bin/bramble /var/cache/bramble /etc/systemd/system/multi-user.target.wants/bramble.service \
    /var/lib/bramble -maxdepth 1 2>/dev/null || true
say end
