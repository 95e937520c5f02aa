-- body is the whole row as JSON here too.
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    name TEXT,
    image_id TEXT NOT NULL,
    kernel_id TEXT NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (vm_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE templates (
    key TEXT PRIMARY KEY,
    image_id TEXT NOT NULL,
    kernel_id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Where a VM's disks are was a rule; now its row says it.
UPDATE vms SET body = CAST(json_set(
    CAST(body AS TEXT),
    '$.handles.disks',
    json_object(
        'root', json_object('path', json_extract(CAST(body AS TEXT), '$.handles.vm_dir') || '/root.qcow2', 'format', 'qcow2'),
        'work', json_object('path', json_extract(CAST(body AS TEXT), '$.handles.vm_dir') || '/work.raw', 'format', 'raw')
    )
) AS BLOB);
