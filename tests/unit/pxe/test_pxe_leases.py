"""The lease table: no address twice, whatever clients do; and its file, whatever happens to it."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.boards import MacAddress
from fleet.spec.model import AddressPool
from pxe.dhcp.leases import DECLINED_HELD_S, OFFER_HELD_S, Lease, LeaseState, LeaseTable
from pxe.errors import PxeError
from pxe.net.lease_store import COMPACT_AFTER_LINES, LeaseStore, encode_lease, parse_lease

POOL = AddressPool(IPv4Address("10.0.0.10"), IPv4Address("10.0.0.13"))
MACS = [MacAddress(bytes((2, 0, 0, 0, 0, number))) for number in range(1, 8)]
OTHER = MacAddress(bytes((2, 0, 0, 0, 0, 99)))
A, B, C, D = (IPv4Address(number) for number in range(int(POOL.first), int(POOL.last) + 1))


def test_a_client_keeps_its_address() -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], B, expires=100)
    assert table.choose(MACS[0], None, (), 50) == B
    assert table.choose(MACS[0], None, (), 5000) == B


def test_addresses_that_nobody_had_come_first_then_the_one_free_for_longest() -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], A, expires=20)
    table.bind(MACS[1], B, expires=10)
    assert table.choose(MACS[5], None, (), 50) == C
    table.bind(MACS[2], C, expires=100)
    table.bind(MACS[3], D, expires=100)
    assert table.choose(MACS[5], None, (), 50) == B


def test_reserved_and_excluded_addresses_are_not_in_the_pool() -> None:
    table = LeaseTable(POOL, excluded=[A])
    assert table.choose(MACS[0], A, {B}, 0) == C
    assert table.choose(MACS[0], B, {B}, 0) == C


def test_a_full_pool_has_no_address() -> None:
    table = LeaseTable(POOL)
    for mac, address in zip(MACS, (A, B, C, D), strict=False):
        table.bind(mac, address, expires=100)
    assert table.choose(MACS[6], None, (), 50) is None
    assert LeaseTable(None).choose(MACS[0], None, (), 0) is None


def test_an_offer_is_kept_for_a_while() -> None:
    table = LeaseTable(POOL)
    table.offer(MACS[0], A, 0)
    assert not table.is_free(A, MACS[1], OFFER_HELD_S - 1)
    assert table.is_free(A, MACS[1], OFFER_HELD_S)
    assert table.drain_changes() == []


def test_an_offer_takes_nothing_from_the_client() -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], A, expires=1000)
    table.offer(MACS[0], B, 10)
    assert not table.is_free(A, MACS[1], 10)
    assert not table.is_free(B, MACS[1], 10)


def test_a_declined_address_rests() -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], A, expires=1000)
    assert table.decline(MACS[0], A, 10)
    assert not table.is_free(A, MACS[0], 10)
    assert table.choose(MACS[0], A, (), 10) == B
    assert table.is_free(A, MACS[1], 10 + DECLINED_HELD_S)


def test_a_declined_address_rests_although_its_client_goes_on_and_the_server_restarts() -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], A, expires=1000)
    table.decline(MACS[0], A, 10)
    table.bind(MACS[0], B, expires=1000)
    for again in (table, LeaseTable(POOL, leases=table.drain_changes())):
        assert not again.is_free(A, MACS[1], 20)
        assert again.choose(MACS[0], None, (), 20) == B


def test_only_the_holder_can_release_and_decline() -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], A, expires=1000)
    assert not table.release(MACS[1], A, 1)
    assert not table.decline(MACS[1], A, 1)
    assert table.release(MACS[0], A, 1)
    assert table.is_free(A, MACS[1], 1)


@pytest.mark.parametrize(("had", "has"), [(A, B), (B, A)], ids=["up", "down"])
def test_what_a_client_had_before_stays_free_when_the_server_restarts(
    had: IPv4Address, has: IPv4Address
) -> None:
    table = LeaseTable(POOL)
    table.bind(MACS[0], had, expires=1000)
    table.bind(MACS[0], has, expires=1000)
    appended, written_anew = table.drain_changes(), list(table)
    for again in (table, LeaseTable(POOL, leases=appended), LeaseTable(POOL, leases=written_anew)):
        assert again.is_free(had, MACS[1], 10)
        assert not again.is_free(has, MACS[1], 10)
        assert again.choose(MACS[0], None, (), 10) == has
        former = again.at(had)
        assert former is not None
        assert (former.mac, former.state) == (MACS[0], LeaseState.RELEASED), "who had it last is known"


def test_an_address_that_comes_back_early_takes_nobodys_lease() -> None:
    """Three rest at once, which is one too many: the first one is free again. Its client has gone on."""
    table = LeaseTable(POOL)
    table.bind(MACS[0], A, expires=1000)
    table.decline(MACS[0], A, 10)
    table.bind(MACS[0], B, expires=1000)
    for mac, address in ((MACS[1], C), (MACS[2], D)):
        table.bind(mac, address, expires=1000)
        table.decline(mac, address, 10)
    for again in (table, LeaseTable(POOL, leases=table.drain_changes())):
        assert again.is_free(A, MACS[3], 10)
        assert not again.is_free(B, MACS[3], 10)
        assert again.choose(MACS[0], None, (), 10) == B


class LeaseMachine(RuleBasedStateMachine):
    """Clients that believe what they were told; the same address must not be believed twice."""

    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.table = LeaseTable(POOL)
        self.stored: list[Lease] = []
        self.believed: dict[MacAddress, tuple[IPv4Address, float]] = {}

    @rule(mac=st.sampled_from(MACS), wanted=st.sampled_from([None, A, B, C, D]))
    def discover(self, mac: MacAddress, wanted: IPv4Address | None) -> None:
        address = self.table.choose(mac, wanted, (), self.now)
        if address is not None:
            assert self.table.is_free(address, mac, self.now)
            self.table.offer(mac, address, self.now)

    @rule(mac=st.sampled_from(MACS), address=st.sampled_from([A, B, C, D]), lease_s=st.floats(1, 300))
    def request(self, mac: MacAddress, address: IPv4Address, lease_s: float) -> None:
        if self.table.is_free(address, mac, self.now):
            self.table.bind(mac, address, self.now + lease_s)
            self.believed[mac] = (address, self.now + lease_s)

    @rule(mac=st.sampled_from(MACS), decline=st.booleans())
    def give_back(self, mac: MacAddress, decline: bool) -> None:
        if mac in self.believed:
            address, _expires = self.believed.pop(mac)
            give_back = self.table.decline if decline else self.table.release
            give_back(mac, address, self.now)

    @rule(seconds=st.floats(0.1, 400))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(written_anew=st.booleans())
    def restart_from_the_file(self, written_anew: bool) -> None:
        if written_anew:
            self.stored = list(self.table)
        lines = [encode_lease(lease) for lease in self.stored]
        leases = [lease for line in lines if (lease := parse_lease(line)) is not None]
        self.table = LeaseTable(POOL, leases=leases)

    @invariant()
    def no_address_twice(self) -> None:
        self.stored.extend(self.table.drain_changes())
        held = [address for address, expires in self.believed.values() if self.now < expires]
        assert len(held) == len(set(held))

    @invariant()
    def every_lease_that_was_given_stands(self) -> None:
        for mac, (address, expires) in self.believed.items():
            assert self.now >= expires or not self.table.is_free(address, OTHER, self.now)
            found = self.table.find(mac)
            assert self.now >= expires or (found is not None and found.address == address)


LeaseMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLeases = LeaseMachine.TestCase


def lease(address: IPv4Address, number: int = 0, expires: float = 100.5) -> Lease:
    return Lease(address=address, mac=MACS[number], state=LeaseState.BOUND, expires=expires)


def test_the_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "state" / "leases.jsonl"
    with LeaseStore(path) as store:
        store.append([lease(A), lease(B, 1)])
        store.append([lease(A, 2)])
    assert path.stat().st_mode & 0o777 == 0o600
    with LeaseStore(path) as again:
        assert again.leases == [lease(B, 1), lease(A, 2)]
        assert again.corrupt_lines == 0
    assert len(path.read_bytes().splitlines()) == 2


def test_every_torn_end_costs_one_lease_only(tmp_path: Path) -> None:
    path = tmp_path / "leases.jsonl"
    stored = [lease(A), lease(B, 1)]
    whole = b"".join(map(encode_lease, stored))
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        with LeaseStore(path) as store:
            # The last line may lack its end only.
            assert store.leases in (stored[:complete], stored[: complete + 1])
            store.append([lease(C, 2)])
        with LeaseStore(path) as again:
            assert again.corrupt_lines == 0
            assert again.leases[:complete] == stored[:complete]
            assert again.leases[-1] == lease(C, 2)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"{}",
        b"[]",
        b"null",
        b'{"v":1}',
        b"\xff\xfe",
        b'{"v":9,"address":"10.0.0.1"}',
        b"1e999",
        b"[" * 100,
    ],
    ids=str,
)
def test_spoiled_lines_are_counted_and_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "leases.jsonl"
    path.write_bytes(encode_lease(lease(A)) + line + b"\n" + encode_lease(lease(B, 1)))
    with LeaseStore(path) as store:
        assert store.leases == [lease(A), lease(B, 1)]
        assert store.corrupt_lines == 1


def test_a_write_that_fails_halfway_costs_nothing_once_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "leases.jsonl"
    real_write = os.write

    def disk_gets_full(fd: int, data: bytes) -> int:
        real_write(fd, data[:30])
        raise OSError(errno.ENOSPC, "No space left on device")

    with LeaseStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", disk_gets_full)
            with pytest.raises(OSError, match="No space"):
                store.append([lease(A)])
        store.append([lease(A), lease(B, 1)])
    with LeaseStore(path) as again:
        assert again.leases == [lease(A), lease(B, 1)]
        assert again.corrupt_lines == 1


def test_rewriting_keeps_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "leases.jsonl"
    with LeaseStore(path) as store:
        store.append([lease(A, expires=n) for n in range(50)])
        for _slice in store.rewrite([lease(A)]):
            pass
        store.append([lease(B, 1)])
    with LeaseStore(path) as again:
        assert again.leases == [lease(A), lease(B, 1)]


def test_a_rewriting_that_is_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    with LeaseStore(tmp_path / "leases.jsonl") as store:
        store.append([lease(A, expires=n) for n in range(COMPACT_AFTER_LINES)])
        descriptors = Path("/proc/self/fd")
        before = len(list(descriptors.iterdir()))
        slices = store.rewrite([lease(A)])
        assert not store.needs_rewrite(1)
        del slices  # before its first step, as when the disk is full at that very moment
        assert store.needs_rewrite(1)
        assert len(list(descriptors.iterdir())) == before


def test_what_is_appended_after_a_directory_that_can_not_be_synced_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "leases.jsonl"

    def fail(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with LeaseStore(path) as store:
        store.append([lease(A)])
        monkeypatch.setattr("pxe.net.lease_store._sync_directory", fail)
        with pytest.raises(OSError, match="Input/output"):
            for _slice in store.rewrite([lease(A)]):
                pass
        store.append([lease(B, 1)])
    monkeypatch.undo()
    with LeaseStore(path) as again:
        assert again.leases == [lease(A), lease(B, 1)]


def test_a_file_that_can_not_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    with pytest.raises(PxeError) as caught:
        LeaseStore(tmp_path / "state" / "leases.jsonl")
    assert caught.value.hint
