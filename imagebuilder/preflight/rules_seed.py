"""Rules over first-boot settings: whether they are found, read, valid, and understood by this image. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from imagebuilder.inspect import Dialect
from imagebuilder.preflight.documents import Document, parse_yaml, schema_faults
from imagebuilder.preflight.evidence import Evidence
from imagebuilder.preflight.finding import Finding, error, note, warning
from imagebuilder.preflight.nocloud import Discovery, discover, parse_kernel_word, read_settings

SCHEMAS: Final = "/usr/lib/python3/dist-packages/cloudinit/config/schemas"
USER_SCHEMA: Final = f"{SCHEMAS}/schema-cloud-config-v1.json"
NETWORK_SCHEMAS: Final = {
    1: f"{SCHEMAS}/schema-network-config-v1.json",
    2: f"{SCHEMAS}/schema-network-config-v2.json",
}
LAST_INSTANCE: Final = "/var/lib/cloud/data/instance-id"
HEADERS: Final = (
    "#cloud-config",
    "## template: jinja",
    "#!",
    "#include",
    "#cloud-boothook",
    "Content-Type:",
    "MIME-Version:",
)

_HOST_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.I)
_SSH_KEY: Final = re.compile(r"(?:\S+ )?(?:ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/]+={0,3}(?: [^\n\r]*)?")


def check_cloud_init(evidence: Evidence) -> Iterator[Finding]:
    """The seed on the boot partition is found, and each of its files is valid."""
    if not evidence.facts.dialect.has_cloud_init:
        return
    settings = read_settings(evidence)
    for path, line, reason in settings.unreadable:
        yield error(
            "cloud-cfg",
            f"root:{path}:{line}",
            f"cloud-init ignores the file: {reason}",
            "Correct it; until then what it says about the datasource does not hold.",
        )
    discovery = discover(evidence, settings)
    yield from _discovered(evidence, discovery)
    yield from _meta_data(evidence)
    yield from _user_data(evidence)
    yield from _network_config(evidence, discovery)


def _discovered(evidence: Evidence, discovery: Discovery) -> Iterator[Finding]:
    seeds = [name for name in ("user-data", "meta-data") if evidence.boot.has(f"/{name}")]
    if discovery.found:
        yield note("nocloud-seed", "boot:/", f"cloud-init uses the seed here: {discovery.reason}")
    elif discovery.remote is not None:
        if seeds:
            yield warning(
                "nocloud-seed",
                "boot:/",
                f"{' and '.join(seeds)} here are ignored: {discovery.reason}",
                "Remove seedfrom from the command line or from /etc/cloud to use them.",
            )
    elif seeds or evidence.is_ours:
        yield error(
            "nocloud-seed",
            "boot:/",
            f"cloud-init ignores what is here ({', '.join(seeds) or 'nothing'}): {discovery.reason}",
            "In /etc/cloud/cloud.cfg.d: datasource_list: [NoCloud, None], and datasource: {NoCloud: "
            "{seedfrom: "
            "'file:///boot/firmware/'}}; user-data and meta-data must both be there.",
        )


def _meta_data(evidence: Evidence) -> Iterator[Finding]:
    place = "boot:/meta-data"
    data = evidence.boot.text("/meta-data")
    if data is None:
        return
    document = parse_yaml(data)
    yield from _yaml_findings(document, place, "meta-data")
    value = document.value if isinstance(document.value, dict) else {}
    instance_id = value.get("instance-id")
    word = parse_kernel_word(evidence.cmdline)
    from_kernel = word.options.get("instance-id") if word else None
    if instance_id is None and document.broken is None:
        underscore = "instance_id" in value
        yield (warning if underscore else note)(
            "instance-id",
            place,
            "it has no instance-id"
            + (
                " (instance_id, with an underscore, is not a word that cloud-init reads)"
                if underscore
                else ""
            )
            + ", so every disk from this image is the instance 'nocloud'",
            *(
                ["Write instance-id, with a value of its own for each node and installation."]
                if underscore
                else []
            ),
        )
    if instance_id is not None and from_kernel is not None and str(instance_id) != from_kernel:
        yield warning(
            "instance-id",
            place,
            f"instance-id is {instance_id!r} here and {from_kernel!r} in the command line's ds=",
            "Make them agree: cloud-init takes one at first boot and compares with the other later.",
        )
    last = evidence.root.text(LAST_INSTANCE)
    if last is not None and last.strip() in (str(instance_id), from_kernel):
        yield error(
            "instance-id",
            place,
            f"this image was booted as instance {last.strip()!r} already: users, keys and packages are set "
            "once per instance, so what is written here now is ignored",
            "Give it a new instance-id, or take an image that was never booted.",
        )
    name = value.get("local-hostname")
    if name is not None:
        labels = str(name).split(".")
        if not all(_HOST_LABEL.fullmatch(label) for label in labels) or str(name).isdecimal():
            yield error(
                "hostname",
                place,
                f"local-hostname {name!r} is no host name",
                "Letters, digits and hyphens, at most 63 for each part between dots.",
            )


def _user_data(evidence: Evidence) -> Iterator[Finding]:
    place = "boot:/user-data"
    raw = evidence.boot.read("/user-data")
    if raw is None or not raw.strip():
        return
    if raw.startswith(b"\xef\xbb\xbf"):
        yield error(
            "user-data-header",
            place,
            "it begins with a byte order mark, so cloud-init does not see '#cloud-config' and ignores the "
            "file",
            "Save it as UTF-8 without a byte order mark.",
        )
    text = raw.decode("utf-8", "replace").removeprefix("\ufeff")
    first = text.split("\n", 1)[0].rstrip("\r")
    if not first.startswith(HEADERS):
        yield error(
            "user-data-header",
            f"{place}:1",
            f"the first line is {first[:60]!r}; without '#cloud-config' there cloud-init ignores the file",
            "Make '#cloud-config' the first line, with nothing before it.",
        )
        return
    if not first.startswith("#cloud-config"):
        return  # a script, a template or an archive: other tools know them
    document = parse_yaml(text)
    yield from _yaml_findings(document, place, "user-data")
    if document.value is None:
        return
    if not isinstance(document.value, dict):
        yield error(
            "user-data",
            place,
            "it is no mapping of keys, so nothing of it holds",
            "Write it as 'key: value'.",
        )
        return
    yield from _schema(evidence, document.value, USER_SCHEMA, place)
    yield from _users(document.value, place)
    zone = document.value.get("timezone")
    if isinstance(zone, str) and not evidence.root.has(f"/usr/share/zoneinfo/{zone}"):
        yield error(
            "timezone",
            place,
            f"timezone {zone!r} is not in the image's /usr/share/zoneinfo; the clock stays at UTC",
            "Use a name from the IANA list, as Europe/Madrid, or install tzdata (and tzdata-legacy for old "
            "names).",
        )


def _users(value: dict[str, Any], place: str) -> Iterator[Finding]:
    users = value.get("users")
    if isinstance(users, list) and not any(
        user == "default" or (isinstance(user, dict) and user.get("name")) for user in users
    ):
        yield error("users", place, "users: names nobody", "Add '- default', or an entry with a name.")
    accounts = [user for user in users or [] if isinstance(user, dict)] if isinstance(users, list) else []
    if isinstance(value.get("user"), dict):
        accounts.append(value["user"])
    can_log_in = "default" in (users or []) if isinstance(users, list) else True
    for account in accounts:
        keys = account.get("ssh_authorized_keys") or account.get("ssh-authorized-keys") or []
        for key in keys if isinstance(keys, list) else [keys]:
            if not isinstance(key, str) or not _SSH_KEY.fullmatch(key.strip(" ")):
                shown = str(key)[:40]
                yield error(
                    "ssh-key",
                    place,
                    f"user {account.get('name')!r}: {shown!r} is no public key in OpenSSH's form (one "
                    "line, type and "
                    "base64); sshd ignores it",
                    "Take the line of the file that ends in .pub; convert a PuTTY key with: ssh-keygen -i "
                    "-f FILE",
                )
        locked = account.get("lock_passwd", True)
        can_log_in = can_log_in or bool(keys) or not locked
        if account.get("sudo") is None and "sudo" not in account and "groups" not in account:
            yield note("users", place, f"user {account.get('name')!r} gets neither sudo nor groups")
    if accounts and not can_log_in and not value.get("chpasswd"):
        yield warning(
            "users",
            place,
            "nobody can log in: no account has a key or an unlocked password",
            "Give one an ssh_authorized_keys.",
        )


def _network_config(evidence: Evidence, discovery: Discovery) -> Iterator[Finding]:
    place = "boot:/network-config"
    text = evidence.boot.text("/network-config")
    if text is None:
        return
    if discovery.remote is not None:
        yield warning(
            "network-config",
            place,
            "a seed from the network brings no network-config, and this one is not read with it",
            "Configure the network in the image, or use the seed on the boot partition.",
        )
    document = parse_yaml(text)
    yield from _yaml_findings(document, place, "network-config")
    if document.value is None:
        if document.broken is None:
            yield note("network-config", place, "it is empty: the first wired port uses DHCP")
        return
    value = document.value
    inner = value.get("network", value) if isinstance(value, dict) else None
    version = inner.get("version") if isinstance(inner, dict) else None
    if version not in NETWORK_SCHEMAS:
        yield error(
            "network-config",
            place,
            f"version is {version!r}, expected 1 or 2; cloud-init ignores the file and uses DHCP",
            "Begin it with 'network:', and below that 'version: 2'.",
        )
        return
    yield from _schema(
        evidence, value if "network" in value else {"network": value}, NETWORK_SCHEMAS[version], place
    )


def _schema(evidence: Evidence, value: Any, schema: str, place: str) -> Iterator[Finding]:
    """Against the schema of the very cloud-init that will read it."""
    text = evidence.root.text(schema)
    if text is None:
        yield note("schema", place, f"not checked against a schema: this cloud-init has none ({schema})")
        return
    for fault in schema_faults(value, text):
        yield error(
            "schema",
            place,
            f"{fault.text} (by the image's own cloud-init)",
            "Correct the value; cloud-init skips what it does not accept.",
        )


def _yaml_findings(document: Document, place: str, name: str) -> Iterator[Finding]:
    if document.broken is not None:
        yield error(
            "yaml",
            f"{place}:{document.broken.line}",
            f"{name} is no YAML: {document.broken.text}; cloud-init ignores the whole file",
            "Correct that line.",
        )
    for fault in document.faults:
        yield warning("yaml-duplicate", f"{place}:{fault.line}", fault.text, "Merge the two.")


def check_other_seeds(evidence: Evidence) -> Iterator[Finding]:
    """Files for first-boot tools that this image does not have, or that nothing starts."""
    facts, cmdline = evidence.facts, evidence.cmdline
    dialect = facts.dialect
    for name in facts.seed_files:
        place, reason = f"boot:/{name}", None
        match name:
            case "custom.toml":
                yield from _custom_toml(evidence)
                if dialect is not Dialect.RASPIOS_BOOKWORM:
                    reason = f"nothing on this image ({dialect.value}) reads custom.toml"
                elif "firstboot" not in cmdline:
                    reason = "custom.toml is read by init=…/firstboot, which is not on the command line"
            case "firstrun.sh":
                if "systemd.run=" not in cmdline:
                    reason = "firstrun.sh is started by systemd.run= on the command line, which is not there"
            case "rpi-preseed.toml":
                if dialect is not Dialect.RPI_PRESEED:
                    reason = f"nothing on this image ({dialect.value}) reads rpi-preseed.toml"
            case "user-data" | "meta-data" | "network-config" | "vendor-data":
                if not dialect.has_cloud_init:
                    reason = f"there is no cloud-init on this image ({dialect.value})"
            case "userconf.txt":
                if not evidence.root.has("/usr/lib/userconf-pi"):
                    reason = "userconf-pi, which reads it, is not installed"
            case "ssh" | "ssh.txt":
                if not _has_unit(evidence, "sshswitch.service"):
                    reason = "sshswitch.service, which looks for it, is not installed"
        if reason is not None:
            yield error("dialect", place, f"the file is ignored: {reason}", _DIALECT_MEND[dialect])


_DIALECT_MEND: Final = {
    Dialect.RASPIOS_BOOKWORM: "Use custom.toml with init=…/firstboot, or let Bramble write it in place.",
    Dialect.RASPIOS_TRIXIE: "Use user-data, meta-data and network-config.",
    Dialect.RPI_PRESEED: "Use rpi-preseed.toml.",
    Dialect.UBUNTU: "Use user-data, meta-data and network-config.",
    Dialect.DEBIAN: "Use user-data, meta-data and network-config.",
}


def _custom_toml(evidence: Evidence) -> Iterator[Finding]:
    place = "boot:/custom.toml"
    try:
        value = tomllib.loads(evidence.boot.text("/custom.toml") or "")
    except tomllib.TOMLDecodeError as exc:
        yield error("toml", place, f"it is no TOML: {exc}; nothing of it holds", "Correct that line.")
        return
    if value.get("config_version") != 1:
        yield error(
            "toml",
            place,
            f"config_version is {value.get('config_version')!r}, expected 1; the file is ignored",
            "Begin it with: config_version = 1",
        )


def _has_unit(evidence: Evidence, name: str) -> bool:
    folders = ("/usr/lib/systemd/system", "/etc/systemd/system")
    return any(evidence.root.has(f"{folder}/{name}") for folder in folders)
