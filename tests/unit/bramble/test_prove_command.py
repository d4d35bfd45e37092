"""`bramble image prove` and `bramble build --prove` as commands; the proof itself is tested with boards."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bramble.proofs import NotProven, is_proven, record_proof, require_proven
from bramble.prove import Proof, settle_cgroups
from bramble.prove_command import build, print_proof, prove
from bramble.verdict import Line, Outcome
from imagebuilder.store import Store


@pytest.mark.parametrize(
    "options", [[], ["--node", "a"], ["--node", "a", "--board", "pi4"], ["--board", "pi4", "--timeout", "1"]]
)
def test_wrong_usage_ends_with_two_before_anything_is_read(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(b"")
    assert CliRunner().invoke(prove, [str(file), *options]).exit_code == 2


def test_build_keeps_its_own_options_and_gains_the_proof(tmp_path: Path) -> None:
    text = CliRunner().invoke(build, ["--help"]).stdout
    assert "--k3s" in text
    assert "--prove" in text
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("")
    result = CliRunner().invoke(build, [str(cluster), "--prove-node", "x"])
    assert result.exit_code == 2
    assert "needs --prove" in result.output


def test_an_image_counts_as_proven_once_it_was_recorded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(NotProven, match="not proven"):
        require_proven(store, "f" * 40, Path("cluster.yaml"))
    record_proof(store, "f" * 40, "pi4-agent", 61.25)
    assert is_proven(store, "f" * 40)
    assert not is_proven(store, "e" * 40)
    require_proven(store, "f" * 40, Path("cluster.yaml"))


def _proof(*, proven: bool) -> Proof:
    return Proof(
        proven=proven,
        reason="" if proven else "the kernel panicked",
        lines=(Line(Outcome.OK, "user", "pi /bin/bash"),) if proven else (),
        seconds=61.0,
        boots=1,
        complaints=(),
        console="last words",
    )


def test_a_verdict_names_what_was_seen_and_a_failure_shows_the_console(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_proof(_proof(proven=True), "a.img")
    assert "user: pi /bin/bash" in (text := capsys.readouterr().out)
    assert "proven: a.img (1 boot, 61 s)" in text
    assert "last words" not in text
    print_proof(_proof(proven=False), "a.img")
    assert "not proven: a.img (1 boot, 61 s): the kernel panicked" in (text := capsys.readouterr().out)
    assert "last words" in text


@pytest.mark.parametrize(
    ("words", "settled"),
    [
        ("cgroup_disable=memory root=x cgroup_enable=memory", "root=x cgroup_enable=memory"),
        ("cgroup_enable=memory cgroup_disable=memory", "cgroup_enable=memory cgroup_disable=memory"),
        ("cgroup_disable=memory cgroup_enable=cpuset", "cgroup_disable=memory cgroup_enable=cpuset"),
    ],
)
def test_of_contradicting_cgroup_words_the_later_one_holds_on_any_kernel(words: str, settled: str) -> None:
    assert settle_cgroups(words) == settled
