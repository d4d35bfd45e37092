"""When the rules run, and that what they find is said once.

Every event is taken note of at once, which is cheap; rules run from `tick`, a few seconds later and as long
as a board does something or its silence means something, for a bounded number of boards at a time. So a
thousand boards after a power cut cost no more than the events themselves.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pxe.diagnosis.catalogue import RULES
from pxe.diagnosis.finding import Diagnosis, Finding, Severity
from pxe.diagnosis.history import BoardHistory, Notebook
from pxe.diagnosis.scene import Rule, Scene, Setting
from pxe.events import BoardEvent

INTERVAL_S: Final = 3.0  # between two looks at one board
WATCHED_S: Final = 180.0  # after its last sign; no rule needs a longer silence
BOARDS_PER_TICK: Final = 64
SAID_AGAIN_S: Final = 3600.0
SAID_KEPT: Final = 8192
_ORDER: Final = tuple(Severity)


@dataclass(slots=True)
class Diagnostician:
    """Watches all boards of one server.

    Args:
        setting: the server's own part.
        rules: all, unless a test wants fewer.

    Attributes:
        notebook: what was seen of each board.
        said: how often each rule was said, since the start.
    """

    setting: Setting
    rules: Sequence[Rule] = RULES
    notebook: Notebook = field(default_factory=Notebook)
    said: Counter[str] = field(default_factory=Counter)
    _due: OrderedDict[str, tuple[BoardHistory, float]] = field(default_factory=OrderedDict)
    _said_at: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def observe(self, event: BoardEvent) -> None:
        """Take note of what happened to a board."""
        if isinstance(event, Diagnosis):
            return
        history = self.notebook.add(event)
        if history is not None:
            self._due.setdefault(history.board.key, (history, event.at + INTERVAL_S))

    def tick(self, now: float) -> list[Diagnosis]:
        """What is new, as events for the timelines. To be called about once a second with UTC seconds."""
        found: list[Diagnosis] = []
        due = [key for key, (_history, at) in self._due.items() if at <= now][:BOARDS_PER_TICK]
        for key in due:
            history, _at = self._due.pop(key)
            found += self._look(history, now)
            if now - history.last_at < WATCHED_S:
                self._due[history.board.key] = (history, now + INTERVAL_S)
        return found

    def findings(self, history: BoardHistory, now: float) -> list[Finding]:
        """Everything that is wrong with a board now, the worst first."""
        scene = Scene(history, self.setting, now)
        found = [finding for rule in self.rules if (finding := rule.find(scene)) is not None]
        return sorted(found, key=lambda finding: _ORDER.index(finding.severity), reverse=True)

    def _look(self, history: BoardHistory, now: float) -> list[Diagnosis]:
        new: list[Diagnosis] = []
        for finding in self.findings(history, now):
            key = (history.board.key, finding.rule)
            if now - self._said_at.get(key, float("-inf")) < SAID_AGAIN_S:
                continue
            while len(self._said_at) >= SAID_KEPT:
                self._said_at.popitem(last=False)
            self._said_at[key] = now
            self.said[finding.rule] += 1
            new.append(Diagnosis(at=now, board=history.board, node=history.node, finding=finding))
        return new
