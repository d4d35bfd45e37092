"""Who speaks, and may it in? The first two requests of installers and agents.

Establishes the facts (identity, keys, tickets, certificates) and lets the tables of `fleet.enrolment` decide;
what was decided is recorded in the same transaction.
"""

from __future__ import annotations

from agent.protocol import Hello, Proof, Stage, Verdict, Welcome
from fleet.admission.agents import Agents
from fleet.admission.installers import Installers
from fleet.admission.reception import Reception
from fleet.ground import Ground
from fleet.sessions import Sessions


class AdmissionDesk:
    """Answers hello and prove."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._sessions = Sessions(ground)
        reception = Reception(ground)
        self._installers = Installers(ground, reception)
        self._agents = Agents(ground, reception)

    def hello(self, hello: Hello) -> Welcome:
        """Open a session.

        Raises:
            RefusedError: Another protocol version, or a value that cannot be what it says.
        """
        return self._sessions.open(hello)

    def prove(self, proof: Proof, peer_certificate: str | None) -> Verdict:
        """Decide about the session's caller.

        Args:
            peer_certificate: Hex serial number of the client certificate of the connection, verified against
                the control CA.

        Raises:
            RefusedError: The session is unknown: it ended, or the server was started again.
        """
        now = self._ground.clock()
        session = self._sessions.take(proof.session, now)
        if session.hello.stage is Stage.INSTALLER:
            return self._installers.prove(session, proof, now)
        return self._agents.prove(session, proof, peer_certificate, now)
