"""What each command prints: for people, and as the JSON of ``--json``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ratchetkeep.cli import _output as out
from ratchetkeep.cli._output import age, clean, number, pairs, say, stamp

if TYPE_CHECKING:
    from ratchetkeep.copy import CopySummary, LeftBehind, NotHeldByTarget
    from ratchetkeep.inspect import DeviceSummary, PreKeyStock
    from ratchetkeep.repair import Repair
    from ratchetkeep.stores.base import Finding, Listed

SEVERITIES = ("error", "warning", "info")
ADVICE = (
    "use only one of the two copies from now on; two that both go on break each other's sessions"
)

# Libraries that use their own stores without asking us; the mark of --retire is none to them.
STRANGERS = {
    "baileys": "Node",
    "baileys6": "Node",
    "baileysex": "Elixir",
    "baileysex-json": "Elixir",
    "pyaileys": "pyaileys",
    "whatsmeow": "whatsmeow",
}
# How formats and encodings are called in a plan.
SPELLINGS = {
    "baileys": "Baileys' JSON",
    "baileys6": "Baileys 6's JSON",
    "baileysex": "BaileysEx's terms (ETF)",
    "baileysex-json": "BaileysEx's JSON",
    "pyaileys": "pyaileys' JSON",
    "whatsmeow": "whatsmeow's rows",
    "native": "ratchetkeep's own form",
    "signal-protobuf": "libsignal's protobuf",
    "go-json": "Go JSON",
    "pyaileys-json": "JSON of pyaileys",
    "waeys-json": "JSON of waeys",
    "baileys-buffer": "bytes of Baileys",
}

# A copy names the first findings only; verify names them all.
SHOWN_FINDINGS = 5


# -- inspect


def inspect_json(summary: DeviceSummary) -> dict[str, Any]:
    """The summary; times as ISO text, secrets are not in it."""
    value = dataclasses.asdict(summary)
    for name in ("changed", "synced", "moved_at"):
        moment = value[name]
        value[name] = None if moment is None else stamp(moment)
    return {**value, "records": summary.records, "size": summary.size}


def show_device(summary: DeviceSummary) -> None:
    """Who the device is, what it holds, and who has it."""
    unknown = "not known" if summary.paired else "not paired yet"
    rows = [
        ("device", f"{clean(summary.device)} in {clean(summary.url)}"),
        ("jid", clean(summary.jid or unknown)),
        ("lid", clean(summary.lid or unknown)),
        ("name", clean(summary.name or "-")),
        ("platform", clean(summary.platform or "-")),
        ("paired", "yes" if summary.paired else "no"),
        ("registered", "yes" if summary.registered else "no"),
        ("registration id", str(summary.registration_id)),
        ("signed pre-key", f"id {summary.signed_pre_key_id}"),
        ("pre-keys", _stock(summary.pre_keys)),
        ("last sync", age(summary.synced) if summary.synced else "not known"),
        ("last change", age(summary.changed) if summary.changed else "not known"),
        ("owner", clean(summary.owner) or "nobody has it open"),
        *_moved(summary),
        ("secrets", "not shown"),
    ]
    pairs(rows)
    say()
    lines = [
        (family.family, str(family.records), out.size(family.size)) for family in summary.families
    ]
    lines.append(("credentials", "1", out.size(summary.credentials_size)))
    lines.append(("total", str(summary.records + 1), out.size(summary.size)))
    out.table(("family", "records", "size"), lines)


def _moved(summary: DeviceSummary) -> list[tuple[str, str]]:
    if summary.moved_at is None:
        return []
    return [("moved", f"to {clean(summary.moved_to)}, {age(summary.moved_at)}")]


def _stock(stock: PreKeyStock) -> str:
    span = f", ids {stock.lowest} to {stock.highest}" if stock.held else ""
    return f"{stock.held} held{span}; {stock.waiting} not uploaded yet; next id {stock.next_id}"


# -- verify


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first; the order within a severity stays."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def count_findings(findings: Sequence[Finding]) -> dict[str, int]:
    """Number of findings by severity."""
    return {each: sum(f.severity == each for f in findings) for each in SEVERITIES}


def verify_json(url: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings, worst first, with their counts."""
    shown = [finding._asdict() for finding in by_severity(findings)]
    return {"url": url, "counts": count_findings(findings), "findings": shown}


def show_findings(findings: Sequence[Finding]) -> None:
    """Every finding, and a last line with the counts."""
    for finding in by_severity(findings):
        show_finding(finding)
    counts = count_findings(findings)
    errors = number(counts["error"], "error") if counts["error"] else "no errors"
    warnings = number(counts["warning"], "warning") if counts["warning"] else "no warnings"
    notes = f", {number(counts['info'], 'note')}" if counts["info"] else ""
    say(f"{errors}, {warnings}{notes}")


def show_finding(finding: Finding, *, indent: str = "") -> None:
    """One finding, and what to do about it."""
    say(f"{indent}{finding.severity}: {clean(finding.place)}: {clean(finding.what)}")
    if finding.remedy:
        say(f"{indent}  next: {clean(finding.remedy)}")


# -- repair


def repair_json(
    url: str, repairs: Sequence[Repair], left: Sequence[Finding], *, dry_run: bool
) -> dict[str, Any]:
    """What was mended, and the errors that are left."""
    mended = [dataclasses.asdict(repair) for repair in repairs]
    return {
        "url": url,
        "dry_run": dry_run,
        "repairs": mended,
        "left": [finding._asdict() for finding in left],
    }


def show_repairs(repairs: Sequence[Repair], left: Sequence[Finding], *, dry_run: bool) -> None:
    """Every repair and where the old file is, what is left, and a last line with the counts."""
    for repair in repairs:
        say(f"{'would mend' if dry_run else 'mended'}: {clean(repair.place)}: {clean(repair.what)}")
        if repair.kept:
            say(f"  kept: {clean(repair.kept)}")
    for finding in left:
        show_finding(finding)
    done = number(len(repairs), "repair") if repairs else "nothing to mend"
    errors = f"{number(len(left), 'error')} left" if left else "no errors left"
    say(f"{done}, {errors}{'; dry run: nothing was written' if dry_run else ''}")


# -- copy


def copy_json(summary: CopySummary) -> dict[str, Any]:
    """The summary, and the advice once there are two copies."""
    value = dataclasses.asdict(summary)
    value["findings"] = [finding._asdict() for finding in by_severity(summary.findings)]
    value["left_behind"] = [each._asdict() for each in summary.left_behind]
    advice = "" if summary.dry_run else "; ".join(_advice(summary))
    return {**value, "total": summary.total, "advice": advice}


def show_plan(summary: CopySummary) -> None:
    """What a copy carries, converts and cannot keep."""
    records = f"the credentials and {number(summary.total, 'record')}, {out.size(summary.size)}"
    rows = [
        ("from", clean(summary.source)),
        ("to", clean(summary.target)),
        ("carried", records),
        ("converted", _converted(summary)),
    ]
    if summary.client:
        rows.append(("for", summary.client))
    if summary.completed_from:
        rows.append(("completed", f"from {clean(summary.completed_from)}"))
    if summary.rest:
        rows.append(("rest", f"kept in {clean(summary.rest)}"))
    if summary.retired:
        rows.append(("then", f"{clean(summary.source)} is marked as moved"))
    pairs(rows)
    say()
    out.table(
        ("family", "records"),
        [(family, str(count)) for family, count in summary.records.items()],
    )
    say()
    _show_converted(summary)
    show_not_held(summary.not_held)
    show_left_behind(summary.left_behind)
    _show_source_findings(summary)


def _converted(summary: CopySummary) -> str:
    count = sum(each.count for each in summary.converted)
    if not count:
        return "nothing: all of it goes as it is"
    if count <= summary.total:
        return f"{count} of {summary.total + 1}, as listed"
    ways = {(each.source, each.target) for each in summary.converted}
    return f"all of it, {way(*ways.pop())}" if len(ways) == 1 else "all of it, as listed"


def _show_converted(summary: CopySummary) -> None:
    """Each conversion, unless one line told of all; what most records have in common comes last."""
    counts = Counter((each.source, each.target) for each in summary.converted)
    common, families = counts.most_common(1)[0] if counts else (("", ""), 0)
    is_all = sum(each.count for each in summary.converted) > summary.total
    if not counts or (is_all and len(counts) == 1):
        return
    say("converted:")
    for each in summary.converted:
        if is_all and families > 1 and (each.source, each.target) == common:
            continue
        what = "the credentials"
        if each.family != "credentials":
            what = number(each.count, f"{each.family} record")
        say(f"  {what}, {way(each.source, each.target)}")
    if is_all and families > 1:
        say(f"  all else, {way(*common)}")


def way(source: str, target: str) -> str:
    """From which spelling to which other one, in words."""
    return clean(f"from {SPELLINGS.get(source, source)} to {SPELLINGS.get(target, target)}")


def show_not_held(entries: Sequence[NotHeldByTarget]) -> None:
    """What the target cannot hold: what it does without, then what is lost."""
    _show_not_held("left out, made again or not needed there:", entries, derived=True)
    _show_not_held("LOST, the target has no place for it:", entries, derived=False)
    if all(each.derived for each in entries):
        say("lost: nothing")


def _show_not_held(title: str, entries: Iterable[NotHeldByTarget], *, derived: bool) -> None:
    chosen = [each for each in entries if each.derived == derived]
    if not chosen:
        return
    say(title)
    for each in chosen:
        member = f" {each.member}" if each.member else ""
        whole = " (the whole record)" if each.whole else ""
        say(f"  {clean(each.family + member + whole)}: {clean(each.what)}")
        if each.family != "credentials":
            say(f"    in {number(each.count, 'record')}, such as {clean(each.example)}")


def show_left_behind(entries: Sequence[LeftBehind]) -> None:
    """What the source's library keeps beside the records."""
    if entries:
        say("stays behind, no other library has a place for it:")
    for each in entries:
        say(f"  {clean(each.table)}, {number(each.rows, 'row')}: {clean(each.what)}")


def _show_source_findings(summary: CopySummary) -> None:
    findings = by_severity(summary.findings)
    if not findings:
        return
    say("found in the source; what is carried is carried as it is:")
    for finding in findings[:SHOWN_FINDINGS]:
        show_finding(finding, indent="  ")
    more = len(findings) - SHOWN_FINDINGS
    if more > 0:
        say(f"  and {more} more: ratchetkeep verify {clean(summary.source)}")


def show_copied(summary: CopySummary) -> None:
    """The result of a copy."""
    if summary.dry_run:
        say("dry run: nothing was written")
        return
    say(f"copied {number(summary.total, 'record')} and the credentials to {clean(summary.target)}")
    if summary.retired:
        say(f"retired {clean(summary.source)}: it is marked as moved")
    for advice in _advice(summary):
        say(f"next: {clean(advice)}")


def _advice(summary: CopySummary) -> list[str]:
    """What to do now that there are two copies."""
    if not summary.retired:
        return [ADVICE]
    stranger = STRANGERS.get(summary.source_kind)
    if stranger is None:
        return [f"use {summary.target} from now on"]
    # A database may hold other devices, which live on.
    away = "see to it" if summary.source_kind == "whatsmeow" else f"move {summary.source} away"
    return [
        f"use {summary.target} from now on",
        f"{stranger} does not look at the mark: {away}, so that nothing starts the device there "
        "again",
    ]


# -- devices


def show_devices(found: Sequence[tuple[Listed, str]]) -> None:
    """A line for each device, with its URL."""
    pairs([(clean(each.device), clean("  ".join((url, *_told(each))))) for each, url in found])


def _told(each: Listed) -> Iterator[str]:
    if each.records is not None:
        yield number(each.records, "record")
    if each.committed is not None:
        yield f"last commit {age(each.committed)}"
    if each.owner:
        lease = "" if each.lease is None else f", lease {each.lease:.0f} s"
        yield f"in use by {each.owner}{lease}"
    if each.moved_to:
        yield f"moved to {each.moved_to}"


def devices_json(place: str, found: Sequence[tuple[Listed, str]]) -> dict[str, Any]:
    """The devices of a store as JSON."""
    devices = [
        {
            "device": each.device,
            "url": url,
            "moved_to": each.moved_to,
            "owner": each.owner,
            "lease": each.lease,
            "records": each.records,
            "committed": None if each.committed is None else stamp(each.committed),
        }
        for each, url in found
    ]
    return {"url": place, "devices": devices}
