CREATE TABLE schema_migrations (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL
) STRICT;

-- body is the whole VMRow as JSON; the other columns are copies of what is searched by.
CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    image_id TEXT NOT NULL,
    kernel_id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The primary key is what keeps two VMs from getting the same address or port.
CREATE TABLE leases (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_by_vm ON leases (vm_id);

CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    started_at REAL NOT NULL,
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX operations_by_start ON operations (started_at DESC);
CREATE INDEX operations_running ON operations (state) WHERE state = 'running';
