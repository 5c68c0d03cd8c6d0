"""Rephrasings by the recipe's language model: several styles and seeds, each rewrite behind the fidelity gate.

An article is asked for until it has enough different accepted rewrites or the attempts are used up; then the source
itself stands in for what is missing. Answers come from the replay cache where they are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from experiments.settings import Settings
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.stage import Job as StageJob
from k2core.synthesis.fidelity.gate import judge
from k2core.synthesis.rephrasing.checks import fault
from k2core.synthesis.rephrasing.rewriting import Job, chunk, rewrite_all
from k2core.synthesis.rephrasing.styles import Library
from stages.rephrase import Params

DOMAIN = "knowledge"


def rephrase(
    articles: Sequence[tuple[str, str]], settings: Settings, params: Params, library: Library, llm: LLMConfig,
    compute: Compute, common: frozenset[str], cache: Path, job: StageJob,
) -> list[list[str]]:  # fmt: skip
    """`settings.versions` texts for each (title, text), accepted rewrites first.

    Args:
        library: the styles.
        params: the recipe's section `rephrase`: gate, chunks, context.
        common: `facts.common_words` of the corpus.
        cache: the replay cache's file.
    """
    with LLM.open(llm, compute, cache) as model:
        return collect(model, [text for _, text in articles], settings, params, library, common, job)


def collect(
    model: LLM, texts: Sequence[str], settings: Settings, params: Params, library: Library, common: frozenset[str],
    job: StageJob,
) -> list[list[str]]:  # fmt: skip
    """`rephrase` with an open model. Each round asks once for every text that lacks rewrites, in the next style."""
    of_domain = {name: style for name, style in library.styles.items() if style.domain == DOMAIN}
    own = [name for name, style in of_domain.items() if not (style.language or style.joint)]
    accepted: list[list[str]] = [[] for _ in texts]
    with job.progress(len(texts) * settings.llm_attempts, "rewrite", what="rephrasing") as bar:
        for attempt in range(settings.llm_attempts):
            jobs = []
            for number, text in enumerate(texts):
                fitting = [name for name in own if re.search(library.styles[name].documents, text)]
                if len(accepted[number]) < settings.versions and fitting:
                    name = fitting[attempt % len(fitting)]
                    jobs.append(Job(str(number), name, text, chunk(text, params.chunk_tokens), attempt + 1))
            rewrites = rewrite_all(
                model, jobs, library, temperature=settings.llm_temperature, seed=0, context_tokens=params.context_tokens
            )
            for rewrite in (rewrite for rewrite in rewrites if not rewrite.refused and not rewrite.truncated):
                known = accepted[int(rewrite.job.source_id)]
                style = library.styles[rewrite.job.style]
                verdict = judge(rewrite.job.text, style.bare(rewrite.text), params.gate[style.gate], common)
                sound = verdict.accepted and not fault(rewrite.job, rewrite.text, style, common)
                if sound and rewrite.text not in known:
                    known.append(rewrite.text)
            bar.update(len(texts))
    padded = [known + [text] * settings.versions for known, text in zip(accepted, texts, strict=True)]
    return [versions[: settings.versions] for versions in padded]
