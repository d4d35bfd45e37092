"""The declared cluster: `load_cluster(path)` reads a cluster.yaml into a `ClusterSpec`.

The values are frozen and pure; `fleet.spec.load` alone reads files. Other rooms import from here.

Reading and writing documents takes pydantic and PyYAML, 20 MiB in memory: those names are imported when they
are first used, for processes such as the netboot server that only need the values.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec.model import (
    UPSTREAM,
    AddressPool,
    BaseRef,
    CatalogueBase,
    ClusterSpec,
    DhcpMode,
    DiskSpec,
    FileBase,
    FirstBoot,
    FirstBootPolicy,
    ImageSpec,
    K3sSpec,
    NetworkSpec,
    NodeSpec,
    PolicySpec,
    PortsSpec,
    ReimagePolicy,
    Role,
    Taint,
    UnknownBoards,
    UrlBase,
    UserSpec,
)
from fleet.spec.power import (
    CommandPower,
    ManualPower,
    PowerSpec,
    SecretPlace,
    ShellyPower,
    SnmpAuth,
    SnmpPoePower,
    SnmpPrivacy,
    SnmpUser,
    TasmotaPower,
)
from fleet.spec.problems import Problem, Severity, SpecErrors

if TYPE_CHECKING:
    from fleet.spec.export import digest, effective_values, image_inputs, to_document
    from fleet.spec.load import CheckedCluster, check_cluster, load_cluster

__all__ = [
    "UPSTREAM",
    "AddressPool",
    "BaseRef",
    "BoardModel",
    "CatalogueBase",
    "CheckedCluster",
    "ClusterSpec",
    "CommandPower",
    "DhcpMode",
    "DiskKind",
    "DiskSpec",
    "FileBase",
    "FirstBoot",
    "FirstBootPolicy",
    "ImageSpec",
    "K3sSpec",
    "MacAddress",
    "ManualPower",
    "NetworkSpec",
    "NodeSpec",
    "PolicySpec",
    "PortsSpec",
    "PowerSpec",
    "Problem",
    "ReimagePolicy",
    "Role",
    "SecretPlace",
    "Serial",
    "Severity",
    "ShellyPower",
    "SnmpAuth",
    "SnmpPoePower",
    "SnmpPrivacy",
    "SnmpUser",
    "SpecErrors",
    "Taint",
    "TasmotaPower",
    "UnknownBoards",
    "UrlBase",
    "UserSpec",
    "check_cluster",
    "digest",
    "effective_values",
    "image_inputs",
    "load_cluster",
    "to_document",
]

_AT_FIRST_USE: Final = {
    "CheckedCluster": "fleet.spec.load",
    "check_cluster": "fleet.spec.load",
    "digest": "fleet.spec.export",
    "effective_values": "fleet.spec.export",
    "image_inputs": "fleet.spec.export",
    "load_cluster": "fleet.spec.load",
    "to_document": "fleet.spec.export",
}
"""Name → the module that has it (PEP 562)."""


if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        module = _AT_FIRST_USE.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value  # the next time it is simply there
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_AT_FIRST_USE})
