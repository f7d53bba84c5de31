"""Repairs of an SQLite file: modes, its log, and indexes that are the only thing wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import apsw

from ratchetkeep._repair_job import Job, number
from ratchetkeep.errors import (
    CommitFailed,
    DecodeError,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    UnsupportedVersion,
)
from ratchetkeep.formats import native
from ratchetkeep.stores import _sqlite_file as sql
from ratchetkeep.stores._owner import Ownership
from ratchetkeep.stores._sqlite_rows import SEALS, View


def mend_file(job: Job, path: str, device: str) -> None:
    """Mend the file at ``path`` for the sake of its ``device``."""
    url, real = f"sqlite:{path}", job.target
    if not sql.require_ours(path, url):
        raise NoDevice(url, "is not there")
    with job.owning(Ownership(url, Path(real + ".lock"), Path(real + ".owner"))):
        job.sweep(os.path.basename(real) + sql.STAGE)
        job.close_to_others(real, [real, real + "-wal", real + "-shm"])
        # Looked at first: one that cannot be mended is not even brought up to date with its log.
        connection = sql.connect_read_only(real, url)
        try:
            with sql.mapped(url):
                problems = _problems(connection, url, device)
        finally:
            sql.disconnect(connection)
        log = real + "-wal"
        has_log = os.path.exists(log) and os.path.getsize(log) > 0
        if has_log:
            job.note(log, "commits of an unclean stop: brought into the file")
        if problems:
            with job.writing(real):
                kept = job.keep(real)
                if has_log:
                    job.keep(log)
            what = f"SQLite found {number(problems, 'fault')} in its indexes: made again"
            job.note(real, what, kept)
        if (has_log or problems) and not job.dry_run:
            _rebuild(job, real, url, with_indexes=bool(problems))


def _problems(connection: apsw.Connection, url: str, device: str) -> list[str]:
    """What SQLite finds, if it is in the indexes alone and every record is whole.

    :raises StoreDamaged: if it is more than that.
    """
    problems = _checked(connection)
    view = View(connection, url, None)
    if problems:
        _refuse_damaged_rows(view, url, problems)
    if device not in view.names().values():
        raise NoDevice(url, f"holds no device {device!r}")
    return problems


def _checked(connection: apsw.Connection) -> list[str]:
    """The faults that SQLite finds, a line each."""
    problems: list[str] = []
    try:
        for (text,) in connection.execute("PRAGMA integrity_check(100000)"):
            problems += [t for t in text.splitlines() if t != "ok" and not t.startswith("***")]
    except apsw.CorruptError:
        # It has seen every page by then, and stops where it compares an index with its table.
        if not problems:
            raise
    return problems


_INDEX_FAULT = r"(row \d+ missing from|wrong # of entries in|non-unique entry in) index \S+"


def _refuse_damaged_rows(view: View, url: str, problems: list[str]) -> None:
    connection = view.connection
    names = {name for (name,) in connection.execute("SELECT tbl_name FROM sqlite_schema")}
    if names != {*_TABLES[: 2 if view.version < SEALS else 3]}:
        raise StoreDamaged(url, "holds tables that are not ours")
    roots = connection.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'index'")
    trees = "|".join(str(root) for (root,) in roots)
    fault = re.compile(rf"{_INDEX_FAULT}|Tree ({trees}) page .*")
    if not all(fault.fullmatch(line) for line in problems):
        raise StoreDamaged(url, "SQLite finds damage outside of the indexes")
    ciphers = view.ciphers()
    rows = connection.execute("SELECT rowid, device, family, id, data FROM records NOT INDEXED")
    known: set[object] = set()
    for number_of_row, device, family, id, data in rows:
        known |= {number_of_row, (device, family, id)}
        try:
            if device not in ciphers:
                raise StoreDamaged(url, "holds a record of no device")
            key = ciphers[device].key_of(family, id)
            native.decode(key, ciphers[device].open(key, data))
        except (DecodeError, UnsupportedVersion) as error:
            raise StoreDamaged(url, error.what) from None
    _refuse_lost_rows(connection, url, known)


def _refuse_lost_rows(connection: apsw.Connection, url: str, known: set[object]) -> None:
    """An entry whose row is gone, by its number and by its key, shows that the table lost it."""
    index = "INDEXED BY sqlite_autoindex_records_1"
    try:
        for row, *key in connection.execute(
            f"SELECT rowid, device, family, id FROM records {index}"
        ):
            if row not in known and tuple(key) not in known:
                raise StoreDamaged(url, "an index knows a record that its table does not hold")
    except apsw.CorruptError:
        return  # the rest of the index cannot be read


def _rebuild(job: Job, real: str, url: str, *, with_indexes: bool) -> None:
    """Bring the log into the file, and write it again as a new one where its indexes are wrong."""
    connection = sql.connect(real, url)
    staged = ""
    try:
        if with_indexes:
            staged = sql.begin_staging(real)
            _write_again(connection, staged, url)
        sql.disconnect(connection)
        if staged:
            with job.writing(real):
                sql.publish(staged, real)
    finally:
        sql.disconnect(connection)
        for suffix in ("", "-wal", "-shm"):
            if staged:
                job.disk.unlink(staged + suffix)


def _write_again(old: apsw.Connection, staged: str, url: str) -> None:
    """Copy every row, never through an index: VACUUM would carry the indexes over as they are."""

    def failed(what: str) -> RatchetkeepError:
        return CommitFailed(url, what, "Nothing was changed")

    new = sql.connect(staged, url)
    try:
        with sql.mapped(url, failed), new:
            for table in _TABLES:
                columns = _columns(old, table)
                if not columns:
                    continue  # an older schema, which has no such table yet
                rows = old.execute(f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY rowid")
                places = ", ".join("?" * len(columns.split(",")))
                new.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
        with sql.mapped(url, failed):
            found = _checked(new)
    finally:
        sql.disconnect(new)
    if found:
        raise failed("did not come back whole when it was written again")


def _columns(connection: apsw.Connection, table: str) -> str:
    found = connection.execute(f"SELECT name FROM pragma_table_info('{table}')")
    return ", ".join(str(name) for (name,) in found)


_TABLES = ("devices", "records", "ring")
