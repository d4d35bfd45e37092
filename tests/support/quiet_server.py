"""An HTTP server in threads that says nothing of clients who drop their connections."""

from __future__ import annotations

import http.server
from typing import Any


class QuietServer(http.server.ThreadingHTTPServer):
    """Ends without waiting for its connections."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        return
