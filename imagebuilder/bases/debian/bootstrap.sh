#!/bin/sh
# Make a Debian arm64 tree. Runs as root of our sandbox (imagebuilder/sandbox.py): mounts end with it, owners are real.
# bases/debian.py writes the inputs, starts this and reads its output; "bramble: PHASE" lines mark progress.
#
#   $1  directory with the inputs  packages (names)  debian.sources  apt.conf  suite
#       and for the results        tree/  bootfs/ (files of the boot partition)  installed  kernel  epoch
#   $2  the directory of this script
#
# The time goes into arm64 programs under emulation, so: archives are unpacked by the host's own dpkg (dpkg --root; only
# maintainer scripts are emulated), and what packages would each do again (initramfs, certificates, hardware database,
# byte code) is done once at the end, on two cores.
set -eu
umask 022
WORK=$1 DATA=$2 TREE=$1/tree
say() { echo "bramble: $*"; }

# Nothing of the caller's environment gets into the image (PYTHONDONTWRITEBYTECODE alone would triple its first boot).
clean_env() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TZ=UTC DEBIAN_FRONTEND=noninteractive \
        DEBCONF_NONINTERACTIVE_SEEN=true "$@"
}
in_tree() { clean_env chroot "$TREE" "$@"; }

download() {
    say download
    # "extract" downloads and extracts, and leaves configuring to us.
    set -- --verbose --variant=extract --mode=root --format=directory --architectures=arm64 --skip=cleanup
    while read -r package; do set -- "$@" "--include=$package"; done < "$WORK/packages"
    mmdebstrap "$@" --include='?essential' --include='?priority(required)' --aptopt="$WORK/apt.conf" \
        "$(cat "$WORK/suite")" "$TREE" "$WORK/debian.sources"
    # The newest date that the archive itself gives: the "now" of everything in the image.
    sed -n 's/^Date: //p' "$TREE"/var/lib/apt/lists/*_InRelease | date --file=- +%s | sort -n | tail -1 > "$WORK/epoch"
    EPOCH=$(cat "$WORK/epoch")
}

enter() {
    mkdir -p "$TREE/boot/firmware"
    mount -t tmpfs -o mode=755 none "$TREE/run"
    mount -t proc none "$TREE/proc"
    mount --rbind /dev "$TREE/dev"
    mount --rbind /sys "$TREE/sys"
    # The host's dpkg must not apply the host's own configuration (containers exclude paths).
    mount -t tmpfs none /etc/dpkg
    echo '#!/bin/sh' > "$TREE/run/nothing" # a program that does nothing, for sh and for Python
    printf '#!/bin/sh\nexit 101\n' > "$TREE/usr/sbin/policy-rc.d" # no daemon starts in here
    chmod 755 "$TREE/run/nothing" "$TREE/usr/sbin/policy-rc.d"
}

unpack() {
    say unpack
    # Everything is extracted already, so pre-installation scripts find what they call, in whatever order.
    clean_env dpkg --root="$TREE" --log="$TREE/var/log/dpkg.log" --force-unsafe-io --force-depends --force-confold \
        --no-triggers --unpack "$TREE"/var/cache/apt/archives/*.deb
    rm -f "$TREE"/var/cache/apt/archives/*.deb
}

stub() { for path; do [ ! -e "$TREE/$path" ] || mount --bind "$TREE/run/nothing" "$TREE/$path"; done; }
unstub() { for path; do [ ! -e "$TREE/$path" ] || umount "$TREE/$path"; done; }

LATER="usr/sbin/update-initramfs usr/sbin/update-ca-certificates usr/bin/systemd-hwdb usr/bin/py3compile
    usr/lib/python3.13/py_compile.py"
NEVER=usr/bin/ssh-keygen # each board makes its own host keys

configure() {
    say configure
    # shellcheck disable=SC2086  # a list of paths without spaces
    stub $LATER $NEVER
    in_tree dpkg --force-unsafe-io --configure -a
    # shellcheck disable=SC2086
    unstub $LATER $NEVER
}

customise() {
    say customise
    cp -R "$DATA/rootfs/." "$TREE/"
    # What raspi-firmware put there on its own, and the firmware of boards before the Pi 4, which Bramble does not serve.
    rm -f "$TREE"/boot/firmware/vmlinuz-* "$TREE"/boot/firmware/initrd.img-* "$TREE"/boot/firmware/c*.txt \
        "$TREE"/boot/firmware/bootcode.bin "$TREE"/boot/firmware/start.elf "$TREE"/boot/firmware/start_*.elf \
        "$TREE"/boot/firmware/fixup.dat "$TREE"/boot/firmware/fixup_*.dat "$TREE"/boot/firmware/bcm283*.dtb
    mkdir -p "$TREE/usr/share/bramble/diverted"
    for hook in kernel/postinst.d kernel/postrm.d initramfs/post-update.d; do
        in_tree dpkg-divert --quiet --local --rename \
            --divert "/usr/share/bramble/diverted/${hook##*/}-raspi-firmware" --add "/etc/$hook/z50-raspi-firmware"
        install -m 755 "$DATA/boot-files-hook" "$TREE/etc/$hook/z50-raspi-firmware"
    done
    mv "$TREE"/etc/apt/sources.list.d/*debian.sources "$TREE/etc/apt/sources.list.d/debian.sources"
    rm -f "$TREE/etc/apt/sources.list"
    # Boards call their port eth0, as on Raspberry Pi OS: one name in documents and in cluster.yaml.
    ln -sf /dev/null "$TREE/etc/systemd/network/99-default.link"
    ln -sf /dev/null "$TREE/etc/systemd/network/73-usb-net-by-mac.link"
    # Timers that would run apt or scrub filesystems in the middle of a first boot, and a locale nobody generates.
    for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service; do
        ln -sf /dev/null "$TREE/etc/systemd/system/$unit"
    done
    in_tree systemctl --quiet enable systemd-networkd.service systemd-resolved.service
    in_tree env "SOURCE_DATE_EPOCH=$EPOCH" useradd --uid 1000 --user-group --create-home --shell /bin/bash --comment 'Raspberry Pi' \
        --groups adm,dialout,cdrom,audio,video,plugdev,users,sudo --password '!' pi
    echo 'LANG=C.UTF-8' > "$TREE/etc/default/locale"
}

# What packages asked for during "configure", once. Two lists run side by side; each is bound by one core.
finish() {
    say finish
    in_tree env "SOURCE_DATE_EPOCH=$EPOCH" update-initramfs -c -k all &
    initramfs=$!
    in_tree update-ca-certificates
    in_tree systemd-hwdb --usr update
    # Byte code of what a first boot imports: cloud-init and what it needs, and the modules of the agent. As root, Python
    # keeps what it compiles; compiling the whole library takes four times as long and mostly for nothing.
    in_tree python3 - < "$DATA/import-all"
    wait "$initramfs"
}

clean() {
    say clean
    mv "$TREE/boot/firmware" "$WORK/bootfs"
    mkdir "$TREE/boot/firmware"
    cp -R "$DATA/firmware/." "$WORK/bootfs/"
    rm -f "$TREE"/etc/ssh/ssh_host_* "$TREE"/var/cache/debconf/*-old "$TREE"/var/lib/dpkg/*-old "$TREE"/etc/*- \
        "$TREE"/etc/apt/apt.conf.d/??mmdebstrap "$TREE"/var/cache/apt/*.bin \
        "$TREE"/var/lib/systemd/random-seed "$TREE"/var/lib/dbus/machine-id "$TREE/usr/sbin/policy-rc.d"
    find "$TREE/var/log" -type f -delete
    rm -rf "$TREE"/var/lib/apt/lists/* "$TREE"/var/cache/apt/archives/* "$TREE"/tmp/* \
        "$TREE"/var/tmp/* "$TREE"/var/cache/ldconfig/aux-cache "$TREE"/usr/share/man "$TREE"/usr/share/info \
        "$TREE"/usr/share/lintian
    find "$TREE/usr/share/doc" ! -type d ! -name copyright -delete
    find "$TREE/usr/share/doc" -type d -empty -delete
    find "$TREE/usr/share/locale" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
    mkdir -p "$TREE/usr/share/man"
    echo uninitialized > "$TREE/etc/machine-id"
    # shellcheck disable=SC2016  # dpkg's own variables
    in_tree dpkg-query -W -f '${db:Status-Abbrev} ${binary:Package} ${Version}\n' > "$WORK/installed"
    find "$TREE/boot" -name 'vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V | tail -1 > "$WORK/kernel"
    # Umask and time of the build leave no traces.
    chmod -R go-w,a+rX "$WORK/bootfs"
    # Caches are up to date: systemd need not rebuild them at first boot. They count from the time of /usr.
    touch "$TREE/etc/.updated" "$TREE/var/.updated"
    touch --date="@$EPOCH" "$TREE/usr"
    find "$TREE" "$WORK/bootfs" \( -path "$TREE/proc" -o -path "$TREE/sys" -o -path "$TREE/dev" -o -path "$TREE/run" \) \
        -prune -o -newermt "@$EPOCH" -exec touch --no-dereference --date="@$EPOCH" {} +
}

download
enter
unpack
configure
customise
finish
clean
say complete
