"""The agent's error tree: every error says what happened and what to do next."""

from __future__ import annotations


class AgentError(Exception):
    """Root of all errors that the agent raises on purpose."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
