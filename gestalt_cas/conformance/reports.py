"""What a run found, as text, JSON and JUnit's XML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from gestalt_cas.conformance.running import Outcome, Verdict
from gestalt_cas.conformance.wire import lines


def line(verdict: Verdict) -> str:
    """One verdict for people: a line, and for failures what was sent, what came back and what was expected.

    What is lacking and was not promised is a line, too, lest failures be lost among that.
    """
    needs = ", ".join(sorted(need.value for need in verdict.check.needs))
    shown = f"{verdict.outcome.value:8} {verdict.check.name}{' (bucketed)' if verdict.bucketed else ''}"
    if verdict.outcome in (Outcome.HAS, Outcome.LACKS):
        shown += f" (not declared: {needs})"
    if verdict.outcome is Outcome.NOT_RUN:
        shown += f": {verdict.got}"
    if verdict.outcome is Outcome.LACKS:
        shown += f": expected {verdict.expected}; got {verdict.got}"
    if verdict.outcome is not Outcome.FAILED:
        return shown
    return "\n".join([shown, *(f"    {text}" for text in explained(verdict))])


def explained(verdict: Verdict) -> list[str]:
    """The lines that tell the author of a provider what went wrong."""
    told = [verdict.check.intent, f"evidence: {verdict.check.evidence}", *lines(verdict.exchanges[-3:])]
    told += [f"expected: {verdict.expected}", f"got:      {verdict.got}"]
    printed = verdict.printed.expandtabs(4).splitlines()
    return [*told, *(f"{'' if number else 'printed:':10}{text}".rstrip() for number, text in enumerate(printed))]


def record(verdict: Verdict) -> dict[str, Any]:
    """One verdict for programs."""
    return {
        "check": verdict.check.name,
        "number": verdict.check.number,
        "area": verdict.check.area,
        "bucketed": verdict.bucketed,
        "outcome": verdict.outcome.value,
        "seconds": round(verdict.seconds, 3),
        "intent": verdict.check.intent,
        "evidence": verdict.check.evidence,
        "needs": sorted(need.value for need in verdict.check.needs),
        "expected": verdict.expected,
        "got": verdict.got,
        "printed": verdict.printed,
        "exchanges": [exchange.as_json() for exchange in verdict.exchanges],
    }


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many ended how, in a fixed order."""
    found = Counter(verdict.outcome for verdict in verdicts)
    return {outcome.value: found[outcome] for outcome in Outcome}


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many ended how, in a line."""
    return ", ".join(f"{count} {name}" for name, count in counts(verdicts).items() if count)


def junit(verdicts: Sequence[Verdict], suite: str) -> bytes:
    """JUnit's XML, as CI systems read it: probes and what was not run are skipped, with their reason."""
    failed = sum(verdict.failed for verdict in verdicts)
    skipped = sum(verdict.outcome not in (Outcome.PASSED, Outcome.FAILED) for verdict in verdicts)
    root = ElementTree.Element(
        "testsuite", name=suite, tests=str(len(verdicts)), failures=str(failed), errors="0", skipped=str(skipped)
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            root,
            "testcase",
            classname=f"conformance.{'bucketed.' if verdict.bucketed else ''}{verdict.check.area}",
            name=verdict.check.name,
            time=f"{verdict.seconds:.3f}",
        )
        if verdict.failed:
            failure = ElementTree.SubElement(case, "failure", message=_plain(f"expected {verdict.expected}"))
            failure.text = _plain("\n".join(explained(verdict)))
        elif verdict.outcome is not Outcome.PASSED:
            reason = verdict.got if verdict.outcome is Outcome.NOT_RUN else f"not declared; {verdict.outcome.value}"
            ElementTree.SubElement(case, "skipped", message=_plain(reason))
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _plain(text: str) -> str:
    """Without the characters that XML cannot carry."""
    return "".join(char if char in "\t\n" or (char >= " " and char not in "\ufffe\uffff") else "�" for char in text)
