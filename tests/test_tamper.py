"""A sealed SQLite file that somebody changed byte by byte: what it tells is what was written, or an
error, or a finding."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from _sealing import KEY, NAME, Place, Values, small_source, values_in, values_of
from ratchetkeep import NoDevice, RatchetkeepError, copy_device, open_device, verify_device
from ratchetkeep.model import CREDENTIALS

PAGE = 4096
# Of the bytes that nothing points at by itself, each that stands at a multiple of this.
STRIDE, STRIDE_OF_LOG = 61, 211
FLIPS = (0x01, 0x80, 0xFF)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A closed sealed file with two devices."""
    folder = tmp_path_factory.mktemp("tamper")
    source = small_source(folder / "source")
    place = Place(folder / "file")
    for name in (NAME, "other"):
        copy_device(source, place.url(name), target_key=KEY)
    return place


class Flipper:
    """Opens a file with one byte changed after the other."""

    def __init__(self, folder: Path, files: dict[str, bytes], allowed: list[Values]) -> None:
        self.place = Place(folder)
        self.files = files
        self.allowed = allowed
        self.seen: dict[str, int] = {"same": 0, "refused": 0, "found": 0}
        self.breaches: list[str] = []

    def flip(self, name: str, offset: int) -> None:
        """Change one byte of a file, and look at what becomes of it."""
        changed = bytearray(self.files[name])
        changed[offset] ^= FLIPS[offset % 3]
        self.look(f"byte {offset} of {name}", {**self.files, name: bytes(changed)})

    def look(self, which: str, files: dict[str, bytes] | None = None) -> None:
        """Open these files."""
        for path in self.place.folder.iterdir():
            path.unlink()
        for each, data in (files or self.files).items():
            path = self.place.folder / each
            path.write_bytes(data)
            path.chmod(0o600)
        try:
            self.seen[self._outcome()] += 1
        except Exception as error:  # noqa: BLE001 - an error that is not ours is a breach as well
            text = f"{which}: {type(error).__name__}: {error}"
            self.breaches.append(text.partition("\n")[0])

    def check(self) -> None:
        """Nothing was taken for what it is not."""
        assert not self.breaches, f"{len(self.breaches)}: {self.breaches[:10]}"

    def _outcome(self) -> str:
        # Before anything is opened for writing, which could mend or hide it.
        found = self._is_found()
        try:
            with open_device(self.place.url(), create=True, key=KEY) as device:
                values = values_in(device)
        except NoDevice:
            raise
        except RatchetkeepError:
            return "refused"
        if values in self.allowed:
            return "same"
        old = self.allowed[-1]
        identity = values[CREDENTIALS].signed_identity_key
        assert identity == old[CREDENTIALS].signed_identity_key, "another identity"
        strange = [key for key in values if key not in old or values[key] != old[key]]
        assert not strange, f"reading gives something else of {strange}"
        assert found, "something is missing, and verify does not find it"
        return "found"

    def _is_found(self) -> bool:
        try:
            return any(
                each.severity == "error" for each in verify_device(self.place.url(), key=KEY)
            )
        except NoDevice:
            raise
        except RatchetkeepError:
            return True


def offsets_of(data: bytes, stride: int, telling: Iterable[bytes]) -> list[int]:
    """The bytes to change: headers of the file and of its pages, where these texts stand with what
    is before them, and each ``stride``-th of all."""
    chosen = set(range(112)) | set(range(0, len(data), stride))
    for page in range(0, len(data), PAGE):
        chosen.update(range(page + (100 if page == 0 else 0), page + 16))
    for text in telling:
        for found in re.finditer(re.escape(text), data):
            chosen.update(range(found.start() - 24, found.end(), 7))
            chosen.update(range(found.start() - 12, found.start()))
    return sorted(offset for offset in chosen if 0 <= offset < len(data))


def test_every_byte_of_a_closed_file(place: Place, tmp_path: Path) -> None:
    """One wrong byte would give other records, or make a device look absent, so that new
    credentials are minted over it."""
    data = place.path.read_bytes()
    ring = bytes(place.execute("SELECT data FROM ring")[0][0])
    devices = place.execute("SELECT name, history, state FROM devices")
    telling = [ring, *(part if isinstance(part, bytes) else part.encode() for part in devices[0])]
    flipper = Flipper(tmp_path / "flipped", {"x.db": data}, [values_of(place.url())])
    for offset in offsets_of(data, STRIDE, telling):
        flipper.flip("x.db", offset)
    flipper.check()
    assert flipper.seen["same"] > 100
    assert flipper.seen["refused"] > 100


def test_every_byte_of_a_file_and_its_log(place: Place, tmp_path: Path) -> None:
    """A wrong byte in a log that a killed owner left would give a mix of two commits."""
    live = place.copy(tmp_path / "live")
    states = [values_of(live.url())]
    with open_device(live.url(), key=KEY) as device:
        for turn in range(3):
            device.set({"lid-mapping": {"15551230009": str(turn), f"1555123001{turn}": "1"}})
            states.append(values_in(device))
        left = live.copy(tmp_path / "left")
    files = {name: (left.folder / name).read_bytes() for name in ("x.db", "x.db-wal")}
    flipper = Flipper(tmp_path / "flipped", files, states)
    log = files["x.db-wal"]
    for offset in sorted({*range(56), *range(0, len(log), STRIDE_OF_LOG)}):
        flipper.flip("x.db-wal", offset)
    for offset in range(0, len(files["x.db"]), 4 * STRIDE):
        flipper.flip("x.db", offset)
    flipper.check()
    assert flipper.seen["same"] > 100


def test_a_file_that_is_cut_short(place: Place, tmp_path: Path) -> None:
    """A file that lost its end would be taken for one with fewer records or devices."""
    data = place.path.read_bytes()
    flipper = Flipper(tmp_path / "cut", {"x.db": data}, [values_of(place.url())])
    for size in sorted({*range(0, len(data), 997), *range(PAGE, len(data), PAGE)}):
        flipper.files = {"x.db": data[:size]}
        flipper.look(f"cut to {size} bytes")
    flipper.check()
    assert flipper.seen["refused"] > 20
