"""What only a simulator has: settings that come from the environment, so that k3s's own command line stays
as it is. All begin with K3S_SIM_; without any, times are those of k3s and objects are kept in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.k3s_sim.node.errors import K3sError

ETCD_VARIABLE = "K3S_SIM_ETCD"


@dataclass(frozen=True)
class Simulation:
    """The settings.

    Attributes:
        etcd: Directory with the programs `etcd`, `etcdctl` and `etcdutl` (K3S_SIM_ETCD). Without it, as on
            virtual boards, a server that starts a cluster keeps its objects in a file and joining servers
            pass calls on to it.
        manage_s: How often the leader looks at members and learners (K3S_SIM_MANAGE_S).
        learner_stall_s: Silence after which a learner is evicted (K3S_SIM_LEARNER_STALL_S).
        tick_s: How often the other controllers run (K3S_SIM_TICK_S).
        orphan_age_s: Age at which a node password without its node goes (K3S_SIM_ORPHAN_AGE_S).
    """

    etcd: Path | None = None
    manage_s: float = 15.0
    learner_stall_s: float = 300.0
    tick_s: float = 5.0
    orphan_age_s: float = 600.0


def simulation(environ: Mapping[str, str]) -> Simulation:
    """Read the settings.

    Raises:
        K3sError: a number can not be read, or there is no etcd where it is said to be.
    """
    directory = environ.get(ETCD_VARIABLE, "")
    etcd = Path(directory) if directory else None
    if etcd is not None and not (etcd / "etcd").is_file():
        raise K3sError(f"{ETCD_VARIABLE} is {directory}, and there is no program 'etcd' in it")
    default = Simulation()
    return Simulation(
        etcd,
        _seconds(environ, "K3S_SIM_MANAGE_S", default.manage_s),
        _seconds(environ, "K3S_SIM_LEARNER_STALL_S", default.learner_stall_s),
        _seconds(environ, "K3S_SIM_TICK_S", default.tick_s),
        _seconds(environ, "K3S_SIM_ORPHAN_AGE_S", default.orphan_age_s),
    )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if value <= 0:
        raise K3sError(f"{name} is {text!r}; a number of seconds above 0 is expected")
    return value
