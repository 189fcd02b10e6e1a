"""Result of `optadvise verify` as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich.markup import escape

from optadvise.core.findings import (
    ABSENT,
    CONFIRMED,
    CONFORMS,
    DEVIATES,
    QUANTISED,
    REFUTED,
    UNDECIDED,
    ClaimOutcome,
)
from optadvise.core.json_text import encode_json
from optadvise.core.markdown import Markdown, escape_markdown, format_code, format_table
from optadvise.core.units import show_share
from optadvise.evidence.apply import format_claimed, format_figure
from optadvise.render.labels import DASH, capitalize
from optadvise.render.text.console import Page, print_section
from optadvise.verify.records import AuditResult, VerifyResult

_CONFORMING = (CONFORMS, QUANTISED)
_UNEXPECTED = "Deviates from its paper (new)"
_EXPECTED = "Deviates from its paper (known)"
_NOT_OFFERED = "Deviates from its paper (not used)"
_CONFORMS = "Conforms to its paper"
_NOT_INSTALLED = "Not installed"
_LARGEST_ERROR = (
    "Largest error of a weight after 1, 5 and 12 steps in fp32, relative to how far the weights of the float64 "
    "reference moved."
)


def encode_result(result: VerifyResult) -> str:
    """Return the result as one JSON object; figures that are not finite are null."""
    data = msgspec.json.decode(msgspec.json.encode(result))
    return encode_json(data)


def print_verification(result: VerifyResult) -> None:
    """Print audits and claims as tables."""
    with Page() as out:
        for title, audits in _group_audits(result.audits):
            rows = [
                (audit.optimizer, audit.implementation, _format_deviation(audit.worst), escape(_describe_row(audit)))
                for audit in audits
            ]
            print_section(out, title, rows, ("", "left"), ("", "left"), ("largest error", "right"), ("", "wrap"))
        if result.audits:
            out.print(f"\n{_LARGEST_ERROR}")
        for verdict, claims in _group_claims(result.claims):
            lines: list[tuple[str, str]] = []
            for claim in claims:
                lines.append(("·", f"[bold]{escape(claim.claim)}[/bold] [dim]{claim.id}[/dim]"))
                lines.append(("", escape(_describe_claim(claim))))
            print_section(out, verdict.capitalize(), lines, "left", "wrap")


# -- audits -----------------------------------------------------------------------------------------------------------


def _group_audits(audits: Iterable[AuditResult]) -> list[tuple[str, list[AuditResult]]]:
    """Return audits by heading, unexpected deviations first, without empty groups."""
    titles = (_UNEXPECTED, _EXPECTED, _NOT_OFFERED, _CONFORMS, _NOT_INSTALLED)
    groups: dict[str, list[AuditResult]] = {title: [] for title in titles}
    for audit in audits:
        groups[_choose_title(audit)].append(audit)
    return [(title, group) for title, group in groups.items() if group]


def _choose_title(audit: AuditResult) -> str:
    if audit.verdict == ABSENT:
        return _NOT_INSTALLED
    if audit.verdict in _CONFORMING:
        return _CONFORMS
    if not audit.offered:
        return _NOT_OFFERED
    return _EXPECTED if audit.expected else _UNEXPECTED


def _format_deviation(deviation: float | None) -> str:
    if deviation is None:
        return DASH
    return "< 0.01 %" if deviation < 1e-4 else show_share(deviation)


def _describe_row(audit: AuditResult) -> str:
    """Return what `_describe_audit` returns, without a verdict that the heading has."""
    text = _describe_audit(audit)
    if audit.verdict not in (CONFORMS, DEVIATES):
        return text
    return capitalize(text.removeprefix(audit.verdict).removeprefix(": "))


def _describe_audit(audit: AuditResult) -> str:
    """Return the verdict with its reason, and the card's note unless a known deviation explains the verdict."""
    if audit.verdict == ABSENT:
        return str(audit.why)
    parts = [audit.why] if audit.why else []
    if audit.verdict not in _CONFORMING and audit.known_deviation is None and audit.note:
        parts.append(audit.note)
    return f"{audit.verdict}: {'. '.join(parts)}" if parts else audit.verdict


# -- claims -----------------------------------------------------------------------------------------------------------


def _group_claims(claims: Iterable[ClaimOutcome]) -> list[tuple[str, list[ClaimOutcome]]]:
    """Return claims by verdict, refuted ones first, without empty groups."""
    groups: dict[str, list[ClaimOutcome]] = {verdict: [] for verdict in (REFUTED, CONFIRMED, UNDECIDED)}
    for claim in claims:
        groups[claim.verdict].append(claim)
    return [(verdict, group) for verdict, group in groups.items() if group]


def _describe_claim(claim: ClaimOutcome) -> str:
    """Return the figure of a claim with remarks."""
    if claim.measured is None:
        return _list_remarks(claim)
    measures, claimed = capitalize(claim.measures or ""), _format_claimed(claim)
    return f"{measures}: measured {_format_measured(claim)}; the claim is {claimed}. {_list_remarks(claim)}"


def _format_claimed(claim: ClaimOutcome) -> str:
    return DASH if claim.expected_range is None else format_claimed(claim.expected_range)


def _format_measured(claim: ClaimOutcome) -> str:
    if claim.measured is None:
        return DASH
    count = len(claim.figures)
    seeds = "" if count == 1 else f" over seeds 0 to {count - 1}"
    return f"{format_figure(claim.measured, claim.ci95)}{seeds} on {claim.device}"


def _list_remarks(claim: ClaimOutcome) -> str:
    """Return why a claim is undecided, the limits of its experiment, and its source's quote if it is refuted."""
    sentences = [f"{capitalize(claim.why)}."] if claim.why else []
    if claim.figures:
        deviating = (tested.path for tested in claim.implementations if tested.deviates)
        sentences += [f"Measured with {path}, which deviates from its paper." for path in deviating]
        sentences += [claim.limits] if claim.limits else []
    if claim.verdict == REFUTED and claim.quote:
        sentences.append(f"{claim.cite[0]}: “{claim.quote}”")
    return " ".join(sentences)


# -- Markdown ---------------------------------------------------------------------------------------------------------


def render_markdown(result: VerifyResult) -> str:
    """Return the result as a page of Markdown."""
    environment = result.environment
    machine = environment.processor or environment.platform
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items() if version)
    title = "Audit of installed optimizers" if result.audits else "Tested claims"
    origin = f"optadvise {result.optadvise} on {machine}, {environment.cores} cores, {result.date}; {packages}."
    return (
        "\n".join([f"# {title}", "", escape_markdown(origin), *list_audit_lines(result), *list_claim_lines(result)])
        + "\n"
    )


def list_audit_lines(result: VerifyResult) -> list[str]:
    """Return the Markdown lines of the audits, none without audits."""
    lines: list[str] = []
    for title, audits in _group_audits(result.audits):
        rows = (
            (
                format_code(audit.optimizer),
                format_code(audit.path),
                _format_deviation(audit.worst),
                _describe_audit(audit),
            )
            for audit in audits
        )
        headers = ("optimizer", "implementation", "largest error", "result")
        lines += ["", f"## {title}", "", *format_table(headers, rows)]
    return [*lines, "", _LARGEST_ERROR] if lines else []


def list_claim_lines(result: VerifyResult) -> list[str]:
    """Return the Markdown lines of the claims, none without claims."""
    lines: list[str] = []
    for verdict, claims in _group_claims(result.claims):
        rows = []
        for claim in claims:
            measures = f"{capitalize(claim.measures)}. " if claim.measures else ""
            remarks = escape_markdown(f"{measures}{_list_remarks(claim)}")
            source = f"{format_code(claim.id)}, from {escape_markdown(', '.join(claim.cite))}"
            cells = (claim.claim, _format_measured(claim), _format_claimed(claim))
            rows.append((*cells, Markdown(f"{remarks} {source}".strip())))
        lines += ["", f"## {verdict.capitalize()}", "", *format_table(("claim", "measured", "claimed", ""), rows)]
    return lines
