"""The preflight's rules over first-boot settings."""

from __future__ import annotations

import dataclasses

import pytest
from fakes_preflight import CMDLINE, fake_tree, faults, make_evidence, make_facts, rules

from imagebuilder.inspect import Dialect
from imagebuilder.preflight import Expected, Severity
from imagebuilder.preflight.documents import parse_yaml, schema_faults
from imagebuilder.preflight.nocloud import discover, parse_kernel_word, read_settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHZ me@example.org"
USER = f"#cloud-config\ntimezone: Europe/Madrid\nusers:\n- name: pi\n  ssh_authorized_keys: ['{KEY}']\n"
ZONE = {"/usr/share/zoneinfo/Europe/Madrid": "TZif"}


@pytest.mark.parametrize(
    ("root", "words", "reason"),
    [
        ({"/etc/cloud/cloud.cfg": "datasource_list: [Ec2]"}, "", "without NoCloud"),
        ({"/etc/cloud/cloud-init.disabled": ""}, "", "cloud-init.disabled"),
        ({}, " cloud-init=disabled", "cloud-init=disabled"),
        ({}, " ds=ec2", "ds=ec2"),
        ({}, " ds=nocloud-net;s=http://seed/", "http://seed/"),
        ({"/etc/cloud/cloud.cfg": "datasource: {NoCloud: {fs_label: other}}"}, "", "labelled 'other'"),
        ({"/etc/cloud/cloud.cfg": "datasource: {NoCloud: {fs_label: null}}"}, "", "fs_label is null"),
        ({"/etc/cloud/cloud.cfg": "datasource: {NoCloud: {seedfrom: /srv/}}"}, "", "/srv/"),
        ({"/etc/cloud/cloud.cfg": "{}"}, "", "labelled 'cidata'"),
        ({"/etc/cloud/cloud.cfg.d/99.cfg": "datasource_list: [None]"}, "", "without NoCloud"),
    ],
)
def test_a_seed_that_is_not_searched_for_is_named_with_the_reason(
    root: dict[str, str], words: str, reason: str
) -> None:
    line = {"/cmdline.txt": CMDLINE.rstrip() + words.encode()}
    found = [f for f in faults(make_evidence(boot=line, root=root)) if f.rule == "nocloud-seed"]
    assert len(found) == 1
    assert reason in found[0].message
    assert found[0].mend


@pytest.mark.parametrize("missing", ["/user-data", "/meta-data"])
def test_a_seed_counts_only_with_both_files(missing: str) -> None:
    files = {"/cmdline.txt": CMDLINE, "/user-data": b"#cloud-config\n", "/meta-data": b"{}"}
    del files[missing]
    found = [
        f
        for f in faults(dataclasses.replace(make_evidence(), boot=fake_tree(files)))
        if f.rule == "nocloud-seed"
    ]
    assert missing[1:] in found[0].message


def test_ubuntu_finds_its_seed_by_label_in_whichever_case() -> None:
    cfg = {"/etc/cloud/cloud.cfg": "datasource: {NoCloud: {fs_label: system-boot}}"}
    facts = make_facts(Dialect.UBUNTU, seeds=("user-data",), label="SYSTEM-BOOT")
    evidence = make_evidence(dialect=Dialect.UBUNTU, root=cfg, facts=facts)
    assert discover(evidence, read_settings(evidence)).found


def test_the_kernel_s_word_is_read_with_its_options() -> None:
    word = parse_kernel_word("a ds=nocloud;i=abc;h=node ds=nocloud;i=last b")
    assert word is not None
    assert (word.source, word.options) == ("nocloud", {"instance-id": "last"})


def test_later_files_of_cloud_cfg_d_win_and_mappings_add_up() -> None:
    root = {
        "/etc/cloud/cloud.cfg": "datasource: {NoCloud: {fs_label: a, seedfrom: b}}",
        "/etc/cloud/cloud.cfg.d/10.cfg": "datasource: {NoCloud: {fs_label: c}}",
        "/etc/cloud/cloud.cfg.d/20.txt": "datasource: {NoCloud: {fs_label: ignored}}",
    }
    assert read_settings(make_evidence(root=root)).nocloud == {"fs_label": "c", "seedfrom": "b"}


@pytest.mark.parametrize(
    ("content", "rule", "words"),
    [
        (b"users: [default]\n", "user-data-header", "#cloud-config"),
        (b"\n#cloud-config\n", "user-data-header", "#cloud-config"),
        (b"\xef\xbb\xbf#cloud-config\n", "user-data-header", "byte order mark"),
        (b"#cloud-config\nusers:\n\t- default\n", "yaml", "tab"),
        (b"#cloud-config\nusers: [default\n", "yaml", "ignores the whole file"),
        (b"#cloud-config\nusers: [default]\nusers: []\n", "yaml-duplicate", "line 2"),
        (b"#cloud-config\n- a\n", "user-data", "no mapping"),
        (b"#cloud-config\nusers: [{gecos: x}]\n", "users", "nobody"),
        (b"#cloud-config\nusers: [{name: x, groups: [sudo]}]\n", "users", "log in"),
        (b"#cloud-config\ntimezone: Mars/Olympus\n", "timezone", "Mars/Olympus"),
        (
            b"#cloud-config\nusers: [{name: x, ssh_authorized_keys: ['---- BEGIN SSH2']}]\n",
            "ssh-key",
            "OpenSSH",
        ),
        (
            b'#cloud-config\nusers: [{name: x, ssh_authorized_keys: ["ssh-rsa AAAA\\r"]}]\n',
            "ssh-key",
            "one line",
        ),
    ],
)
def test_faults_of_user_data_are_named_with_their_effect(content: bytes, rule: str, words: str) -> None:
    found = [f for f in faults(make_evidence(boot={"/user-data": content})) if f.rule == rule]
    assert found, faults(make_evidence(boot={"/user-data": content}))
    assert any(words in f.message for f in found)
    assert all(f.mend for f in found)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"#!/bin/sh\necho\n", b"## template: jinja\n{{ x }}\n", USER.encode()]
)
def test_user_data_in_other_accepted_forms_passes(content: bytes) -> None:
    assert faults(make_evidence(boot={"/user-data": content}, root=ZONE)) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"instance_id: x\n", "underscore"),
        (b"instance-id: x\n\tb: c\n", "no YAML"),
        (b"instance-id: one\nlocal-hostname: a_b\n", "no host name"),
        (b"instance-id: one\nlocal-hostname: '0123'\n", "no host name"),
        (b"instance-id: one\nlocal-hostname: " + b"a" * 64 + b"\n", "no host name"),
        (b"instance-id: one\nlocal-hostname: node.\n", "no host name"),
    ],
)
def test_faults_of_meta_data_are_named(content: bytes, words: str) -> None:
    found = faults(make_evidence(boot={"/meta-data": content}))
    assert any(words in f.message for f in found), found


def test_an_image_that_was_booted_with_this_instance_already_ignores_its_settings() -> None:
    used = {"/var/lib/cloud/data/instance-id": "one\n"}
    found = [f for f in faults(make_evidence(root=used)) if f.rule == "instance-id"]
    assert found[0].severity is Severity.ERROR
    other = {"/var/lib/cloud/data/instance-id": "before\n"}
    assert "instance-id" not in rules(make_evidence(root=other))


def test_two_instance_ids_that_differ_are_a_warning() -> None:
    line = {"/cmdline.txt": CMDLINE.rstrip() + b" ds=nocloud;i=two\n"}
    assert "instance-id" in rules(make_evidence(boot=line))
    line = {"/cmdline.txt": CMDLINE.rstrip() + b" ds=nocloud;i=one\n"}
    assert "instance-id" not in rules(make_evidence(boot=line))


@pytest.mark.parametrize("content", [b"ethernets: {}\n", b"network: {version: 3}\n", b"- a\n"])
def test_a_network_config_of_unknown_version_is_ignored(content: bytes) -> None:
    assert "network-config" in rules(make_evidence(boot={"/network-config": content}))


def test_documents_are_held_against_the_schema_of_the_image_s_own_cloud_init() -> None:
    folder = "/usr/lib/python3/dist-packages/cloudinit/config/schemas"
    schema = '{"properties": {"users": {"type": "array"}, "ssh_pwauth": {"type": "boolean"}}}'
    root = {f"{folder}/schema-cloud-config-v1.json": schema}
    boot = {"/user-data": b"#cloud-config\nusers: [default]\nssh_pwauth: [1]\n"}
    found = [f for f in faults(make_evidence(boot=boot, root=root)) if f.rule == "schema"]
    assert len(found) == 1
    assert found[0].message.startswith("ssh_pwauth: [1] is not of type 'boolean'")


def test_a_choice_of_which_no_form_fits_is_told_by_the_nearest() -> None:
    form = '{"type": "object", "properties": {"b": {"type": "integer"}}}'
    schema = f'{{"properties": {{"a": {{"anyOf": [{{"type": "string"}}, {form}]}}}}}}'
    texts = [fault.text for fault in schema_faults({"a": {"b": "x"}}, schema)]
    assert texts == ["a.b: 'x' is not of type 'integer'"]


@pytest.mark.parametrize(
    ("name", "dialect", "words"),
    [
        ("custom.toml", Dialect.RASPIOS_TRIXIE, "reads custom.toml"),
        ("custom.toml", Dialect.RASPIOS_BOOKWORM, "init=…/firstboot"),
        ("firstrun.sh", Dialect.RASPIOS_BOOKWORM, "systemd.run="),
        ("rpi-preseed.toml", Dialect.UBUNTU, "reads rpi-preseed.toml"),
        ("user-data", Dialect.RASPIOS_BOOKWORM, "no cloud-init"),
        ("userconf.txt", Dialect.UBUNTU, "userconf-pi"),
        ("ssh", Dialect.UBUNTU, "sshswitch"),
    ],
)
def test_a_file_in_another_dialect_is_an_error_not_silence(name: str, dialect: Dialect, words: str) -> None:
    content = b"config_version = 1\n" if name.endswith("toml") else b"#cloud-config\n"
    found = [
        f for f in faults(make_evidence(boot={f"/{name}": content}, dialect=dialect)) if f.rule == "dialect"
    ]
    assert len(found) == 1
    assert words in found[0].message


@pytest.mark.parametrize("content", [b"config_version = 2\n", b"config_version = = 1\n"])
def test_a_custom_toml_that_would_not_be_taken_is_named(content: bytes) -> None:
    line = CMDLINE.rstrip() + b" init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
    boot = {"/custom.toml": content, "/cmdline.txt": line}
    assert rules(make_evidence(boot=boot, dialect=Dialect.RASPIOS_BOOKWORM)) == {"toml"}


def test_yaml_faults_carry_their_lines() -> None:
    assert parse_yaml("a: 1\nb: [\n").broken is not None
    document = parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert sorted((fault.line, fault.text[:11]) for fault in document.faults) == [
        (2, "the key 'c'"),
        (3, "the key 'a'"),
    ]
    assert parse_yaml("\x00").broken is not None


EXPECTED = Expected(
    user="pi",
    ssh_authorized_keys=(KEY,),
    timezone="Europe/Madrid",
    node="pi5-master-1",
    fqdn="pi5-master-1.attic.internal",
)


def test_an_image_of_this_cluster_has_what_cluster_yaml_wants() -> None:
    assert faults(make_evidence(boot={"/user-data": USER}, root=ZONE, expected=EXPECTED)) == []


@pytest.mark.parametrize(
    ("boot", "rule"),
    [
        ({"/user-data": USER.replace("name: pi", "name: other")}, "user"),
        ({"/user-data": USER.replace("AAAAC3", "AAAAC4")}, "ssh-key"),
        ({"/user-data": USER.replace("timezone: Europe/Madrid\n", "")}, "timezone"),
        ({"/user-data": USER, "/meta-data": "instance-id: a\nlocal-hostname: pi4\n"}, "node"),
    ],
)
def test_an_image_of_another_cluster_is_told(boot: dict[str, str], rule: str) -> None:
    assert rules(make_evidence(boot=boot, root=ZONE, expected=EXPECTED)) == {rule}


def test_settings_in_place_are_compared_where_there_is_no_cloud_init() -> None:
    root = {
        "/etc/passwd": "pi:x:1000:1000::/home/pi:/bin/bash\n",
        "/home/pi/.ssh/authorized_keys": f"{KEY}\n",
        "/etc/localtime": "-> /usr/share/zoneinfo/Europe/Madrid",
        "/etc/hostname": "pi5-master-1\n",
    }
    dialect = Dialect.RASPIOS_BOOKWORM
    assert faults(make_evidence(root=root, expected=EXPECTED, dialect=dialect)) == []
    spoiled = {**root, "/etc/passwd": "pi:x:1000:1000::/home/pi:/usr/sbin/nologin\n", "/etc/hostname": "x\n"}
    spoiled["/etc/localtime"] = "-> /usr/share/zoneinfo/UTC"
    assert rules(make_evidence(root=spoiled, expected=EXPECTED, dialect=dialect)) == {
        "user",
        "timezone",
        "node",
    }
