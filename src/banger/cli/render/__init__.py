"""How answers look: tables, JSON, progress, errors. Knows nothing of the daemon."""
