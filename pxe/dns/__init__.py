"""Names of the cluster over DNS: a zone, a pure responder, and the rest passed on to other name servers."""
