"""The command ``prune``: its options are the knobs of the policy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli._failures import guarded
from ratchetkeep.cli._output import clean, number, say

if TYPE_CHECKING:
    from ratchetkeep._prune_policy import PrunePolicy
    from ratchetkeep.prune import PruneSummary

OFF = "off"
# The options, and the knobs that they turn.
_KNOBS = {
    "--closed-sessions": "closed_sessions",
    "--message-keys": "message_keys",
    "--chains": "receiving_chains",
    "--sender-key-states": "sender_key_states",
    "--sender-message-keys": "sender_message_keys",
    "--device-lists": "device_lists",
    "--tctoken-days": "tctoken_days",
    "--pre-keys": "pre_keys",
}


def _option(name: str, what: str, *, value: str = "N") -> Any:
    return typer.Option(name, metavar=value, help=f"{what} 'off': all.")


@guarded
def prune(
    url: Annotated[str, typer.Argument(metavar="URL", help="The device, as for inspect.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would go; write nothing.")
    ] = False,
    closed_sessions: Annotated[
        str | None, _option("--closed-sessions", "Keep N closed sessions of each record [40].")
    ] = None,
    message_keys: Annotated[
        str | None, _option("--message-keys", "Keep N skipped keys of each chain [2000].")
    ] = None,
    chains: Annotated[
        str | None,
        _option("--chains", "Keep N receiving chains of each session, ended ones too [100]."),
    ] = None,
    sender_key_states: Annotated[
        str | None, _option("--sender-key-states", "Keep N sender keys of each record [5].")
    ] = None,
    sender_message_keys: Annotated[
        str | None,
        _option("--sender-message-keys", "Keep N skipped keys of each sender key [2000]."),
    ] = None,
    device_lists: Annotated[
        str | None,
        _option("--device-lists", "'unused': drop those of nobody else known.", value="WHICH"),
    ] = None,
    tctoken_days: Annotated[
        str | None, _option("--tctoken-days", "Keep tokens of the last N days [28].")
    ] = None,
    pre_keys: Annotated[
        str | None, _option("--pre-keys", "Keep N uploaded pre-keys [3248].")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")
    ] = False,
) -> int:
    """Take away what grows without bound in a device.

    Closed sessions, keys of skipped messages, ended chains, device lists, tokens and pre-keys, each
    beyond what the policy keeps: by default nothing that a conversation needs while it goes on.
    Stop the client first; a dry run needs no stop.
    """
    from ratchetkeep.cli._progress import Bar
    from ratchetkeep.cli._secrets import when_sealed
    from ratchetkeep.prune import prune_device

    given = (
        closed_sessions,
        message_keys,
        chains,
        sender_key_states,
        sender_message_keys,
        device_lists,
        tctoken_days,
        pre_keys,
    )
    policy = _policy(dict(zip(_KNOBS, given, strict=True)))
    try:
        with Bar() as bar:
            summary = prune_device(
                url, policy=policy, dry_run=dry_run, key=when_sealed(url), progress=bar.report
            )
    except KeyboardInterrupt:
        what = "each record is as it was or pruned; the same command goes on"
        raise fail.Interrupted("nothing was changed" if dry_run else what) from None
    if as_json:
        out.say_json(_json(summary))
    else:
        _show(summary)
    return fail.DONE


def _policy(given: dict[str, str | None]) -> PrunePolicy:
    from ratchetkeep._prune_policy import PrunePolicy
    from ratchetkeep.errors import InvalidValue

    knobs = {name: _value(name, text) for name, text in given.items() if text is not None}
    for option, value in knobs.items():
        try:
            PrunePolicy(**{_KNOBS[option]: value})
        except InvalidValue as error:
            what = error.what.replace("None", f"'{OFF}'")
            raise InvalidValue(option, what) from None
    return PrunePolicy(**{_KNOBS[option]: value for option, value in knobs.items()})


def _value(option: str, text: str) -> Any:
    if text == OFF:
        return None
    return int(text) if text.isascii() and text.isdecimal() else text


def _json(summary: PruneSummary) -> dict[str, Any]:
    return {**dataclasses.asdict(summary), "size": summary.size}


def _show(summary: PruneSummary) -> None:
    if summary.pruned:
        head = ("would go" if summary.dry_run else "gone", "count", "records", "size")
        rows = [
            (each.kind, str(each.items), str(each.records), out.size(each.size))
            for each in summary.pruned
        ]
        out.table(head, rows)
    for left in summary.left:
        say(f"left: {number(left.records, f'{left.family} record')}: {clean(left.why)}")
    say(_last_line(summary))
    if summary.pruned:
        say(f"room: {summary.room}")


def _last_line(summary: PruneSummary) -> str:
    if not summary.pruned:
        return "nothing to prune"
    changed = summary.records - summary.removed
    removed = f"{number(summary.removed, 'record')} removed"
    told = f"{removed}, {changed} made smaller, {out.size(summary.size)} less"
    return f"{told}; dry run: nothing was written" if summary.dry_run else told
