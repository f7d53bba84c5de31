"""The folder store of the real Baileys, in one Node process for all of its devices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.data import ROOT, Change, Data, address, in_base64, salt

from .base import Peer, PeerMissing, file_names, sync_names

sys.path.append(str(ROOT / "tests"))
import nodepeer

SCRIPT = Path(__file__).with_name("node.mjs")


class NodeProcess:
    """Answers one request after the other."""

    def __init__(self, data: Data) -> None:
        folder = nodepeer.ensure_installed()
        quiet = (folder / "quiet.mjs").as_uri()
        words = [nodepeer.node(), "--import", quiet, "--input-type=module"]
        self._process = subprocess.Popen(
            [*words, "--eval", SCRIPT.read_text()],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        keys = [
            {"public": _buffer(pair.public), "private": _buffer(pair.private)}
            for pair in data.pre_keys
        ]
        sessions = [text.decode() for text in data.json]
        self.ask(verb="load", sessions=sessions, preKeys=[json.dumps(pair) for pair in keys])

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("Node has no standard input or output")
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"Node ended with exit code {process.wait()}")
        return json.loads(answer)

    def end(self) -> None:
        """Let it end."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


def _buffer(data: bytes) -> dict[str, str]:
    return {"type": "Buffer", "data": in_base64(data)}


class Baileys(Peer):
    """``useMultiFileAuthState``."""

    name = "Baileys useMultiFileAuthState (Node)"
    syncs = "never syncs"
    most = 10_000
    is_folder = True
    _process: ClassVar[NodeProcess | None] = None
    _turn: Sequence[Change] = ()

    @classmethod
    def check(cls) -> None:
        try:
            nodepeer.node()
        except RuntimeError as error:
            raise PeerMissing(str(error)) from None

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder / "auth"

    def build(self) -> None:
        self.path.mkdir()
        (self.path / "creds.json").write_bytes(self.data.credentials_json)
        for number in range(self.size):
            path = self.path / f"session-{address(number)}.json"
            path.write_bytes(self.data.json[self.data.template(number)])

    def _ask(self, verb: str, **what: Any) -> Any:
        if Baileys._process is None:
            Baileys._process = NodeProcess(self.data)
        return Baileys._process.ask(verb=verb, folder=str(self.path), **what)

    def open(self) -> int:
        return int(self._ask("open"))

    def close(self) -> None:
        self._ask("close")

    @classmethod
    def end(cls) -> None:
        """End the Node process that all of these share."""
        if cls._process is not None:
            cls._process.end()
            Baileys._process = None

    def commits(self, changes: Sequence[Change]) -> list[int]:
        self._turn = changes
        return [int(each) for each in self._ask("commits", changes=[*map(self._spelt, changes)])]

    def _spelt(self, change: Change) -> dict[str, Any]:
        template = self.data.template
        sessions = [
            [address(number), template(number), in_base64(salt(number, content))]
            for number, content in change.sessions
        ]
        keys = {"put": change.put_pre_keys, "drop": change.drop_pre_keys}
        return {"sessions": sessions, "credentials": change.credentials, **keys}

    def rest(self) -> None:
        names = [name for change in self._turn for name in file_names(change, ".json")]
        sync_names(self.path, names)
        self._turn = ()

    def read(self, numbers: Sequence[int]) -> int:
        return int(self._ask("read", ids=[address(number) for number in numbers]))

    def read_at_once(self, numbers: Sequence[int]) -> int:
        return int(self._ask("readAtOnce", ids=[address(number) for number in numbers]))
