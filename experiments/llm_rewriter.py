"""Rephrasings by the recipe's language model: several styles and seeds, each rewrite behind the fidelity gate.

An article is asked for until it has enough different accepted rewrites or the attempts are used up; then the source
itself stands in for what is missing. Answers come from the replay cache where they are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from experiments.settings import Settings
from k2core.corpus.fidelity import judge
from k2core.corpus.rephrasing import Job, chunk, load_styles, rewrite_all
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig
from k2core.recipe import Compute
from k2core.stage import Job as StageJob
from stages.rephrase import Params

DOMAIN = "knowledge"


def rephrase(
    articles: Sequence[tuple[str, str]], settings: Settings, params: Params, llm: LLMConfig, compute: Compute,
    common: frozenset[str], cache: Path, job: StageJob,
) -> list[list[str]]:  # fmt: skip
    """`settings.versions` texts for each (title, text), accepted rewrites first.

    Args:
        params: the recipe's section `rephrase`: gate, chunks, context.
        common: `facts.common_words` of the corpus.
        cache: the replay cache's file.
    """
    with LLM.open(llm, compute, cache) as model:
        return collect(model, [text for _, text in articles], settings, params, common, job)


def collect(
    model: LLM, texts: Sequence[str], settings: Settings, params: Params, common: frozenset[str], job: StageJob
) -> list[list[str]]:
    """`rephrase` with an open model. Each round asks once for every text that lacks rewrites, in the next style."""
    styles = {name: style for name, style in load_styles().items() if style.domain == DOMAIN}
    accepted: list[list[str]] = [[] for _ in texts]
    with job.progress(len(texts) * settings.llm_attempts, "rewrite", what="rephrasing") as bar:
        for attempt in range(settings.llm_attempts):
            jobs = []
            for number, text in enumerate(texts):
                fitting = [name for name, style in styles.items() if re.search(style.documents, text)]
                if len(accepted[number]) < settings.versions and fitting:
                    style = fitting[attempt % len(fitting)]
                    jobs.append(Job(str(number), style, text, chunk(text, params.chunk_tokens)))
            rewrites = rewrite_all(
                model, jobs, temperature=settings.llm_temperature, seed=attempt, context_tokens=params.context_tokens
            )
            for rewrite in rewrites:
                known = accepted[int(rewrite.job.source_id)]
                verdict = judge(rewrite.job.text, rewrite.text, params.gate[DOMAIN], common)
                if verdict.accepted and not rewrite.truncated and rewrite.text not in known:
                    known.append(rewrite.text)
            bar.update(len(texts))
    return [
        (known + [text] * settings.versions)[: settings.versions] for known, text in zip(accepted, texts, strict=True)
    ]
