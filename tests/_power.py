"""What the power-cut tests share: stores over a simulated disk, and commits to run on them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ratchetkeep import open_device
from ratchetkeep.model import Credentials, KeyPair
from ratchetkeep.stores import _sqlite_file
from ratchetkeep.stores.baileys6 import Baileys6Store
from ratchetkeep.stores.base import Store
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import Commit, MirroredVFS, PowerCuts, SimulatedDisk, closing

GOLDEN = Path(__file__).parent / "golden" / "baileys" / "bob"
KINDS = ("sqlite", "baileys", "baileys6", "baileysex", "baileysex-json")


def credentials() -> Credentials:
    """A paired device's credentials that verify by themselves."""
    with open_device(f"baileys:{GOLDEN}", read_only=True) as device:
        return device.credentials.replace(my_app_state_key_id=None, next_pre_key_id=2000)


def commits() -> list[Commit]:
    """The commits of a client's life: minted pre-keys, a first message (session, pre-key gone,
    identity, credentials), a group message, sessions that grow and go."""
    creds = credentials()
    with open_device(f"baileys:{GOLDEN}", read_only=True) as device:
        session = next(iter(device.get("session", device.ids("session")).values()))
        sender_keys = device.get("sender-key", device.ids("sender-key"))
    identity = session.open_session.index_info.remote_identity_key
    return [
        Commit({"pre-key": {str(n): KeyPair.new() for n in range(1, 13)}}, creds),
        Commit(
            {
                "session": {"1.1": session},
                "pre-key": {"3": None},
                "identity-key": {"1.1": identity},
            },
            creds.replace(platform="a"),
        ),
        Commit({"session": {"1.1": session.replace(sessions={})}, "sender-key": sender_keys}),
        Commit({"session": {"1.1": None}, "pre-key": {"4": None, "5": None}}),
        Commit(
            {"session": {"1.1": session, "2_1.2": session}, "pre-key": {"5": KeyPair.new()}},
            creds.replace(platform="b"),
        ),
    ]


def few() -> list[Commit]:
    """Small commits, for checks that are made often."""
    first = {str(n): KeyPair.new() for n in range(1, 4)}
    names: dict[str, dict[str, object]]
    names = {"lid-mapping": {"1": "2"}, "device-list": {"1": ["0"]}}
    return [
        Commit({"pre-key": first, "lid-mapping": {"1": "1"}}, credentials().replace(platform="a")),
        Commit({"pre-key": {"1": None}, **names}),
        Commit({"pre-key": {"2": None, "4": KeyPair.new()}}, credentials()),
    ]


def many_pre_keys() -> list[Commit]:
    """812 pre-keys in one commit, as a client mints them, and one of them used."""
    minted = {str(n): KeyPair.new() for n in range(1, 813)}
    return [Commit({"pre-key": minted}, credentials()), Commit({"pre-key": {"700": None}})]


@contextmanager
def folder(disk: SimulatedDisk, kind: str) -> Iterator[Store]:
    """A folder store on a simulated disk."""
    if not disk.is_folder("/device"):
        disk.make_folder("/device")
    with closing(folder_store(kind, "/device", disk)) as store:
        yield store


def folder_store(kind: str, path: str, disk: SimulatedDisk) -> DirectoryStore:
    """The store of a folder on a simulated disk, whose files follow when they are told to."""
    if kind == "baileys6":
        return Baileys6Store(path, disk, background=False)
    return DirectoryStore(kind, path, disk, background=False)


@contextmanager
def sqlite_running(disk: SimulatedDisk) -> Iterator[Store]:
    """A SQLite store with its real settings, mirrored on a simulated disk."""
    above = Path(tempfile.mkdtemp())
    path = above / "x.db"
    try:
        with MirroredVFS(disk) as vfs:
            _sqlite_file.make(str(path))
            disk.adopt("/x.db", path.read_bytes())
            with closing(SqliteStore(str(path), vfs=vfs.name)) as store:
                yield store
    finally:
        shutil.rmtree(above)


@contextmanager
def sqlite_after(disk: SimulatedDisk) -> Iterator[Store]:
    """A SQLite store on real files, as a power cut left them; what it makes of them is kept."""
    above = Path(tempfile.mkdtemp())
    try:
        for path, data in disk.files().items():
            (above / path[1:]).write_bytes(data)
            (above / path[1:]).chmod(0o600)
        with closing(SqliteStore(str(above / "x.db"))) as store:
            yield store
        disk.replace_all({f"/{path.name}": path.read_bytes() for path in above.iterdir()})
    finally:
        shutil.rmtree(above)


def running(kind: str, disk: SimulatedDisk) -> AbstractContextManager[Store]:
    return sqlite_running(disk) if kind == "sqlite" else folder(disk, kind)


def after(kind: str, disk: SimulatedDisk) -> AbstractContextManager[Store]:
    return sqlite_after(disk) if kind == "sqlite" else folder(disk, kind)


def follow_by_turns(store: Store, number: int) -> None:
    """Let files follow their journal after every second commit, as the thread does at times."""
    if isinstance(store, DirectoryStore) and number % 2:
        store.follow()


def power_cuts(
    kind: str,
    run: list[Commit],
    *,
    per_step: int,
    every: int = 1,
    nested: float = 0.02,
    seed: int = 0,
) -> PowerCuts:
    """Power cuts at every step of ``run`` on a store of ``kind``."""
    return PowerCuts(
        lambda disk: running(kind, disk),
        lambda disk: after(kind, disk),
        run,
        credentials=credentials(),
        between=follow_by_turns,
        per_step=per_step,
        every=every,
        nested=nested,
        seed=seed,
    )
