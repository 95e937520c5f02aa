"""What survives the daemon: SQLite with numbered, forward-only migrations.."""
