from __future__ import annotations

from imagebuilder.bases.progress import BootstrapProgress, Progress


def _read(lines: list[str]) -> list[Progress]:
    reader = BootstrapProgress()
    return [step for line in lines if (step := reader.read(line))]


def _whole_run(packages: int) -> list[str]:
    return [
        "before anything: ignored",
        "bramble: download",
        "Get:1 http://mirror.example.org/debian trixie InRelease [140 kB]",
        *(
            f"Get:{n} http://mirror.example.org/debian trixie/main arm64 p{n} arm64 1 [1 kB]"
            for n in range(packages)
        ),
        "bramble: unpack",
        *(f"Unpacking p{n} (1) ..." for n in range(packages)),
        "bramble: configure",
        *(f"Setting up p{n} (1) ..." for n in range(packages)),
        "bramble: customise",
        "bramble: finish",
        "bramble: clean",
        "bramble: complete",
    ]


def test_percentage_rises_from_0_to_97_before_the_disk_is_written() -> None:
    steps = _read(_whole_run(120))
    percents = [step.percent for step in steps]
    assert percents[0] == 0
    assert percents == sorted(percents)
    assert percents[-1] == 97


def test_packages_are_counted_in_their_phase() -> None:
    steps = _read(_whole_run(120))
    configured = [step for step in steps if step.phase == "configuring packages"]
    assert [step.done for step in configured] == list(range(121))
    assert {step.total for step in configured} == {120}


def test_more_packages_than_usual_never_count_past_the_total() -> None:
    for step in _read(_whole_run(400)):
        if step.done is not None and step.total is not None:
            assert step.done <= step.total


def test_other_output_says_nothing() -> None:
    assert _read(["Setting up x (1) ...", "bramble: unheard of", "", "Get:1 x arm64 y"]) == []
