"""What the store promises when the process is killed, or the disk is full."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.daemon.rows import vm_row

from banger.daemon.store import Lease, Store

INSERT_FOR_EVER = """
import asyncio, itertools, sys
from pathlib import Path
from banger.daemon.store import Lease, Store
from tests.unit.daemon.rows import vm_row

async def main():
    store = await Store.open(Path(sys.argv[1]))
    for number in itertools.count():
        await store.insert_vm(vm_row(number), [Lease("port", str(number))])
        print(number, flush=True)

asyncio.run(main())
"""

HANG_IN_A_TRANSACTION = """
import asyncio, sys, time
from pathlib import Path
from banger.daemon.store import Store
from tests.unit.daemon.rows import vm_row

def half(connection):
    connection.execute("DELETE FROM vms")
    print("inside", flush=True)
    time.sleep(600)

async def main():
    store = await Store.open(Path(sys.argv[1]))
    await store.insert_vm(vm_row(1), [])
    await store._database.write(half)

asyncio.run(main())
"""

FILL_THE_DISK = """
import asyncio, os, sys
from pathlib import Path
from banger.api.errors import PermanentError
from banger.daemon.store import Lease, Store
from tests.unit.daemon.rows import vm_row

def fill(directory):
    with open(directory / "ballast", "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
        try:
            while True:
                file.write(b"x")
        except OSError:
            pass

async def main():
    directory = Path(sys.argv[1])
    store = await Store.open(directory / "state.db")
    for number in range(20):
        await store.insert_vm(vm_row(number), [Lease("port", str(number))])
    fill(directory)
    assert os.statvfs(directory).f_bavail == 0
    for number in range(20):
        await store.save_vm(vm_row(number, name=f"stopped-{number}"))
        await store.delete_vm(vm_row(number).id)
    assert await store.vms() == []
    await store.close()

    fill(directory)
    store = await Store.open(directory / "state.db")
    refused = 0
    for number in range(100_000):
        try:
            await store.insert_vm(vm_row(number), [])
        except PermanentError as error:
            assert error.code == "insufficient_disk", error
            refused = number
            break
    assert refused, "the disk was not full"
    assert len(await store.vms()) == refused
    (directory / "ballast").unlink()
    await store.insert_vm(vm_row(refused), [])
    await store.close()
    store = await Store.open(directory / "state.db")
    assert len(await store.vms()) == refused + 1
    await store.close()
    print("all as promised")

asyncio.run(main())
"""


@contextmanager
def script(text: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", text, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    return process.stdout.read()


@pytest.mark.parametrize("lines", [1, 20, 90])
async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "state.db"
    with script(INSERT_FOR_EVER, path) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(lines)]
        acknowledged += kill(process).splitlines()

    store = await Store.open(path)
    rows, ports = await store.vms(), await store.leases("port")
    await store.close()
    # One more may have reached the disk without being acknowledged.
    assert len(acknowledged) <= len(rows) <= len(acknowledged) + 1
    assert {row.id for row in rows} == {vm_row(number).id for number in range(len(rows))}
    assert ports == {str(number) for number in range(len(rows))}


async def test_half_a_transaction_never_happened(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with script(HANG_IN_A_TRANSACTION, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        kill(process)

    store = await Store.open(path)
    assert await store.vms() == [vm_row(1)]
    await store.insert_vm(vm_row(2), [Lease("port", "2")])
    await store.close()


def test_on_a_full_disk_vms_are_still_stopped_and_deleted(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=80M none "$0" && exec {sys.executable} -c "$1" "$0"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
        pytest.skip("this host lets nobody make a user namespace")

    done = subprocess.run(
        [*namespace, "sh", "-c", mount, tmp_path, FILL_THE_DISK], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("all as promised\n", "")
