"""The controller's two doors: `control` for nodes (TLS), `admin` for the command line (unix socket)."""
