#!/bin/sh
# Install packages into a base's tree. Runs as root of our sandbox (imagebuilder/sandbox.py): mounts end with it, owners are real.
# packages/install.py writes the inputs, starts this and reads its output; "bramble: PHASE" lines mark progress.
#
#   $1  directory with the inputs  packages (names)  sources.list.d/  apt.conf  resolv.conf  boot/ (files of the boot partition)
#       and for the results        tree/  layer/  epoch  archives
#   $2  the base's disk image, as debugfs takes it (FILE?offset=BYTES)
#   $3  python3 and $4 capture.py
set -eu
umask 022
WORK=$1 DISK=$2 PYTHON=$3 CAPTURE=$4 TREE=$1/tree
say() { echo "bramble: $*"; }

# Nothing of the caller's environment gets into the image, but for the ways to the archive.
# Ubuntu's flash-kernel would look which board it is on, find this machine, and fail: its own switch keeps it from that. So the
# boot partition keeps the kernel and the initramfs that it has.
in_tree() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TZ=UTC DEBIAN_FRONTEND=noninteractive \
        DEBCONF_NONINTERACTIVE_SEEN=true SYSTEMD_OFFLINE=1 FLASH_KERNEL_SKIP=true APT_CONFIG=/run/bramble/apt.conf \
        ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} \
        ${no_proxy:+"no_proxy=$no_proxy"} ${EPOCH:+"SOURCE_DATE_EPOCH=$EPOCH"} chroot "$TREE" "$@"
}

extract() {
    say extract
    mkdir "$TREE"
    # debugfs exits 0 whatever happens; it says on stderr what went wrong.
    debugfs -R "rdump / $TREE" "$DISK" 2>"$WORK/debugfs.log" >&2
    if grep -v '^debugfs [0-9]' "$WORK/debugfs.log" >&2; then exit 1; fi
    mkdir -p "$TREE/boot/firmware"
    cp -R "$WORK/boot/." "$TREE/boot/firmware/"
    "$PYTHON" -I "$CAPTURE" snapshot "$TREE" "$WORK/before.json"
}

# Empty directories over those that only the package manager uses: what apt downloads never gets into the tree.
hide() { for path; do [ ! -d "$TREE/$path" ] || mount -t tmpfs -o "mode=${MODE:-755}" none "$TREE/$path"; done; }

enter() {
    mount --bind "$TREE/boot/firmware" "$TREE/boot/firmware" # a mount point, as on a node: hooks look for one
    hide run
    MODE=1777 hide tmp var/tmp
    mount -t proc none "$TREE/proc"
    mount --rbind /dev "$TREE/dev"
    mount --rbind /sys "$TREE/sys"
    mkdir -p "$WORK/lists" "$WORK/cache" "$TREE/run/bramble"
    mount --bind "$WORK/lists" "$TREE/var/lib/apt/lists"
    mount --bind "$WORK/cache" "$TREE/var/cache/apt"
    cp -R "$WORK/apt.conf" "$WORK/sources.list.d" "$TREE/run/bramble/"
    if [ -r /etc/ssl/certs/ca-certificates.crt ]; then
        cp /etc/ssl/certs/ca-certificates.crt "$TREE/run/bramble/ca.crt"
        echo 'Acquire::https::CAInfo "/run/bramble/ca.crt";' >> "$TREE/run/bramble/apt.conf"
    fi
    # Name resolution as on this host. A link to /run needs only its target; a file is covered.
    if [ -L "$TREE/etc/resolv.conf" ]; then
        target=$(readlink "$TREE/etc/resolv.conf")
        case $target in
            /run/* | ../run/*) mkdir -p "$TREE/run/${target#*run/}" && rmdir "$TREE/run/${target#*run/}" &&
                cp "$WORK/resolv.conf" "$TREE/run/${target#*run/}" ;;
            *) echo "bramble: /etc/resolv.conf of the image links to $target, which is not there during the build" >&2 ;;
        esac
    elif [ -e "$TREE/etc/resolv.conf" ]; then
        mount --bind "$WORK/resolv.conf" "$TREE/etc/resolv.conf"
    else
        cp "$WORK/resolv.conf" "$TREE/etc/resolv.conf"
        touch "$WORK/resolv.added"
    fi
    # No service starts in here: neither through the init system's front doors nor past them.
    printf '#!/bin/sh\nexit 101\n' > "$TREE/run/bramble/no-services"
    printf '#!/bin/sh\nexit 0\n' > "$TREE/run/bramble/nothing"
    chmod 755 "$TREE/run/bramble/no-services" "$TREE/run/bramble/nothing"
    if [ -e "$TREE/usr/sbin/policy-rc.d" ]; then
        mount --bind "$TREE/run/bramble/no-services" "$TREE/usr/sbin/policy-rc.d"
    else
        cp "$TREE/run/bramble/no-services" "$TREE/usr/sbin/policy-rc.d"
        touch "$WORK/policy.added"
    fi
    # They do run on the node, where Debian enables them. Its helper asks the presets (deb-systemd-helper, "enable"), and that of
    # our bases, which is for a first boot, would have none of them.
    : > "$TREE/run/bramble/no-preset"
    preset=$TREE/etc/systemd/system-preset/00-bramble.preset
    [ ! -e "$preset" ] || mount --bind "$TREE/run/bramble/no-preset" "$preset"
    for path in usr/sbin/start-stop-daemon usr/sbin/service; do
        [ ! -e "$TREE/$path" ] || mount --bind "$TREE/run/bramble/nothing" "$TREE/$path"
    done
}

install_packages() {
    say update
    in_tree apt-get -q update
    # The newest date that the archives give: the "now" of everything that is written from here on.
    sed -n 's/^Date: //p' "$WORK"/lists/*Release | date --file=- +%s | sort -n | tail -1 > "$WORK/epoch"
    EPOCH=$(cat "$WORK/epoch")
    [ -n "$EPOCH" ] || { echo "bramble: no archive gives a date" >&2; exit 1; }
    (cd "$WORK/lists" && sha256sum -- *Release) > "$WORK/archives"
    say install
    set --
    while read -r package; do set -- "$@" "$package"; done < "$WORK/packages"
    in_tree apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Options::=--force-unsafe-io -o DPkg::Options::=--force-confdef \
        -o DPkg::Options::=--force-confold install "$@"
}

forget_identities() {
    # Debian's open-iscsi draws its initiator's name when it is installed. An image is many nodes, and a target takes
    # two of one name for one. With this line its service draws a name where it first starts (startup-checks.sh).
    if grep -qs '^InitiatorName=' "$TREE/etc/iscsi/initiatorname.iscsi"; then
        echo 'GenerateName=yes' > "$TREE/etc/iscsi/initiatorname.iscsi"
    fi
}

capture() {
    say capture
    # Innermost first; what is left of mounts ends with the sandbox.
    umount -l "$TREE/dev" "$TREE/sys" "$TREE/proc"
    awk -v tree="$TREE/" 'index($2, tree) == 1 {print $2}' /proc/mounts | sort -r | while read -r mounted; do
        umount -l "$mounted"
    done
    [ ! -e "$WORK/policy.added" ] || rm "$TREE/usr/sbin/policy-rc.d"
    [ ! -e "$WORK/resolv.added" ] || rm -f "$TREE/etc/resolv.conf"
    EPOCH=$EPOCH "$PYTHON" -I "$CAPTURE" compare "$TREE" "$WORK/before.json" "$WORK/layer"
}

extract
enter
install_packages
forget_identities
capture
say complete
