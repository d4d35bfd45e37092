"""The words of the timeline, in one place: what is written when something happens to a board.

Texts say what happened; a hint says what to do next and is empty where nothing needs doing. No secret is ever
a part of an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.protocol import Occupant, Stage
from fleet.enrolment import WAITS, Decision
from fleet.health.conditions import TRAITS, Condition
from fleet.lifecycle import MAX_ATTEMPTS, State
from fleet.printable import printable
from fleet.spec.model import Role
from fleet.timeline import Entry, Kind


def intent_opened(number: int, expires_in_s: float) -> Entry:
    hours = round(expires_in_s / 3600)
    text = f"intent {number} opened: this node may be installed once, within {hours} h"
    return Entry(kind=Kind.INTENT, text=text, detail={"intent": number})


def intent_extended(number: int, expires_in_s: float) -> Entry:
    text = f"intent {number} extended by {round(expires_in_s / 3600)} h: the node still waits"
    return Entry(kind=Kind.INTENT, text=text, detail={"intent": number})


def intent_closed(number: int, why: str) -> Entry:
    return Entry(kind=Kind.INTENT, text=f"intent {number} closed: {why}", detail={"intent": number})


def attempt_started(attempt: int) -> Entry:
    return Entry(
        kind=Kind.BOOT,
        text=f"took the installer's kernel (attempt {attempt} of {MAX_ATTEMPTS})",
        detail={"attempt": attempt},
    )


def quarantined(name: str) -> Entry:
    return Entry(
        kind=Kind.STATE,
        text=f"quarantined: {MAX_ATTEMPTS} boots of the installer ended without an installation",
        hint=f"Mend what the last attempt complained of, then 'bramble approve {name}' lets it try again.",
    )


def installer_decided(decision: Decision, fingerprint: str, name: str) -> Entry:
    hint = ""
    if decision.reason.startswith(WAITS):
        hint = f"Compare {fingerprint} with the board's screen, then run 'bramble approve {name}'."
    return Entry(
        kind=Kind.ALARM if decision.is_alarm else Kind.ADMISSION,
        text=f"installer {decision.outcome.value}: {decision.reason} (key {fingerprint})",
        hint=hint,
        detail={"outcome": decision.outcome.value, "fingerprint": fingerprint},
    )


def agent_decided(decision: Decision, fingerprint: str, name: str, *, can_be_approved: bool = False) -> Entry:
    """What an agent was answered; `can_be_approved` when its key waits now."""
    hint = ""
    if can_be_approved:
        hint = f"If {fingerprint} is what bramble-agent's status shows there, run 'bramble approve {name}'."
    if decision.is_alarm:
        copied = "If nobody moved this disk to another board, somebody copied it: check the boards' network."
        hint = f"{hint} {copied}" if hint else copied
    return Entry(
        kind=Kind.ALARM if decision.is_alarm else Kind.ENROLMENT,
        text=f"agent {decision.outcome.value}: {decision.reason} (key {fingerprint})",
        hint=hint,
        detail={"outcome": decision.outcome.value, "fingerprint": fingerprint},
    )


def stranger_decided(decision: Decision, fingerprint: str, stage: Stage) -> Entry:
    """What a board was answered that is no node of cluster.yaml, or not clearly one."""
    return Entry(
        kind=Kind.ALARM if decision.is_alarm else Kind.ADMISSION,
        text=f"{stage.value} {decision.outcome.value}: {decision.reason} (key {fingerprint})",
        detail={"outcome": decision.outcome.value, "fingerprint": fingerprint},
    )


def contested(name: str) -> Entry:
    return Entry(
        kind=Kind.ALARM,
        text="quarantined: while it was being installed, a second board claimed to be this node",
        hint="Find the board that does not belong here (both are in this timeline) and switch it off; then "
        f"'bramble approve {name}' lets the other one try again. What either was given is void.",
    )


def cloned(name: str) -> Entry:
    return Entry(
        kind=Kind.ALARM,
        text="its certificate was used from another board, so the disk was copied: it is suspended",
        hint=f"Switch one of the two boards off; 'bramble approve {name}' lets the other in when it asks "
        "again. Install the copy anew. If the disk was moved on purpose, approve it as well.",
    )


def device_pinned(fingerprint: str, name: str) -> Entry:
    return Entry(
        kind=Kind.ENROLMENT,
        text=f"device key {fingerprint} is this board's from now on; without it the node is not let in",
        hint=f"If the board is ever replaced: 'bramble devices forget {name}'.",
        detail={"fingerprint": fingerprint},
    )


def device_forgotten(count: int) -> Entry:
    return Entry(kind=Kind.ENROLMENT, text=f"a person had {count} device key(s) of this node forgotten")


def key_rejected(fingerprint: str) -> Entry:
    return Entry(kind=Kind.ADMISSION, text=f"rejected by a person (key {fingerprint})")


def revoked(name: str) -> Entry:
    return Entry(
        kind=Kind.ALARM,
        text="revoked by a person: its certificate, its tickets and what it waited for are void",
        hint=f"Its k3s credentials are Kubernetes' own: 'kubectl delete node {name}' ends them. "
        f"'bramble approve {name}' lifts the revocation.",
    )


def revocation_lifted() -> Entry:
    return Entry(kind=Kind.ADMISSION, text="a person lifted the revocation; its agent may ask again")


def approved(fingerprint: str) -> Entry:
    return Entry(kind=Kind.ADMISSION, text=f"approved by a person (key {fingerprint})")


def released(number: int) -> Entry:
    return Entry(kind=Kind.INTENT, text=f"released from quarantine by a person; intent {number} opened")


def plan_given(image_id: str, disk: str, intent: int) -> Entry:
    return Entry(
        kind=Kind.INSTALL,
        text=f"install plan handed out: image {image_id[:12]} to the {disk} disk",
        detail={"image_id": image_id, "intent": intent},
    )


def disk_occupied(occupant: Occupant, name: str) -> Entry:
    """An installer found a node on its disk that this store has no record of."""
    node, cluster, image = (
        printable(text, 80) for text in (occupant.node, occupant.cluster, occupant.image_id[:12])
    )
    return Entry(
        kind=Kind.ALARM,
        text=f"not installed: the disk holds {node} of cluster {cluster} (image {image}) and was not touched",
        hint="This server has no record of it; if its state directory was lost, restore it and switch the "
        f"board off and on; to install anyway run 'bramble approve {name}'.",
        detail={"node": node, "cluster": cluster, "image_id": image},
    )


def disk_changed(own: str, found: str, name: str) -> Entry:
    """An installer found another disk than the one that the node was installed on."""
    own, found = printable(own, 200), printable(found, 200)
    return Entry(
        kind=Kind.ALARM,
        text=f"not installed: the node was installed on {own}; the board has {found} now, which was not "
        "touched",
        hint=f"If the disk was changed on purpose, 'bramble approve {name}' lets it be erased, or its serial "
        "in cluster.yaml; else put the node's own disk back and switch the board off and on.",
        detail={"own": own, "found": found},
    )


def came_by_order(number: int) -> Entry:
    """The installer's firmware shows what the agent left in it before it restarted the board."""
    return Entry(
        kind=Kind.BOOT, text=f"it came by the boot order for one start, with intent {number} in boot_arg1"
    )


def install_step(step: str, message: str) -> Entry:
    text = f"installer: {step}" + (f" ({message})" if message else "")
    return Entry(kind=Kind.INSTALL, text=text, detail={"step": step})


def install_failed(step: str, message: str, hint: str) -> Entry:
    return Entry(
        kind=Kind.INSTALL, text=f"installation failed in {step}: {message}", hint=hint, detail={"step": step}
    )


def installed(disk: str, bytes_written: int, seconds: float) -> Entry:
    text = f"installed and verified: {bytes_written / 1e6:.0f} MB in {seconds:.0f} s on {disk}"
    return Entry(kind=Kind.INSTALL, text=text, detail={"bytes_written": bytes_written, "seconds": seconds})


def handout_begun(number: int) -> Entry:
    text = f"its own image is being written outside of the network boot (intent {number})"
    return Entry(kind=Kind.INSTALL, text=text, detail={"intent": number})


def handed_out(medium: str, number: int) -> Entry:
    return Entry(
        kind=Kind.INSTALL,
        text=f"its own image was written to {medium} (intent {number}); it boots from there",
        hint="Put it into the board and switch it on. It holds a single-use ticket: keep it to yourself.",
        detail={"intent": number, "medium": medium},
    )


def may_join(reason: str) -> Entry:
    return Entry(kind=Kind.JOIN, text=f"may join: {reason}")


def join_waits(reason: str) -> Entry:
    return Entry(kind=Kind.JOIN, text=f"waits to join: {reason}")


def role_changed(installed: Role, declared: Role) -> Entry:
    """An installed node has another role in cluster.yaml by now."""
    return Entry(
        kind=Kind.ALARM,
        text=f"cluster.yaml says role {declared.value}; it was installed as {installed.value} and keeps that",
        hint=f"Declare it as {installed.value} again, or erase its disk and declare it under another name.",
    )


def identity_changed(name: str) -> Entry:
    """An installed node's declared serial or MAC is another board's by now."""
    return Entry(
        kind=Kind.ALARM,
        text="cluster.yaml names another serial or MAC than the board that was installed",
        hint=f"If its disk moved to that board, let its agent in with 'bramble approve {name}' if it asks; a "
        "blank board needs a new name under 'nodes:'.",
    )


def founder_released() -> Entry:
    return Entry(
        kind=Kind.JOIN,
        text="no longer the server that founds the cluster: it never was Ready; the next one does",
    )


def founder_kept(name: str) -> Entry:
    return Entry(
        kind=Kind.ALARM,
        text="it was told how to found the cluster, and may have: no other server founds one",
        hint=f"'bramble approve {name}' lets it go on. Switch it off and take it out of cluster.yaml "
        "('bramble apply') to have the next server found the cluster.",
    )


def material_given(unit: str) -> Entry:
    return Entry(kind=Kind.JOIN, text=f"join material handed out for {unit}")


def k3s_changed(state: str, version: str | None) -> Entry:
    text = f"k3s is {state}" + (f", {version}" if version else "")
    return Entry(kind=Kind.JOIN, text=text, detail={"k3s": state})


def problem(code: str, message: str, hint: str, *, alarms: bool = False, lines: Sequence[str] = ()) -> Entry:
    """What stands in a node's way; `lines` are the journal's, where they say more than a class."""
    detail: dict[str, Any] = {"code": code}
    if lines:
        detail["lines"] = [printable(line, 300) for line in lines]
    kind = Kind.ALARM if alarms else Kind.HEALTH
    return Entry(kind=kind, text=f"{code}: {message}", hint=hint, detail=detail)


def join_answered(code: str) -> Entry:
    return Entry(
        kind=Kind.JOIN,
        text=f"new join material is made on account of {code}; this is done once",
        detail={"code": code},
    )


def token_made(seconds: float) -> Entry:
    return Entry(
        kind=Kind.JOIN,
        text=f"a join token was made for it alone, valid for {seconds / 60:.0f} min unless it asks again",
    )


def token_removed() -> Entry:
    return Entry(kind=Kind.JOIN, text="its join token was deleted from the cluster")


def old_member_removed() -> Entry:
    return Entry(
        kind=Kind.JOIN,
        text="its old Node object and etcd member are being removed: it was installed again",
    )


def expelled() -> Entry:
    return Entry(
        kind=Kind.STATE,
        text="its etcd member was removed while it was away: it joins anew, its old data is set aside",
        hint="To keep it out, remove it from cluster.yaml and run 'bramble apply'.",
    )


def lost_its_certificate() -> Entry:
    return Entry(
        kind=Kind.STATE,
        text="the cluster does not know it any more, its kubelet's certificate is lost: it joins anew",
        hint="If it comes again, look at its disk (dmesg).",
    )


def lost_its_membership() -> Entry:
    return Entry(
        kind=Kind.STATE,
        text="its disk holds nothing of the cluster that it is a member of: it joins anew",
        hint="If nobody wrote its card without an order, look at its disk (dmesg).",
    )


def server_changed(url: str | None) -> Entry:
    text = f"finds the cluster at {url} from now on" if url else "is told of no other server from now on"
    return Entry(kind=Kind.JOIN, text=text, detail={"server": url})


def slow_disk(text: str) -> Entry:
    return Entry(
        kind=Kind.HEALTH,
        text=f"disk_slow: {text}",
        hint="Give servers an NVMe or USB SSD; 'policy.join.slow_disk: refuse' keeps such a node out.",
        detail={"code": "disk_slow"},
    )


def condition_changed(condition: Condition, began: bool, evidence: str) -> Entry:
    trait = TRAITS[condition]
    return Entry(
        kind=Kind.HEALTH,
        text=f"{trait.words}: {evidence}" if began else f"no longer so: {trait.words}",
        hint=trait.hint if began else "",
        detail={"condition": condition.value, "began": began},
    )


def degraded(causes: str, hint: str) -> Entry:
    return Entry(kind=Kind.STATE, text=f"degraded: {causes}", hint=hint)


def became_ready(version: str, simulated: bool) -> Entry:
    suffix = " (simulator)" if simulated else ""
    return Entry(kind=Kind.STATE, text=f"Ready, says the Kubernetes API; kubelet {version}{suffix}")


def became_unready(reason: str) -> Entry:
    return Entry(
        kind=Kind.STATE,
        text=f"no longer Ready, says the Kubernetes API: {reason}",
        hint="'journalctl -u k3s -u k3s-agent' on the node tells why.",
    )


def fell_silent(seconds: float) -> Entry:
    return Entry(
        kind=Kind.STATE,
        text=f"lost: no status for {seconds:.0f} s",
        hint="Is the board on, and its network cable in? It reports again by itself when it is back.",
    )


def heard_again() -> Entry:
    return Entry(kind=Kind.STATE, text="reports again")


def came_back(boot_number: int) -> Entry:
    return Entry(kind=Kind.BOOT, text=f"came back from its own disk (boot {boot_number})")


def timed_out(state: State, minutes: float) -> Entry:
    hints = {
        State.NETBOOTING: "Look at the board's screen; it goes on by itself when it is switched off and on.",
        State.PENDING: "Switch the board off and on to ask again.",
        State.IMAGING: "Switch the board off and on: it installs again from the start.",
        State.FIRST_BOOT: "Does it boot from the disk that was written? Check BOOT_ORDER.",
        State.JOINING: "'journalctl -u k3s -u k3s-agent -u bramble-agent' on the node tells why.",
        State.REIMAGE_REQUESTED: "Does the cluster's API answer? Nothing was changed.",
        State.PREFLIGHT: "Does the cluster's API answer? Nothing was changed.",
        State.DRAINING: "The lines above name the pods that stay; --force-drain deletes them at the limit.",
        State.REBOOT_TO_INSTALLER: "The lines above say what was tried, and what only a hand can do.",
    }
    return Entry(
        kind=Kind.STATE, text=f"{state} made no progress for {minutes:.0f} min", hint=hints.get(state, "")
    )


def board_held(model: str, reason: str) -> Entry:
    return Entry(
        kind=Kind.HELD,
        text=f"board held: {model}, {reason}",
        hint="Add it under 'nodes:' in cluster.yaml with this serial or MAC, then run 'bramble apply'.",
    )


def removed() -> Entry:
    return Entry(kind=Kind.STATE, text="no longer in cluster.yaml: decommissioned, its certificate is void")


def restored() -> Entry:
    return Entry(kind=Kind.STATE, text="in cluster.yaml again")


def eeprom_ordered(number: int, settings: Mapping[str, str]) -> Entry:
    wanted = ", ".join(f"{key}={value}" for key, value in settings.items())
    return Entry(
        kind=Kind.EEPROM,
        text=f"order {number}: bootloader settings are to be written, {wanted}",
        detail={"order": number, "settings": dict(settings)},
    )


def update_ordered(number: int, version: str, nodes: int) -> Entry:
    text = f"order {number}: agent {version} is to run on {nodes} node(s)"
    return Entry(kind=Kind.AGENT, text=text, detail={"order": number, "version": version})


def update_told(number: int, version: str) -> Entry:
    text = f"order {number}: told to run agent {version}"
    return Entry(kind=Kind.AGENT, text=text, detail={"order": number, "version": version})


def run_ordered(command: str, who: str) -> Entry:
    return Entry(kind=Kind.AUDIT, text=f"command by {who}: {command}", detail={"who": who})


def reimage_ordered(kind: str, by: str, why: str) -> Entry:
    text = f"{kind} ordered by {by}" + (f": {why}" if why else "")
    return Entry(kind=Kind.REIMAGE, text=text, detail={"by": by, "why": why})


def reimage_step(text: str, hint: str = "") -> Entry:
    return Entry(kind=Kind.REIMAGE, text=text, hint=hint)


def reimage_ended(kind: str, outcome: str, reason: str) -> Entry:
    text = f"{kind} {outcome}: {reason}"
    return Entry(kind=Kind.REIMAGE, text=text, detail={"outcome": outcome})


def declared() -> Entry:
    return Entry(kind=Kind.STATE, text="declared in cluster.yaml")


def restored_from_backup(age_s: float) -> Entry:
    return Entry(
        kind=Kind.STATE,
        text=f"the record was restored from a backup that is {_duration(age_s)} old: nothing that cannot be "
        "taken back is done to this node before it is heard of",
        hint="It goes on by itself when its agent reports or its installer asks.",
    )


def debt_forgiven(name: str, age_s: float | None) -> Entry:
    since = "" if age_s is None else f" {_duration(age_s)} ago"
    return Entry(
        kind=Kind.POWER,
        text=f"a power-cycle was under way{since}, when the backup was made that the record is from: how it "
        "ended is not known, and this server does not switch the board on for it",
        hint=f"'bramble power on {name}', if the board is dark and should not be.",
    )


def observed_again(what: str) -> Entry:
    return Entry(kind=Kind.STATE, text=f"observed again after the restore: {what}")


def _duration(seconds: float) -> str:
    minutes = max(round(seconds / 60), 0)
    if minutes >= 48 * 60:
        return f"{round(minutes / 60 / 24)} d"
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
