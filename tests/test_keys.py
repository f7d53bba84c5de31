"""Where the keys of sealed stores come from, and that no part of one gets out on the way."""

from __future__ import annotations

import base64
import gc
import json
import os
import pickle
import shlex
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import keyring
import pytest
import typer
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, NoKeyringError
from typer.testing import CliRunner

from _terminal import shown_on_terminal
from ratchetkeep.cli import _key
from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    InvalidValue,
    RatchetkeepError,
    StoreUnreadable,
)
from ratchetkeep.sealing import keys

SECRET = "Xyzzy-Plugh-0451"
RAW = bytes(range(200, 232))
TEXT = "ratchetkeep-key-1:" + base64.b64encode(RAW).decode()


def refused(call: Callable[[], object], kind: type[RatchetkeepError]) -> RatchetkeepError:
    """The error of a call; a traceback of it with all its variables shows nothing secret."""
    try:
        call()
    except RatchetkeepError as error:
        assert type(error) is kind
        # Our frames only: the test's own hold the secret that they test with.
        error.__traceback__ = _ours(error.__traceback__)
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(told.format()) + repr(error)
        for secret in (SECRET, SECRET[:6], TEXT[18:], repr(RAW)[2:20]):
            assert secret not in text
        assert error.__context__ is None or isinstance(error.__context__, OSError | ImportError)
        return error
    raise AssertionError("nothing was raised")


def _ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and "ratchetkeep/sealing" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return trace


def file(folder: Path, content: str | bytes = SECRET, mode: int = 0o600) -> Path:
    path = folder / "a key"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


# -- what the text means


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", TEXT + "\r\n", f" {TEXT} \n"])
def test_a_raw_key_is_one_wherever_it_comes_from(text: str, tmp_path: Path) -> None:
    """The same key would open a store from a file, and not from a vault."""
    raw = keys.Secret(RAW, is_passphrase=False)
    command = [sys.executable, "-c", f"import sys; sys.stdout.write({text!r})"]
    sources: list[keys.SealKey] = [
        keys.Passphrase(text),
        keys.KeyFile(file(tmp_path, text)),
        keys.KeyCommand(command),
    ]
    assert [each.secret() for each in sources] == [raw, raw, raw]
    assert keys.RawKey(RAW).secret() == raw


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (SECRET, SECRET),
        (f"{SECRET}\n", SECRET),
        (f"{SECRET}\r\n", SECRET),
        (f"{SECRET}\n\n", f"{SECRET}\n"),
        (f"  {SECRET}  ", f"  {SECRET}  "),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("ratchetkeep-key", "ratchetkeep-key"),
    ],
)
def test_any_other_text_is_a_passphrase(text: str, meant: str, tmp_path: Path) -> None:
    """A passphrase in a file would not be the one that was typed: its newline counted, its blanks
    did not, or an accent that another keyboard makes in another way was another letter."""
    expected = keys.Secret(meant.encode(), is_passphrase=True)
    assert keys.Passphrase(text).secret() == expected
    assert keys.KeyFile(file(tmp_path, text)).secret() == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b" \t\r\n",
        b"\xff\xfe" + SECRET.encode(),
        SECRET.encode() * 5000,
        f"ratchetkeep-key-2:{base64.b64encode(RAW).decode()}".encode(),
        TEXT[:-4].encode(),
        f"{TEXT[:30]}*{TEXT[31:]}".encode(),
        TEXT.replace(":", ":\n").encode(),
        b"ratchetkeep-key-1:",
    ],
    ids=[
        "empty",
        "newline",
        "blank",
        "binary",
        "long",
        "newer",
        "short",
        "no base64",
        "folded",
        "no key",
    ],
)
def test_what_is_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    """A damaged key would be taken for a passphrase, or an empty file would seal a store."""
    path = file(tmp_path, content)
    assert str(path) in str(refused(keys.KeyFile(path).secret, InvalidValue))
    command = keys.KeyCommand(["cat", str(path)])
    kind = StoreUnreadable if len(content) > 64 * 1024 else InvalidValue
    assert "cat" in str(refused(command.secret, kind))
    text = content.decode(errors="surrogateescape")
    refused(lambda: keys.Passphrase(text), InvalidValue)
    refused(lambda: keys.as_key(text), InvalidValue)


def test_nothing_shows_a_secret() -> None:
    """A log or a debugger that shows an object would show the passphrase."""
    sources: list[keys.SealKey] = [keys.Passphrase(SECRET), keys.Passphrase(TEXT), keys.RawKey(RAW)]
    command = keys.KeyCommand(["vault", SECRET])
    shown = [repr(each) + str(each) + each.told for each in [*sources, command]]
    shown += [repr(each.secret()) + f"{each.secret()}" for each in sources]
    shown += ["%s %r" % (each.secret(), [each.secret()]) for each in sources]  # noqa: UP031
    assert len(set(shown)) > 3
    for text in shown:
        assert SECRET not in text
        assert TEXT[18:] not in text
        assert repr(RAW)[2:-1] not in text


def test_as_key(tmp_path: Path) -> None:
    """What a program gives as a key would be taken for something else."""
    source = keys.KeyFile(file(tmp_path))
    assert keys.as_key(None) is None
    assert keys.as_key(source) is source
    found = [keys.as_key(each) for each in (SECRET, TEXT, RAW)]
    secrets = [each.secret() for each in found if each]
    raw = keys.Secret(RAW, is_passphrase=False)
    assert secrets == [keys.Secret(SECRET.encode(), is_passphrase=True), raw, raw]
    assert isinstance(source, keys.SealKey)
    copied = pickle.loads(pickle.dumps(found[0]))
    assert copied.secret() == secrets[0]


@pytest.mark.parametrize("value", [RAW[:31], RAW + b"1", b"", SECRET.encode(), 17, [SECRET], str])
def test_as_key_refuses(value: object) -> None:
    """Bytes that are no key, or an object of another kind, would seal a store."""
    refused(lambda: keys.as_key(value), InvalidValue)  # type: ignore[arg-type]


# -- files


def test_make_key_file(tmp_path: Path) -> None:
    """A key would not be random, could be read by others, or could not be read back."""
    paths = [tmp_path / "one", tmp_path / "two"]
    before = os.umask(0o777)
    try:
        for path in paths:
            keys.make_key_file(path)
    finally:
        os.umask(before)
    found = [keys.KeyFile(path).secret() for path in paths]
    assert found[0] != found[1]
    assert [(len(each.data), each.is_passphrase) for each in found] == [(32, False)] * 2
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600]


def test_a_key_file_is_never_made_over_something(tmp_path: Path) -> None:
    """The only key of a store would be replaced, or written through a link to elsewhere."""
    path = file(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for each in (path, link, tmp_path):
        refused(lambda each=each: keys.make_key_file(each), DeviceExists)  # type: ignore[misc]
    assert path.read_text() == SECRET
    assert not (tmp_path / "nowhere").exists()
    refused(lambda: keys.make_key_file(tmp_path / "no" / "folder"), CommitFailed)
    for bad in ("", "nul\0"):
        refused(lambda bad=bad: keys.make_key_file(bad), InvalidValue)  # type: ignore[misc]


def test_a_key_file_that_cannot_be_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a key would lie there, and be taken for the key of a store."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = refused(lambda: keys.make_key_file(tmp_path / "key"), CommitFailed)
    assert "No space" in error.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610, 0o644, 0o777])
def test_a_key_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """The key of everything would lie open, and nobody would hear of it."""
    path = file(tmp_path, mode=mode)
    error = refused(keys.KeyFile(path).secret, InvalidValue)
    assert f"{mode:04o}" in error.what
    command = error.remedy.split("`")[1]
    subprocess.run(shlex.split(command), check=True)
    assert keys.KeyFile(path).secret().data == SECRET.encode()


def test_a_key_file_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user could put his key there, and read what is sealed from then on."""
    path = file(tmp_path)
    mine = path.stat().st_uid
    if mine == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert "another user" in refused(keys.KeyFile(path).secret, InvalidValue).what


def test_a_link_to_a_key_file_is_followed(tmp_path: Path) -> None:
    """A secret that is mounted into a container, which is a link, could not be used; or the modes
    of the link would count, and not those of the file."""
    path = file(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert keys.KeyFile(link).secret().data == SECRET.encode()
    path.chmod(0o644)
    refused(keys.KeyFile(link).secret, InvalidValue)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    """A pipe in the place of a key would hold the program up for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path, Path(os.devnull)):
        refused(keys.KeyFile(path).secret, InvalidValue)
    assert "No such file" in refused(keys.KeyFile(tmp_path / "no").secret, StoreUnreadable).what
    for bad in ("", "a\0b"):
        refused(lambda bad=bad: keys.KeyFile(bad), InvalidValue)  # type: ignore[misc]


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """A program that opens stores again and again would run out of descriptors."""
    sources: list[keys.SealKey] = [
        keys.KeyFile(file(tmp_path)),
        keys.KeyFile(tmp_path),
        keys.KeyCommand(["true"]),
    ]
    before = len(os.listdir("/proc/self/fd"))
    for source in sources * 3:
        try:
            source.secret()
        except InvalidValue:
            continue
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# -- the keyring


class MemoryKeyring(KeyringBackend):
    """A keyring in memory, that can be made to fail."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.failure: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        if self.failure is not None:
            raise self.failure
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


@pytest.fixture
def entries() -> Iterator[MemoryKeyring]:
    before = keyring.get_keyring()
    backend = MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_keyring(entries: MemoryKeyring) -> None:
    """What the user put into the keyring would not be what opens the store."""
    keyring.set_password("ratchet keep", "alice", SECRET)
    keyring.set_password("ratchetkeep", "bob", TEXT)
    alice, bob = keys.Keyring("ratchet keep", "alice"), keys.Keyring("ratchetkeep", "bob")
    assert alice.secret() == keys.Secret(SECRET.encode(), is_passphrase=True)
    assert bob.secret() == keys.Secret(RAW, is_passphrase=False)
    keyring.set_password("ratchetkeep", "bob", "")
    refused(bob.secret, InvalidValue)


def test_keyring_entry_missing(entries: MemoryKeyring) -> None:
    """The user would not be told which command makes the entry."""
    error = refused(keys.Keyring("ratchet keep", "a b").secret, InvalidValue)
    assert "`keyring set 'ratchet keep' 'a b'`" in error.remedy


@pytest.mark.parametrize(
    "failure",
    [NoKeyringError("none"), KeyringLocked(SECRET), RuntimeError(SECRET), OSError(5, SECRET)],
    ids=lambda failure: type(failure).__name__,
)
def test_keyring_fails(entries: MemoryKeyring, failure: Exception) -> None:
    """A locked keyring would look like a bug, or what it says would tell the secret."""
    entries.failure = failure
    error = refused(keys.Keyring("service", "user").secret, StoreUnreadable)
    assert "`keyring set service user`" in error.remedy


def test_keyring_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user would see an ImportError, and not what to install."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    error = refused(keys.Keyring("service", "user").secret, InvalidValue)
    assert "pip install 'ratchetkeep[keyring]'" in error.remedy


@pytest.mark.parametrize(("service", "user"), [("", "user"), ("service", "")])
def test_a_keyring_entry_has_two_names(service: str, user: str) -> None:
    """An entry that no keyring can have would be looked for."""
    refused(lambda: keys.Keyring(service, user), InvalidValue)


# -- commands


def python(code: str, **options: float) -> keys.KeyCommand:
    return keys.KeyCommand([sys.executable, "-c", code], **options)


def test_command(tmp_path: Path) -> None:
    """What the command prints would not be the key, to the byte; or a shell would see it."""
    assert keys.KeyCommand(["printf", "%s", f"{SECRET}\n"]).secret().data == SECRET.encode()
    assert keys.KeyCommand(["printf", f"{SECRET}\\n\\n"]).secret().data == f"{SECRET}\n".encode()
    marked = tmp_path / "marked"
    words = f"$(touch {marked}); `touch {marked}` | tee {marked}"
    assert keys.KeyCommand(["printf", "%s", words]).secret().data == words.encode()
    assert not marked.exists()


def test_a_command_reads_nothing_and_says_why_it_failed() -> None:
    """It would wait for our own input, or take it away; or its words about a failure were lost."""
    code = f"""
        import sys
        from ratchetkeep.sealing.keys import KeyCommand
        from ratchetkeep.errors import StoreUnreadable
        inner = "import sys; sys.exit('no token:' + repr(sys.stdin.read()))"
        try:
            KeyCommand([{sys.executable!r}, "-c", inner]).secret()
        except StoreUnreadable as error:
            print(error)
        print(sys.stdin.read())
    """
    import textwrap

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        input="ours",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "no token:''" in done.stderr
    assert "exit code 1" in done.stdout
    assert done.stdout.endswith("ours\n")
    assert "no token" not in done.stdout


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (f"print('{SECRET}'); raise SystemExit(3)", "failed with exit code 3"),
        (f"print('{SECRET}', flush=True); import os; os.kill(os.getpid(), 9)", "signal 9"),
        (f"print('{SECRET}' * 9999)", "more than 64 KiB"),
        (f"while True: print('{SECRET}' * 9999)", "more than 64 KiB"),
    ],
    ids=["exit code", "killed", "long", "endless"],
)
def test_a_command_that_fails(code: str, told: str) -> None:
    """What a command printed before it failed would be taken for the key."""
    error = refused(python(code).secret, StoreUnreadable)
    assert told in error.what


@pytest.mark.parametrize(
    "code",
    [
        f"print('{SECRET}', flush=True); import time; time.sleep(600)",
        "import os, time; os.close(1); time.sleep(600)",
        f"print('{SECRET}', flush=True)\nimport time\nos.fork() or time.sleep(9)\nos._exit(0)",
    ],
    ids=["open", "closed", "a child holds it open"],
)
def test_a_command_that_takes_too_long_is_ended(code: str, tmp_path: Path) -> None:
    """Opening a store would wait for ever, or leave a process behind."""
    note = tmp_path / "pid"
    code = f"import os; open({str(note)!r}, 'w').write(str(os.getpid()))\n{code}"
    error = refused(python(code, timeout=2.0).secret, StoreUnreadable)
    assert "took too long" in error.what
    assert not Path(f"/proc/{note.read_text()}").exists()


def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    """A missing program would be a traceback, or its arguments, which may hold a token, be told."""
    path = file(tmp_path)
    for program, told in (("no-such-program", "No such file"), (str(path), "Permission denied")):
        error = refused(keys.KeyCommand([program, SECRET]).secret, StoreUnreadable)
        assert told in error.what
        assert program in error.place
    for bad in ([], [""], ["a\0b"], f"vault {SECRET}"):
        refused(lambda bad=bad: keys.KeyCommand(bad), InvalidValue)  # type: ignore[misc]


# -- the environment


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("RATCHETKEEP_KEY", "RATCHETKEEP_NEW_KEY", "OTHER"):
        for name in keys.key_variables(prefix):
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("prefix", ["RATCHETKEEP_KEY", "RATCHETKEEP_NEW_KEY"])
def test_environment(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: MemoryKeyring
) -> None:
    """One of the four variables would name another key than it says."""
    keyring.set_password("a/service", "user", SECRET)
    path = file(tmp_path)
    values = {
        "FILE": str(path),
        "PASSPHRASE": SECRET,
        "KEYRING": "a/service/user",
        "COMMAND": f"cat '{path}'",
    }
    assert keys.key_variables(prefix) == [f"{prefix}_{name}" for name in values]
    assert keys.from_environment(prefix) is None
    for name, value in values.items():
        with monkeypatch.context() as only:
            only.setenv(f"{prefix}_{name}", value)
            found = keys.from_environment(prefix)
            assert keys.from_environment("OTHER") is None
            assert found is not None
            assert found.secret() == keys.Secret(SECRET.encode(), is_passphrase=True)


def test_no_shell_runs_the_command_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may set a variable could run what he likes with our rights through a pipe."""
    monkeypatch.setenv("RATCHETKEEP_KEY_COMMAND", f"printf %s '$HOME' ; touch {tmp_path}/x")
    found = keys.from_environment()
    assert found is not None
    assert found.secret().data.startswith(b"$HOME;touch")
    assert list(tmp_path.iterdir()) == []


def test_two_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two keys would win by chance, and the user would seal with the other one in mind."""
    monkeypatch.setenv("RATCHETKEEP_KEY_FILE", "/key")
    monkeypatch.setenv("RATCHETKEEP_KEY_PASSPHRASE", SECRET)
    error = refused(keys.from_environment, InvalidValue)
    assert error.place == "RATCHETKEEP_KEY_FILE and RATCHETKEEP_KEY_PASSPHRASE"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FILE", ""),
        ("PASSPHRASE", ""),
        ("PASSPHRASE", " "),
        ("PASSPHRASE", f"ratchetkeep-key-1:{SECRET}"),
        ("PASSPHRASE", SECRET + "\udcff"),
        ("KEYRING", ""),
        ("KEYRING", SECRET),
        ("KEYRING", f"{SECRET}/"),
        ("KEYRING", f"/{SECRET}"),
        ("COMMAND", ""),
        ("COMMAND", "  "),
        ("COMMAND", f"vault '{SECRET}"),
    ],
)
def test_a_variable_that_names_nothing_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that a script forgot to fill would be no key, so that a store stays plain."""
    monkeypatch.setenv(f"RATCHETKEEP_KEY_{name}", value)
    refused(keys.from_environment, InvalidValue)


# -- the command line


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    made.command()(_key.key)
    return made


def test_the_command_makes_a_key(app: typer.Typer, tmp_path: Path) -> None:
    """The key could not be used, would be shown, or one that is there would be replaced."""
    path = tmp_path / "key"
    done = CliRunner().invoke(app, [str(path)])
    assert done.exit_code == 0
    assert f"RATCHETKEEP_KEY_FILE={path}" in done.output
    made = path.read_text()
    assert made[18:].strip() not in done.output
    assert not keys.KeyFile(path).secret().is_passphrase
    again = CliRunner().invoke(app, [str(path), "--json"])
    assert (again.exit_code, again.stdout) == (4, "")
    assert json.loads(again.stderr)["error"]["kind"] == "DeviceExists"
    assert path.read_text() == made
    other = CliRunner().invoke(app, [str(tmp_path / "other"), "--json"])
    assert json.loads(other.stdout) == {"file": str(tmp_path / "other")}


ASK = """
import sys
from ratchetkeep.cli import _secrets
from ratchetkeep.errors import RatchetkeepError
try:
    secret = getattr(_secrets, sys.argv[1])("sqlite:place", *sys.argv[2:]).secret()
    print("GOT", secret.data.decode()[::-1], flush=True)
except RatchetkeepError as error:
    print("ERROR", type(error).__name__, error, flush=True)
"""


def on_terminal(*arguments: str, typed: list[str], **environment: str) -> str:
    """All that a terminal shows while somebody sits there and types."""
    return shown_on_terminal([sys.executable, "-c", ASK, *arguments], typed, **environment)


def test_a_terminal_is_asked_for_the_key() -> None:
    """A passphrase would have to stand in an argument, or be seen while it is typed."""
    shown = on_terminal("key_of", typed=[f"{SECRET}\n"])
    assert f"GOT {SECRET[::-1]}" in shown
    assert SECRET not in shown


def test_a_new_passphrase_is_typed_twice() -> None:
    """A store would be sealed with a passphrase that was mistyped once, and be lost."""
    shown = on_terminal("new_key_for", typed=[f"{SECRET}\n"] * 2)
    assert f"GOT {SECRET[::-1]}" in shown
    assert SECRET not in shown
    shown = on_terminal("new_key_for", typed=[f"{SECRET}\n", f"{SECRET}s\n"])
    assert "ERROR InvalidValue" in shown
    assert SECRET not in shown


@pytest.mark.parametrize("typed", ["\n", "\x04"], ids=["nothing", "end"])
def test_nothing_typed_is_no_key(typed: str) -> None:
    """Pressing Enter would seal a store with an empty passphrase."""
    assert "ERROR " in on_terminal("key_of", typed=[typed])
    assert "ERROR InvalidValue" in on_terminal("new_key_for", typed=[typed])


def test_the_environment_comes_before_the_terminal() -> None:
    """A script on a terminal would stop and ask for what it was given."""
    shown = on_terminal("key_of", typed=[], RATCHETKEEP_KEY_PASSPHRASE=SECRET)
    assert shown.splitlines() == [f"GOT {SECRET[::-1]}"]
    other = {"RATCHETKEEP_KEY_PASSPHRASE": "old", "RATCHETKEEP_NEW_KEY_PASSPHRASE": SECRET}
    shown = on_terminal("new_key_for", "RATCHETKEEP_NEW_KEY", typed=[], **other)
    assert shown.splitlines() == [f"GOT {SECRET[::-1]}"]


@pytest.mark.parametrize(
    ("arguments", "kind", "prefix"),
    [
        (["key_of"], "WrongKey", "RATCHETKEEP_KEY"),
        (["new_key_for"], "InvalidValue", "RATCHETKEEP_KEY"),
        (["new_key_for", "RATCHETKEEP_NEW_KEY"], "InvalidValue", "RATCHETKEEP_NEW_KEY"),
    ],
)
def test_without_a_terminal_the_error_names_the_variables(
    arguments: list[str], kind: str, prefix: str
) -> None:
    """A service would hang at a prompt that nobody sees, or not say what it needs."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments],
        input=f"{SECRET}\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        start_new_session=True,
    )
    assert f"ERROR {kind}" in done.stdout
    for name in keys.key_variables(prefix):
        assert name in done.stdout
    assert done.stderr == ""
