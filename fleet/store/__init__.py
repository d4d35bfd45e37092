"""What is true of the fleet, kept in one SQLite file: see `fleet.store.database`."""
