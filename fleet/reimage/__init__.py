"""Taking an installed node down on purpose: to install it again, to replace its board, or for good."""
