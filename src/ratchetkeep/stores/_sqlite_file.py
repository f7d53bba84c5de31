"""One SQLite file of ours: how it is made, opened and set, and how SQLite's errors become ours.

WAL with ``synchronous=FULL``: SQLite syncs the log before a commit returns, and the log's name when
it makes it. Records are a rowid table with a unique key, which writes fewer pages a commit than a
table without rowids. The file is made under another name and renamed, so that a file of zero bytes
under its own name is always damage, never a store about to be made.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from ratchetkeep.errors import (
    CommitFailed,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
    UnsupportedVersion,
)

from ._stage import staging_name, sweep
from .disk import Disk

APPLICATION_ID = 0x524B4550  # "RKEP"
VERSION = 3
HEADER = b"SQLite format 3\0"
STAGE = ".stage-"
WHATSMEOW = "a database of whatsmeow's: use whatsmeow: before the path"

# The wrapped data keys of a sealed store, one row; a plain store has none.
RING = "CREATE TABLE ring (id INTEGER PRIMARY KEY CHECK (id = 1), data BLOB NOT NULL) STRICT"
SCHEMA = f"""
CREATE TABLE devices (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
    moved_to TEXT, moved_at INTEGER,
    history BLOB, commits INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0, state BLOB
) STRICT;
CREATE TABLE records (
    device INTEGER NOT NULL, family TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,
    UNIQUE (device, family, id)
) STRICT;
{RING};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


def _to_version_2(connection: apsw.Connection) -> None:
    """Where a device was moved to, and when."""
    connection.execute("ALTER TABLE devices ADD COLUMN moved_to TEXT")
    connection.execute("ALTER TABLE devices ADD COLUMN moved_at INTEGER")


def _to_version_3(connection: apsw.Connection) -> None:
    """Which life of a device this is and how far it came; and what it is sealed with."""
    connection.execute("ALTER TABLE devices ADD COLUMN history BLOB")
    connection.execute("ALTER TABLE devices ADD COLUMN commits INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE devices ADD COLUMN generation INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE devices ADD COLUMN state BLOB")
    connection.execute("UPDATE devices SET history = randomblob(16)")
    connection.execute(RING)


# Schema upgrades, by the version that they start from; each runs in one transaction that also
# raises user_version.
UPGRADES: dict[int, Callable[[apsw.Connection], None]] = {1: _to_version_2, 2: _to_version_3}

# How long to wait for a foreign program (a shell, a backup) that has the file locked.
BUSY_MILLISECONDS = 5000

# Files that this process has open through SQLite. Opening and closing such a file by other means
# would drop SQLite's locks on it (POSIX), and another program could then remove its log.
_HELD: dict[apsw.Connection, tuple[int, int]] = {}
# Those of them that are another library's.
_FOREIGN: set[apsw.Connection] = set()
_GUARD = threading.RLock()


def _in_forked_child() -> None:
    """A child has its parent's connections, which SQLite forbids to use, and to close: the end of
    the child would remove a log that is another process's by then. So they are never freed."""
    global _GUARD
    _GUARD = threading.RLock()
    for connection in _HELD:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    _HELD.clear()
    _FOREIGN.clear()


os.register_at_fork(after_in_child=_in_forked_child)

_DAMAGE = (apsw.CorruptError, apsw.NotADBError)


@contextmanager
def mapped(place: str, wrap: Callable[[str], RatchetkeepError] | None = None) -> Iterator[None]:
    """Turn SQLite's errors into ours, as :func:`translated`."""
    try:
        yield
    except apsw.Error as error:
        raise translated(error, place, wrap) from None
    except UnicodeDecodeError:
        raise StoreDamaged(place, "holds text that is not UTF-8") from None


def translated(
    error: apsw.Error, place: str, wrap: Callable[[str], RatchetkeepError] | None = None
) -> RatchetkeepError:
    """SQLite's error as ours: damage stays damage, ``wrap`` makes the rest."""
    if isinstance(error, _DAMAGE):
        return StoreDamaged(place, f"SQLite finds it damaged: {error}")
    made = wrap or (lambda what: StoreUnreadable(place, what))
    return made(f"SQLite cannot use it: {type(error).__name__}: {error}")


def look(path: str) -> str:
    """What is at ``path``: ``""`` (nothing), ``"ours"``, ``WHATSMEOW``, or words for anything else.

    :raises StoreDamaged: for what must have been a store.
    :raises StoreUnreadable: if it cannot be read.
    :raises StoreInUse: for another program's database, if that program keeps everybody out.
    """
    try:
        with _GUARD:
            found = os.stat(path)
            for connection, held in _HELD.items():
                if held == (found.st_dev, found.st_ino):
                    return WHATSMEOW if connection in _FOREIGN else "ours"
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                raise StoreDamaged(path, "is not a plain file")
            with Path(path).open("rb") as file:
                header = file.read(100)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise StoreDamaged(path, "is a link that leads nowhere") from None
        if has_log(path):
            remedy = (
                f"If the file was renamed, rename it back: {os.path.basename(path)}-wal belongs to "
                "it. Before a backup is put there, move the -wal and -shm files away"
            )
            what = "is gone, but its write-ahead log is still there"
            raise StoreDamaged(path, what, remedy) from None
        return ""
    except IsADirectoryError:
        return "a folder"
    except OSError as error:
        raise StoreUnreadable(path, f"cannot be read: {error.strerror}") from None
    if not header:
        raise StoreDamaged(path, "is an empty file: a store never is")
    if header[:16] != HEADER:
        return "a file that is not an SQLite database"
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        return WHATSMEOW if _is_whatsmeow(path) else "an SQLite database of another program"
    return "ours"


def _is_whatsmeow(path: str) -> bool:
    """True if the database of another program has whatsmeow's tables."""
    try:
        connection = connect_foreign(path, read_only=True)
    except apsw.BusyError:
        what = "another program has had it locked for a while"
        raise StoreInUse(path, what, "Stop that program, then try again") from None
    except apsw.Error:
        return False
    try:
        wanted = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'whatsmeow_device'"
        return connection.execute(wanted).fetchone() is not None
    except apsw.Error:
        return False
    finally:
        disconnect(connection)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def has_log(path: str) -> bool:
    """True if a write-ahead log with something in it lies there; readers leave empty ones."""
    try:
        return os.stat(path + "-wal").st_size > 0
    except OSError:
        return False


def require_one_name(path: str, url: str) -> None:
    """Refuse a file that another process could open under another name, past our lock.

    :raises StoreInUse: if it has a hard link.
    """
    if os.stat(path).st_nlink > 1:
        what = "has another name (a hard link), under which another process could open it"
        raise StoreInUse(url, what, "Remove the other name, or copy the file instead")


def disconnect(connection: apsw.Connection) -> None:
    """Close a connection of this module. Where the disk fails meanwhile, the log stays behind; it
    holds every commit, and the next one to open the file goes on with it."""
    with _GUARD:
        with suppress(apsw.Error):
            connection.close(True)
        _HELD.pop(connection, None)
        _FOREIGN.discard(connection)


def require_ours(path: str, url: str) -> bool:
    """True if the store is there, False if nothing is.

    :raises UnknownStore: if something else is.
    """
    found = look(path)
    if found in ("", "ours"):
        return bool(found)
    raise UnknownStore(url, f"is {found}", "Nothing was changed. Check the path")


def make(path: str, ring: bytes | None = None) -> None:
    """Make an empty store at ``path``, durable, in one step.

    :param ring: the wrapped data keys of one that is to be sealed.
    """
    staged = begin_staging(path, ring=ring)
    try:
        publish(staged, path)
    except OSError as error:
        raise write_failed(path, error) from None
    finally:
        Disk().unlink(staged)


def sweep_beside(path: str) -> None:
    """Remove what killed copies to the file left: it holds keys."""
    folder, name = os.path.split(os.path.abspath(path))
    with suppress(OSError):
        sweep(Disk(), folder, name + STAGE)


def make_folder_for(path: str, url: str) -> None:
    """Make the folder of a file, if it is missing.

    :raises CommitFailed: if that failed.
    """
    disk = Disk()
    above = os.path.dirname(os.path.abspath(path))
    try:
        if not disk.is_folder(above):
            disk.make_folder(above)
    except OSError as error:
        raise write_failed(url, error) from None


def begin_staging(
    path: str, fill: Callable[[str], None] | None = None, *, ring: bytes | None = None
) -> str:
    """Make an empty store beside ``path``, under a name of its own, which is given.

    :param fill: gives an empty file its schema; ours if None.
    :param ring: the wrapped data keys of a store of ours that is to be sealed.
    """
    disk = Disk()
    folder, name = os.path.split(os.path.abspath(path))
    try:
        sweep(disk, folder, name + STAGE)
        staged = f"{folder}/{staging_name(name + STAGE)}"
        disk.write(staged, b"")  # with its mode, before SQLite makes it
    except OSError as error:
        raise write_failed(path, error) from None
    try:
        if fill:
            fill(staged)
        else:
            _fill(staged, ring)
    except BaseException:
        disk.unlink(staged)
        raise
    return staged


def _fill(path: str, ring: bytes | None) -> None:
    """Give the empty file at ``path`` the schema."""
    with mapped(path, lambda what: CommitFailed(path, what, "Nothing was changed")):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute(SCHEMA)
            if ring is not None:
                connection.execute("INSERT INTO ring (id, data) VALUES (1, ?)", (ring,))
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()


def publish(staged: str, path: str) -> None:
    """Make a finished file durable and give it its name; raises OSError."""
    disk = Disk()
    disk.sync(staged)
    disk.rename(staged, path)
    disk.sync_folder(os.path.dirname(os.path.abspath(path)))


def connect(path: str, url: str, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that writes, with our settings; upgraded to this version's schema."""
    with _GUARD, mapped(url):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        _HELD[connection] = _identity(path)
        try:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            connection.execute(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;"
                "PRAGMA checkpoint_fullfsync = ON; PRAGMA cell_size_check = ON;"
                "PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY"
            ).fetchall()
            _upgrade(connection, url)
        except BaseException:
            disconnect(connection)
            raise
    return connection


def connect_staged(path: str, url: str) -> apsw.Connection:
    """A connection to a file that :func:`begin_staging` made: no journal and no sync, since nobody
    else has it, and it is synced as a whole when it is published. Nothing can be rolled back."""
    connection = connect(path, url)
    try:
        with mapped(url):
            connection.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").fetchall()
    except BaseException:
        disconnect(connection)
        raise
    return connection


def finish_staged(connection: apsw.Connection) -> None:
    """Give a staged file the journal that ours have, and close it."""
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    disconnect(connection)


def connect_read_only(path: str, url: str) -> apsw.Connection:
    """A connection that reads one consistent snapshot, whatever the owner writes meanwhile."""
    with _GUARD, mapped(url):
        # Only a connection that may write removes, when it is the last, the log and the shared
        # memory that SQLite makes for every reader. Where a log lies already, a writing one could
        # bring the file up to date with it: then it may only read.
        flags = apsw.SQLITE_OPEN_READONLY if has_log(path) else apsw.SQLITE_OPEN_READWRITE
        try:
            connection = _snapshot(path, url, flags=flags)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            # On a read-only disk SQLite cannot make its shared memory. Without a log beside it the
            # file is whole by itself, and nobody can change it.
            if has_log(path):
                raise
            name = f"file:{_quoted(path)}?immutable=1"
            flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            connection = _snapshot(name, url, flags=flags)
        _HELD[connection] = _identity(path)
    return connection


def connect_foreign(path: str, *, read_only: bool = False) -> apsw.Connection:
    """A connection to another library's file, whose settings stay as they are; raises apsw.Error.

    :param read_only: change nothing. In a file with a write-ahead log, see one moment from now on;
        in another one that would keep its writers out, who do not expect it.
    """
    with _GUARD:
        connection = _snapshot_of(path) if read_only else _foreign(path)
        _HELD[connection] = _identity(path)
        _FOREIGN.add(connection)
    return connection


def _snapshot_of(path: str) -> apsw.Connection:
    """As :func:`connect_read_only`; and a file whose last commit was broken off is not whole."""
    flags = apsw.SQLITE_OPEN_READONLY if has_log(path) else apsw.SQLITE_OPEN_READWRITE
    try:
        return _foreign(path, flags, snapshot=True)
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        if has_log(path) or os.path.exists(path + "-journal"):
            raise
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return _foreign(f"file:{_quoted(path)}?immutable=1", flags, snapshot=True)


def _foreign(
    name: str, flags: int = apsw.SQLITE_OPEN_READWRITE, *, snapshot: bool = False
) -> apsw.Connection:
    connection = apsw.Connection(name, flags=flags)
    try:
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        if snapshot:
            connection.execute("PRAGMA query_only = ON").fetchall()
            if connection.pragma("journal_mode") == "wal":
                connection.execute("BEGIN")
        # The first that is read: from here on a snapshot stands.
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def write_failed(place: str, error: OSError) -> CommitFailed:
    """What a write that nothing depends on yet raises."""
    return CommitFailed(place, f"cannot be written: {error.strerror}", "Nothing was changed")


def _snapshot(name: str, url: str, *, flags: int) -> apsw.Connection:
    connection = apsw.Connection(name, flags=flags)
    try:
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        _check_version(connection, url)
    except BaseException:
        connection.close()
        raise
    return connection


_HAS_RING = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ring'"


def _check_version(connection: apsw.Connection, url: str) -> int:
    version = int(connection.pragma("user_version"))
    if version > VERSION:
        raise UnsupportedVersion(url, f"has schema version {version}, this is {VERSION}")
    if version < 1:
        raise StoreDamaged(url, "has no schema version")
    if version < VERSION and connection.execute(_HAS_RING).fetchone() is not None:
        raise StoreDamaged(url, f"has schema version {version}, and tables of a later one")
    return version


def _upgrade(connection: apsw.Connection, url: str) -> None:
    for step in range(_check_version(connection, url), VERSION):
        with connection:
            UPGRADES[step](connection)
            connection.pragma("user_version", step + 1)
