"""What each command is for, in one line: the head of `bramble --help`, of the reference and of completion.

It stands here, and not only with the commands, so that help and a press of the tab key import none of them:
that takes a Raspberry Pi seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Begin": {
        "init": "Write a commented cluster.yaml to start from.",
        "check": "Check a cluster.yaml; every problem at once.",
        "serve": "Boot, install, enrol and join the nodes.",
        "service": "Run 'bramble serve' as a service of systemd.",
        "lab": "Rehearse with virtual boards, without hardware.",
    },
    "Images and cards": {
        "base": "Stock images that cluster images are made from.",
        "build": "Build the disk image of a cluster.",
        "image": "Look at, compare and prove disk images.",
        "flash": "Write nodes' own images to cards and disks.",
        "boot-image": "Make boot.img and boot.sig, for HTTP boot.",
        "store": "The cache of bases, images and downloads.",
        "gc": "Remove from the cache what nobody needs.",
    },
    "See": {
        "status": "Is everything all right, and if not, what to type.",
        "nodes": "The nodes with their state, and boards that are held.",
        "show": "One node, or one board, and its timeline.",
        "logs": "The journal of the agent and of k3s on a node.",
        "doctor": "What is wrong here, or why a board does not boot.",
        "dashboard": "A link that opens the dashboard once.",
        "notify": "Tell people: webhooks, ntfy, e-mail.",
    },
    "Let in and keep out": {
        "approve": "Let a waiting node in, or one try again.",
        "reject": "Turn away the key that waits for a node.",
        "revoke": "Make everything void that a node may, at once.",
        "devices": "Device keys of boards.",
    },
    "Change": {
        "apply": "Put a changed cluster.yaml in force.",
        "reimage": "Install a node again.",
        "replace": "Give a dead board's name and place to another one.",
        "decommission": "Take a node out of its cluster for good.",
        "cancel": "Call off what was ordered of a node.",
        "rollout": "Install the whole fleet again, node by node.",
        "policy": "What would be re-imaged by itself now, and why not.",
        "lock": "Which nodes are re-imaged, and which keep others back.",
    },
    "Boards": {
        "power": "Switch a board's power.",
        "eeprom": "Bootloader settings of boards.",
        "agent": "The agent on the nodes, and its updates.",
        "run": "Run a command on a node.",
        "dhcp": "Help with DHCP servers that are not Bramble's.",
    },
    "Keep": {
        "backup": "Write everything of the control server into a file.",
        "restore": "Make a control server from a backup.",
        "snapshot": "Snapshots of etcd: the whole state of the cluster.",
        "recover": "Bring a cluster back that lost its servers.",
        "etcd": "The members of etcd.",
        "ca": "Replace the control server's CA.",
    },
    "Programs": {
        "token": "Tokens of the control API.",
        "api": "The control API: what a program can ask.",
        "completion": "The completion script of bash, zsh or fish.",
    },
}
"""What people want to do → command → what it is for."""
