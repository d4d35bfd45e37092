"""All rules. A new one is written in one of the `rules_*` modules and stands here by itself."""

from __future__ import annotations

from typing import Final

from pxe.diagnosis import rules_board, rules_dhcp, rules_files, rules_transfers
from pxe.diagnosis.scene import Rule

RULES: Final[tuple[Rule, ...]] = (
    *rules_dhcp.RULES,
    *rules_transfers.RULES,
    *rules_files.RULES,
    *rules_board.RULES,
)
