"""What survives the daemon: SQLite with numbered, forward-only migrations.

`store` is what services use, `rows` are the values kept, `migrations/` the schema, one SQL file a
step. COMPATIBILITY.md says which daemon may open which database.
"""

from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.store.store import Lease, LeaseTaken, Store

__all__ = ["Handles", "Lease", "LeaseTaken", "Store", "VMRow"]
