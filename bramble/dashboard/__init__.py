"""The dashboard: server-rendered pages over the running server, live over server-sent events."""
