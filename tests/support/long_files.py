"""Test files that take long. Workers that run files side by side have to begin with these: one that is begun
last runs alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
LONGEST_FIRST: Final = (
    "integration/imagebuilder/test_packages.py",
    "integration/stock_clones/test_stock_clones.py",
    "integration/stock_clones/test_clones_are_fetched.py",
    "integration/lab_k3s_sim/test_k3s_sim_etcd.py",
    "integration/fleet/test_server_reimage.py",
    "integration/lab_k3s_sim/test_k3s_sim_failures.py",
    "integration/lab_k3s_sim/test_k3s_sim_partitions.py",
    "integration/fleet/test_recovery.py",
    "integration/fleet/test_backup.py",
    "integration/imagebuilder/test_build_failing_tools.py",
    "integration/imagebuilder/test_build_failing_writes.py",
    "integration/benchmarks/test_benchmark_trial.py",
    "integration/bramble/test_doctor.py",
    "integration/bramble/test_packages_of_bramble.py",
    "integration/bramble/test_dashboard_browser.py",
    "integration/agent/test_installer_end_to_end.py",
)


def rank(file: Path) -> int:
    """Where a file stands in the order; all others after these, and among themselves as they were."""
    try:
        return LONGEST_FIRST.index(str(file.relative_to(TESTS)))
    except ValueError:
        return len(LONGEST_FIRST)
