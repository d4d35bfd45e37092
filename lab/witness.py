"""A witness: what a rehearsal adds to an image's initramfs, in memory, to learn how its boot went. Pure.

initramfs-tools reads /conf/param.conf after each of its scripts. Ours puts a unit and a script into /run,
which moves on to the real root: nothing on the disk is changed, and the unit is gone with the power. Once the
boot is over (cloud-init too, where it is) the script writes what it sees to the serial line, a line for each
fact:

    <nonce>|<key>|<value>

between lines of other origin, and ``<nonce>|end|`` at last. Images whose initramfs was made by something else
than initramfs-tools (Debian, Raspberry Pi OS and Ubuntu up to 25.04 use it) say nothing this way.

Source: initramfs-tools(7), "Boot scripts"; run_scripts in its scripts/functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

UNIT: Final = "bramble-witness.service"
SERIAL: Final = "/dev/ttyAMA0"
MAX_VALUE_CHARS: Final = 1000

_PARAM_CONF: Final = f"""\
if [ -d /run/initramfs ] && [ ! -e /run/bramble-witness ]; then
    mkdir -p /run/systemd/system/multi-user.target.wants
    cat /bramble-witness/unit > /run/systemd/system/{UNIT}
    cat /bramble-witness/report > /run/bramble-witness
    ln -s ../{UNIT} /run/systemd/system/multi-user.target.wants/{UNIT}
fi
"""
_UNIT: Final = """\
[Unit]
Description=Bramble's witness of this boot
ConditionPathExists=/run/bramble-witness

# "simple" and without an order: a boot that never ends, for some unit waits for ever, is reported too.
[Service]
Type=simple
ExecStart=/bin/sh /run/bramble-witness
"""
_REPORT: Final = r"""
out() { printf '\n%s|%s|%s\n' '@NONCE@' "$1" "$(printf %s "$2" | tr '\n' ' ' | cut -c 1-@MAX@)" > @SERIAL@; }
dmesg -n 1 2>/dev/null
if command -v cloud-init >/dev/null; then
    out cloud-init "$(timeout 600 cloud-init status --wait --long 2>&1 | tr '\n' ' ')"
    out datasource "$(cat /run/cloud-init/cloud-id 2>/dev/null) $(cloud-init query subplatform 2>/dev/null)"
    out instance-id "$(cat /var/lib/cloud/data/instance-id 2>/dev/null)"
fi
waited=0
while [ "$(systemctl is-system-running 2>/dev/null)" = starting ] && [ $waited -lt @SETTLE@ ]; do
    sleep 1
    waited=$((waited + 1))
done
out system "$(systemctl is-system-running)"
systemctl list-units --failed --no-legend --plain | while read -r unit rest; do
    out failed "$unit"
    out log "$unit: $(journalctl -b -u "$unit" -n 3 -o cat --no-pager)"
done
out jobs "$(systemctl list-jobs --no-legend | tr -s ' ')"
out hostname "$(hostname)"
out fqdn "$(hostname -f 2>/dev/null)"
out timezone "$(readlink -f /etc/localtime | sed 's|.*/zoneinfo/||')"
out kernel "$(uname -r)"
out page-bytes "$(getconf PAGESIZE)"
out model "$(tr -d '\0' < /proc/device-tree/model)"
out cmdline "$(cat /proc/cmdline)"
out controllers "$(cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null)"
out root "$(findmnt -n -b -o SOURCE,SIZE /)"
out boot "$(findmnt -n -o SOURCE /boot/firmware || findmnt -n -o SOURCE /boot)"
out disk-id "$(blkid -s PARTUUID -o value "$(findmnt -n -o SOURCE /)")"
ip -o -4 address show scope global | while read -r n name family address rest; do
    out address "$name $address"
done
out route "$(ip -4 route show default)"
while IFS=: read -r name x uid gid gecos home shell; do
    if [ "$uid" -ge 1000 ] && [ "$uid" -lt 60000 ]; then
        out user "$name $shell"
        keys=$home/.ssh/authorized_keys
        [ ! -s "$keys" ] || while read -r line; do out key "$name $line"; done < "$keys"
    fi
done < /etc/passwd
enabled() { systemctl is-enabled "$1" 2>/dev/null; }
out ssh "$(enabled ssh.service) $(enabled ssh.socket)"
out host-keys "$(ls /etc/ssh/ssh_host_*_key 2>/dev/null | wc -l)"
out machine-id "$(cat /etc/machine-id)"
agent=bramble-agent.service
out agent "$(systemctl show $agent -p LoadState,ActiveState,SubState,NRestarts | tr '\n' ' ')"
out agent-log "$(journalctl -b -u $agent -n 4 -o cat --no-pager 2>/dev/null)"
mode=$(ls -l /usr/local/bin/k3s 2>/dev/null | cut -c 1-10)
out k3s "$mode $(enabled k3s.service) $(enabled k3s-agent.service)"
out k3s-images "$(ls /var/lib/rancher/k3s/agent/images 2>/dev/null | tr '\n' ' ')"
out modules "$(for m in br_netfilter overlay vxlan; do [ -d /sys/module/$m ] && echo $m; done)"
out end ""
"""

DEAD_ENDS: Final = (
    (r"Kernel panic - not syncing: [^\n]*", "the kernel panicked"),
    (r"You are in emergency mode", "systemd gave up: emergency mode"),
    (r"Give root password for maintenance", "systemd gave up and asks for the root password"),
    (r"ALERT!\s+\S+ does not exist", "the initramfs did not find the root"),
    (r"^\(initramfs\) ", "the initramfs ended in its shell"),
    (r"Run /\S+ as init process\n.*No working init found", "no init on the root"),
    (r"first boot \(stand-in\) failed: [^\n]*", "the stock first boot failed"),
)
"""What a console shows of a boot that is not going to end well: (pattern, in words)."""
LOGIN: Final = r"^\S+ login: "
COMPLAINT: Final = re.compile(r"^.*(?:Failed to start|Dependency failed for|FAILED\]).*$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the guest said of itself: key → values in the order in which they came."""

    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def one(self, key: str) -> str:
        """The first value; empty where there is none."""
        return next(iter(self.facts.get(key, ())), "")

    def all(self, key: str) -> tuple[str, ...]:
        return self.facts.get(key, ())


def witness_files(nonce: str, *, settle_s: int = 120) -> dict[str, bytes]:
    """Files to append to an initramfs, paths without a leading slash.

    Args:
        nonce: letters and digits that mark the report's lines; new for each boot.
        settle_s: seconds that units which are still starting get before the report.
    """
    if not re.fullmatch(r"[A-Za-z0-9]{8,64}", nonce):
        raise ValueError(f"the nonce {nonce!r} is not 8 to 64 letters and digits")
    report = (
        _REPORT.replace("@NONCE@", nonce)
        .replace("@SERIAL@", SERIAL)
        .replace("@MAX@", str(MAX_VALUE_CHARS))
        .replace("@SETTLE@", str(settle_s))
    )
    return {
        "conf/param.conf": _PARAM_CONF.encode(),
        "bramble-witness/unit": _UNIT.encode(),
        "bramble-witness/report": report.encode(),
    }


def report_end(nonce: str) -> str:
    """Pattern of the line that ends a report."""
    return rf"^{nonce}\|end\|"


def parse_report(console: str, nonce: str) -> Report:
    """The report in a console's text; lines that something else wrote into are lost."""
    facts: dict[str, list[str]] = {}
    for match in re.finditer(rf"^{nonce}\|([a-z0-9-]+)\|(.*)$", console, re.M):
        facts.setdefault(match[1], []).append(match[2].strip())
    return Report(facts={key: tuple(values) for key, values in facts.items()})


def find_dead_end(console: str) -> str | None:
    """In words, why this boot is not going to end well; None while nothing says so."""
    for pattern, words in DEAD_ENDS:
        found = re.search(pattern, console, re.M)
        if found:
            return f"{words}: {found.group().strip()[:200]}"
    return None


def complaints(console: str) -> tuple[str, ...]:
    """Lines in which systemd says that something did not start, each once."""
    return tuple(dict.fromkeys(line.strip()[:200] for line in COMPLAINT.findall(console)))
