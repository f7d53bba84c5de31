"""What a copy of many devices prints: for people, and as the JSON of ``--json``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli import _show as show
from ratchetkeep.cli._output import clean, number, pairs, say

if TYPE_CHECKING:
    from ratchetkeep.copy_all import CopyAllSummary, DeviceCopy

COPIED, THERE, TO_COPY, LEFT = "copied", "already there", "to be copied", "not copied"


def copy_all_json(summary: CopyAllSummary) -> dict[str, Any]:
    """The summary; errors have the members that they have anywhere."""
    members = [field.name for field in dataclasses.fields(summary)]
    value = {name: getattr(summary, name) for name in members}
    for name in ("converted", "not_held"):
        value[name] = [dataclasses.asdict(each) for each in value[name]]
    value["findings"] = [each._asdict() for each in show.by_severity(summary.findings)]
    value["left_behind"] = [each._asdict() for each in summary.left_behind]
    value["devices"] = [_device_json(each) for each in summary.devices]
    value["stopped"] = _error_json(summary.stopped)
    advice = "" if summary.dry_run else "; ".join(_advice(summary))
    return {**value, "total": summary.total, "complete": summary.complete, "advice": advice}


def _device_json(each: DeviceCopy) -> dict[str, Any]:
    value = {field.name: getattr(each, field.name) for field in dataclasses.fields(each)}
    return {**value, "error": _error_json(each.error)}


def _error_json(error: Exception | None) -> dict[str, str] | None:
    return None if error is None else fail.error_json(fail.failure_of(error))


def show_plan(summary: CopyAllSummary) -> None:
    """What a copy carries, converts and cannot keep, of all devices together."""
    todo = summary.count(TO_COPY)
    rows = [
        ("from", f"{clean(summary.source)}, {number(len(summary.devices), 'device')}"),
        ("to", clean(summary.target)),
        ("devices", _counts(summary)),
    ]
    if todo:
        rows.append(("carried", f"{number(summary.total, 'record')}, {out.size(summary.size)}"))
        rows.append(("converted", _converted(summary)))
    if summary.client:
        rows.append(("for", summary.client))
    if summary.retired:
        rows.append(("then", "each source is marked as moved"))
    pairs(rows)
    if todo:
        _show_records(summary)
    _show_findings(summary)


def _counts(summary: CopyAllSummary) -> str:
    counts = [(summary.count(TO_COPY), "to be copied"), (summary.count(COPIED), "copied")]
    counts += [(summary.count(THERE), "already there"), (len(summary.failed), "cannot be copied")]
    counts.append((summary.count(LEFT), "not looked at"))
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _show_records(summary: CopyAllSummary) -> None:
    say()
    rows = [(family, str(count)) for family, count in summary.records.items()]
    out.table(("family", "records"), [("credentials", str(summary.count(TO_COPY))), *rows])
    say()
    if not _is_one_way(summary) and summary.converted:
        say("converted:")
        for each in summary.converted:
            what = number(each.count, f"{each.family} record")
            if each.family == "credentials":
                what = f"the credentials of {number(each.count, 'device')}"
            say(f"  {what}, {show.way(each.source, each.target)}")
    show.show_not_held(summary.not_held)
    show.show_left_behind(summary.left_behind)


def _converted(summary: CopyAllSummary) -> str:
    if not summary.converted:
        return "nothing: all of it goes as it is"
    if _is_one_way(summary):
        first = summary.converted[0]
        return f"all of it, {show.way(first.source, first.target)}"
    return "as listed"


def _is_one_way(summary: CopyAllSummary) -> bool:
    """True if everything is converted, from one spelling to one other."""
    count = sum(each.count for each in summary.converted)
    ways = {(each.source, each.target) for each in summary.converted}
    return count == summary.total + summary.count(TO_COPY) and len(ways) == 1


def _show_findings(summary: CopyAllSummary) -> None:
    findings = show.by_severity(summary.findings)
    if not findings:
        return
    say("found in the sources; what is carried is carried as it is:")
    for finding in findings[: show.SHOWN_FINDINGS]:
        show.show_finding(finding, indent="  ")
    more = len(findings) - show.SHOWN_FINDINGS
    if more > 0:
        say(f"  and {more} more: ratchetkeep verify URL of each device")


def show_copied(summary: CopyAllSummary) -> None:
    """The result: how many, then what went wrong with each of the others, on stderr."""
    there = f", {summary.count(THERE)} already there" if summary.count(THERE) else ""
    if not summary.dry_run:
        say(f"copied {number(summary.count(COPIED), 'device')} to {clean(summary.target)}{there}")
        if summary.retired and summary.count(COPIED) + summary.count(THERE):
            say("retired their sources: they are marked as moved")
        for advice in _advice(summary):
            say(f"next: {clean(advice)}")
    else:
        say("dry run: nothing was written")
    _complain(summary)


def _complain(summary: CopyAllSummary) -> None:
    for error in [*(each.error for each in summary.failed), summary.stopped]:
        if error is not None:
            fail.tell(error, as_json=False)
    if summary.failed:
        out.complain(f"{len(summary.failed)} of {number(len(summary.devices), 'device')} failed")
    if left := summary.count(LEFT):
        what = "were not copied: once the cause is mended, the same command goes on"
        out.complain(f"{left} of {number(len(summary.devices), 'device')} {what}")


def _advice(summary: CopyAllSummary) -> list[str]:
    """What to do now that there are two copies of each."""
    if not summary.count(COPIED) and not summary.count(THERE):
        return []
    if not summary.retired:
        return [show.ADVICE]
    advice = [f"use {summary.target} from now on"]
    strangers = sorted({show.STRANGERS[k] for k in summary.source_kinds if k in show.STRANGERS})
    if strangers:
        who = " and ".join(strangers)
        do = "does" if len(strangers) == 1 else "do"
        advice.append(
            f"{who} {do} not look at the mark: see to it that nothing starts the devices at "
            f"{summary.source} again"
        )
    return advice


def exit_code(summary: CopyAllSummary) -> int:
    """What stopped the copy tells; otherwise the first device that failed."""
    errors = [summary.stopped, *(each.error for each in summary.failed)]
    return next((fail.exit_code(error) for error in errors if error is not None), fail.DONE)
