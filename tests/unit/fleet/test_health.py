"""Conditions out of samples: what is bad, how long it takes to begin and end, and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Health, K3sState
from agent.vitals import DiskVitals
from fleet.health.conditions import (
    BAD_SAMPLES,
    GOOD_SAMPLES,
    LATELY_S,
    TRAITS,
    Change,
    Condition,
    Course,
    causes_text,
    degrading,
    observe,
    restore_course,
    write_obstacles,
)

NOW = 1_800_000_000.0
GOOD = Health(100.0, 0.5, 4 << 30, 20 << 30, True, root_size_bytes=30 << 30)
BOOT = "boot-1"


def disk(**readings: object) -> Health:
    return replace(GOOD, disks=(replace(DiskVitals("nvme0n1", "nvme"), **readings),))  # type: ignore[arg-type]


def feed(
    course: Course, health: Health, times: int, *, at: float = NOW, k3s: K3sState = K3sState.RUNNING
) -> Course:
    for number in range(times):
        course, _ = observe(course, health, boot_id=BOOT, k3s=k3s, now=at + 10 * number)
    return course


SICK = [
    pytest.param(replace(GOOD, throttled=0x50001), Condition.UNDER_VOLTAGE, id="throttled-bit-0"),
    pytest.param(replace(GOOD, under_voltage=True), Condition.UNDER_VOLTAGE, id="hwmon-alarm"),
    pytest.param(replace(GOOD, throttled=0x80008), Condition.THROTTLED, id="soft-limit"),
    pytest.param(replace(GOOD, temperature_c=85.0), Condition.OVERHEATED, id="85-degrees"),
    pytest.param(replace(GOOD, temperature_c=75.0, fan_rpm=0, fan_duty=250), Condition.FAN_STALLED, id="fan"),
    pytest.param(disk(wear_percent=80), Condition.STORAGE_WEAR, id="worn"),
    pytest.param(disk(pre_eol=2), Condition.STORAGE_WEAR, id="pre-eol-warning"),
    pytest.param(disk(pre_eol=3), Condition.STORAGE_FAILING, id="pre-eol-urgent"),
    pytest.param(disk(critical_warning=4), Condition.STORAGE_FAILING, id="smart-critical"),
    pytest.param(
        disk(spare_percent=5, spare_threshold_percent=10),
        Condition.STORAGE_FAILING,
        id="spare-below-threshold",
    ),
    pytest.param(disk(write_latency_ms=700.0), Condition.STORAGE_SLOW, id="slow-writes"),
    pytest.param(replace(GOOD, read_only_mounts=("/",)), Condition.FILESYSTEM_READ_ONLY, id="read-only"),
    pytest.param(replace(GOOD, filesystem_errors=7), Condition.FILESYSTEM_ERRORS, id="ext4-errors"),
    pytest.param(replace(GOOD, root_free_bytes=200 << 20), Condition.DISK_FULL, id="disk-full"),
    pytest.param(
        replace(GOOD, pressure_some_avg10={"memory": 30.0}), Condition.MEMORY_STALLED, id="psi-memory"
    ),
    pytest.param(replace(GOOD, pressure_some_avg10={"io": 80.0}), Condition.IO_STALLED, id="psi-io"),
    pytest.param(
        replace(GOOD, clock_synchronised=False, clock_behind_s=-3.2e8),
        Condition.CLOCK_WRONG,
        id="10-years-ahead",
    ),
    pytest.param(
        replace(GOOD, clock_synchronised=False, clock_behind_s=1.8e9), Condition.CLOCK_WRONG, id="in-1970"
    ),
    pytest.param(
        replace(GOOD, certificates={"kubelet": NOW + 86_400.0}),
        Condition.CERTIFICATE_ENDING,
        id="kubelet-certificate",
    ),
    pytest.param(replace(GOOD, kubelet_healthy=False), Condition.KUBELET_UNHEALTHY, id="kubelet"),
    pytest.param(replace(GOOD, etcd_fsync_p99_s=0.2), Condition.ETCD_SLOW, id="etcd"),
]


@pytest.mark.parametrize(("health", "condition"), SICK)
def test_three_bad_samples_in_a_row_begin_a_condition_and_ten_good_ones_end_it(
    health: Health, condition: Condition
) -> None:
    course = feed(Course(), health, BAD_SAMPLES - 1)
    assert course.active == {}
    course, changes = observe(course, health, boot_id=BOOT, k3s=K3sState.RUNNING, now=NOW)
    assert [(change.condition, change.began) for change in changes] == [(condition, True)]
    assert changes[0].evidence
    course = feed(course, GOOD, GOOD_SAMPLES - 1)
    assert list(course.active) == [condition]
    course, changes = observe(course, GOOD, boot_id=BOOT, k3s=K3sState.RUNNING, now=NOW)
    assert [(change.condition, change.began) for change in changes] == [(condition, False)]
    assert course.active == {}


FINE = [
    pytest.param(replace(GOOD, throttled=0xF0000), id="throttled-in-the-past"),
    pytest.param(replace(GOOD, temperature_c=84.9), id="warm"),
    pytest.param(replace(GOOD, temperature_c=45.0, fan_rpm=0, fan_duty=0), id="fan-rests"),
    pytest.param(disk(critical_warning=2), id="warm-nvme"),
    pytest.param(disk(wear_percent=79, spare_percent=100, spare_threshold_percent=10), id="used"),
    pytest.param(replace(GOOD, clock_synchronised=False, clock_behind_s=5.0), id="clock-of-the-server"),
    pytest.param(replace(GOOD, clock_synchronised=False), id="clock-unknown"),
    pytest.param(replace(GOOD, oom_kills=9, io_errors=9), id="old-counters"),
    pytest.param(replace(GOOD, etcd_fsync_p99_s=0.05, kubelet_healthy=True), id="etcd-on-a-card"),
    pytest.param(
        replace(GOOD, certificates={"agent": NOW + 3 * 86_400, "kubelet": NOW + 9e6}), id="certificates"
    ),
]


@pytest.mark.parametrize("health", FINE)
def test_what_is_no_reason_to_worry(health: Health) -> None:
    assert feed(Course(), health, 2 * BAD_SAMPLES).active == {}


def test_one_good_sample_between_bad_ones_starts_the_count_anew() -> None:
    sick = replace(GOOD, throttled=1)
    course = Course()
    for _ in range(10):
        course = feed(feed(course, sick, BAD_SAMPLES - 1), GOOD, 1)
    assert course.active == {}


def test_one_bad_sample_while_it_ends_keeps_a_condition() -> None:
    sick = replace(GOOD, throttled=1)
    course = feed(Course(), sick, BAD_SAMPLES)
    for _ in range(5):
        course = feed(feed(course, GOOD, GOOD_SAMPLES - 1), sick, 1)
    assert list(course.active) == [Condition.UNDER_VOLTAGE]
    assert course.active[Condition.UNDER_VOLTAGE].since == NOW + 10 * (BAD_SAMPLES - 1)


def test_counter_that_grew_is_bad_for_a_while() -> None:
    course = feed(Course(), replace(GOOD, io_errors=4), 3)
    course = feed(course, replace(GOOD, io_errors=5), BAD_SAMPLES, at=NOW + 100)
    assert list(course.active) == [Condition.STORAGE_FAILING]
    course = feed(course, replace(GOOD, io_errors=5), GOOD_SAMPLES, at=NOW + 100 + LATELY_S + 1)
    assert course.active == {}


def test_boot_that_the_server_saw_counts_from_zero_and_disks_do_not() -> None:
    before = replace(disk(media_errors=3), oom_kills=0, filesystem_errors=0)
    course = feed(Course(), before, 1)
    after = replace(disk(media_errors=3), oom_kills=1, filesystem_errors=0)
    for number in range(BAD_SAMPLES):
        course, _ = observe(course, after, boot_id="boot-2", k3s=K3sState.RUNNING, now=NOW + 20 + number)
    assert list(course.active) == [Condition.OUT_OF_MEMORY]


def test_smart_values_that_are_read_late_are_not_news() -> None:
    course = feed(Course(), disk(media_errors=3), 1)
    course = feed(course, disk(), 5)
    assert feed(course, disk(media_errors=3), 5).active == {}
    assert list(feed(course, disk(media_errors=4), 5).active) == [Condition.STORAGE_FAILING]


def test_link_that_got_slower() -> None:
    course = feed(Course(), disk(link="8.0 GT/s x1"), 2)
    course = feed(course, disk(link="2.5 GT/s x1"), BAD_SAMPLES)
    assert list(course.active) == [Condition.LINK_DEGRADED]
    assert feed(Course(), disk(link="2.5 GT/s x1"), 5).active == {}
    assert feed(Course(), disk(link="Unknown x63"), 5).active == {}


def test_k3s_that_failed() -> None:
    assert list(feed(Course(), GOOD, 3, k3s=K3sState.FAILED).active) == [Condition.K3S_FAILED]


def test_restored_conditions_hold_until_they_are_good() -> None:
    course = restore_course({Condition.UNDER_VOLTAGE: (NOW - 500, "0x1")})
    assert course.active[Condition.UNDER_VOLTAGE].since == NOW - 500
    assert feed(course, GOOD, GOOD_SAMPLES - 1).active
    assert not feed(course, GOOD, GOOD_SAMPLES).active


def test_warnings_do_not_degrade_and_brown_outs_forbid_writing() -> None:
    everything = list(Condition)
    assert Condition.STORAGE_WEAR not in degrading(everything)
    assert degrading([Condition.STORAGE_FAILING, Condition.UNDER_VOLTAGE]) == [
        Condition.UNDER_VOLTAGE,
        Condition.STORAGE_FAILING,
    ]
    assert write_obstacles(everything) == [
        Condition.UNDER_VOLTAGE,
        Condition.STORAGE_FAILING,
        Condition.FILESYSTEM_READ_ONLY,
    ]
    assert causes_text(write_obstacles(everything)).startswith("under-voltage, ")


def test_every_condition_has_words_a_hint_and_a_kubernetes_name() -> None:
    assert set(TRAITS) == set(Condition)
    for condition, trait in TRAITS.items():
        assert condition.value.isalnum()
        assert condition.value[0].isupper()
        assert trait.words
        assert trait.hint.endswith((".", ")"))


SAMPLES = st.sampled_from(
    [GOOD, replace(GOOD, throttled=1), disk(critical_warning=1), replace(GOOD, io_errors=3)]
)


@given(st.lists(st.tuples(SAMPLES, st.sampled_from(["b1", "b2"])), max_size=60))
def test_conditions_begin_and_end_in_turn_whatever_comes(samples: list[tuple[Health, str]]) -> None:
    course, story = Course(), dict[Condition, list[bool]]()
    for number, (health, boot) in enumerate(samples):
        course, changes = observe(course, health, boot_id=boot, k3s=K3sState.RUNNING, now=NOW + 10 * number)
        for change in changes:
            assert isinstance(change, Change)
            story.setdefault(change.condition, []).append(change.began)
    for condition, turns in story.items():
        assert turns == [number % 2 == 0 for number in range(len(turns))]
        assert (condition in course.active) == turns[-1]
