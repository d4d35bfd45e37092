"""The preflight's rules over units and k3s."""

from __future__ import annotations

import pytest
from fakes_preflight import faults, make_evidence, rules

WANTS = "/etc/systemd/system/multi-user.target.wants"
UNITS = "/usr/lib/systemd/system"
K3S = {
    "/usr/local/bin/k3s": "binary",
    "/var/lib/rancher/k3s/agent/images/images.tar.zst": "x",
    "/var/lib/rancher/k3s/agent/images/.cache.json": "",
}


@pytest.mark.parametrize(
    ("root", "rule"),
    [
        ({f"{WANTS}/gone.service": f"-> {UNITS}/gone.service"}, "unit-link"),
        (
            {
                f"{WANTS}/a.service": f"-> {UNITS}/a.service",
                f"{UNITS}/a.service": "[Service]\nExecStart=/usr/bin/gone\n",
            },
            "unit-program",
        ),
        (
            {
                f"{WANTS}/a.service": f"-> {UNITS}/a.service",
                f"{UNITS}/a.service": "[Service]\nExecStart=/usr/bin/a\n",
                "/usr/bin/a": "0644 text",
            },
            "unit-program",
        ),
    ],
    ids=["no unit", "no program", "not executable"],
)
def test_a_unit_that_is_on_and_cannot_run_is_told(root: dict[str, str], rule: str) -> None:
    assert rules(make_evidence(root=root)) == {rule}


@pytest.mark.parametrize(
    "root",
    [
        {f"{WANTS}/a.service": f"-> {UNITS}/a.service", f"{UNITS}/a.service": "ExecStart=-/usr/bin/gone\n"},
        {f"{WANTS}/a.service": f"-> {UNITS}/a.service", f"{UNITS}/a.service": "ExecStart=/opt/%i/run\n"},
        {
            f"{WANTS}/a.service": "-> /etc/systemd/system/a.service",
            "/etc/systemd/system/a.service": "-> /dev/null",
        },
        {f"{WANTS}/getty@tty1.service": f"-> {UNITS}/getty@.service", f"{UNITS}/getty@.service": ""},
        {f"{WANTS}/a.service": "-> ../a.service", f"{UNITS}/a.service": "ExecStart=a\n"},
    ],
    ids=["may fail", "specifier", "masked", "template", "found by name"],
)
def test_a_unit_that_systemd_would_start_or_skip_on_purpose_passes(root: dict[str, str]) -> None:
    assert faults(make_evidence(root=root)) == []


def test_an_image_of_ours_without_k3s_is_an_error() -> None:
    assert "k3s" in rules(make_evidence(root={"/etc/bramble/image.json": "{}"}))
    assert rules(make_evidence(root={"/etc/bramble/image.json": "{}", **K3S})) == set()


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({"/usr/local/bin/k3s": "0644 binary"}, "k3s"),
        ({"/etc/rancher/k3s/config.yaml": "a: [\n"}, "k3s-config"),
        ({"/etc/rancher/k3s/config.yaml.d/10.yaml": "- a\n"}, "k3s-config"),
        ({"/etc/rancher/k3s/registries.yaml": "mirrors: {}\nmirrors: {}\n"}, "k3s-config"),
        ({"/var/lib/rancher/k3s/server/token": "0644 K10"}, "k3s-token"),
    ],
)
def test_faults_of_k3s_s_files_are_named(files: dict[str, str], rule: str) -> None:
    assert rules(make_evidence(root={**K3S, **files})) == {rule}


def test_images_that_every_start_would_read_again_are_a_warning() -> None:
    slow = {path: content for path, content in K3S.items() if not path.endswith(".cache.json")}
    assert rules(make_evidence(root=slow)) == {"k3s-images"}
