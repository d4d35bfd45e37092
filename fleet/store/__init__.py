"""What is true of the fleet, kept in SQLite or PostgreSQL: see `fleet.store.database`."""
