"""What the gate's limits do not see: what a rewrite's headings say, and whether a joint one needs both texts."""

from __future__ import annotations

from k2core.synthesis.fidelity.headings import false_heading
from k2core.synthesis.fidelity.joint import joint_fault
from k2core.synthesis.rephrasing.rewriting import Job
from k2core.synthesis.rephrasing.styles import Style

HEADING = "heading"


def fault(job: Job, rewrite: str, style: Style, common: frozenset[str]) -> str:
    """`HEADING`: one of its headings invents or denies something; what `joint_fault` says of two texts; else empty.

    Args:
        common: `facts.common_words` of the corpus.
    """
    if false_heading(job.source, style.headings(rewrite), common):
        return HEADING
    return joint_fault(job.text, job.linked["text"], rewrite, job.linked["titles"]) if job.linked else ""
