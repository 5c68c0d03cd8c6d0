"""Mixtures need documents of their domains; phases must meet at their seams and fit the model's context."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from k2core.corpus.documents import DOMAINS
from k2core.data.rows.order import QUESTIONS, RECALL
from k2core.model.config import ModelConfig
from k2core.recipe.reading import read_yaml
from k2core.training.phases import Extension, Phase
from stages.ingest import Params as Ingest
from stages.needs.ingest import how_to_get, sources_of
from stages.plan_mixture import Pretrain
from stages.questions import Params as Questions
from stages.recall import Params as Recall
from stages.train_tokenizer import Params as Vocabulary


def documents_of_every_domain(
    pretrain: Pretrain, extend_context: Extension, ingest: Ingest, questions: Questions, recall: Recall
) -> Iterator[str]:
    asked = questions.articles or questions.passages or questions.problems
    for name, phase in _phases(pretrain, extend_context).items():
        for domain, share in phase.mixture.items():
            key = f"{name}.mixture.{domain} = {share:g}"
            if domain not in (*DOMAINS, QUESTIONS, RECALL):
                yield f"{key}: no such domain; there are {', '.join((*DOMAINS, QUESTIONS, RECALL))}"
            elif share and domain == QUESTIONS and not asked:
                yield f"{key}: there are no questions; set the share to 0 or raise questions.articles or problems"
            elif share and domain == RECALL and not any(amount.documents for amount in recall.kinds.values()):
                yield f"{key}: there are no recall documents; set the share to 0 or raise recall.kinds"
            elif share and domain in DOMAINS and not sources_of(ingest, domain):
                yield f"{key}: no source gives documents of {domain}; set the share to 0, or {how_to_get(domain)}"


def phases_of_the_graph(pretrain: Pretrain) -> Iterator[str]:
    trained = list(read_yaml(Path("dvc.yaml"))["stages"]["pretrain"]["foreach"])
    if (planned := list(pretrain.phases)) != trained:
        yield (
            f"pretrain: the phases are {', '.join(planned)}; dvc.yaml trains {', '.join(trained)}, in this order: make "
            "them the same, there each with the model that it starts from"
        )


def seams_without_a_jump(pretrain: Pretrain, extend_context: Extension) -> Iterator[str]:
    for (before, ended), (name, phase) in pairwise(_phases(pretrain, extend_context).items()):
        start, end = phase.schedule.lr_start, ended.schedule.lr_end
        if abs(start - end) > 1e-6 * end:
            yield f"{name}.schedule.lr_start = {start:g}: a jump from the end of {before} at {end:g}; set it to {end:g}"


def contexts_within_the_model(pretrain: Pretrain, extend_context: Extension, model: ModelConfig) -> Iterator[str]:
    yarn, most = extend_context.rope_scaling, model.max_position_embeddings
    for name, phase in _phases(pretrain, extend_context).items():
        length = phase.context_length
        if name != "extend_context" and length > most:
            yield f"{name}.context_length = {length}: above model.max_position_embeddings, which is {most}; lower it"
    if extend_context.context_length != yarn.context:
        yield (
            f"extend_context.context_length = {extend_context.context_length}: rope_scaling reaches {yarn.context} "
            f"(factor × original_max_position_embeddings); set it to {yarn.context}"
        )


def one_vocabulary(train_tokenizer: Vocabulary, model: ModelConfig) -> Iterator[str]:
    if train_tokenizer.vocab_size != model.vocab_size:
        size = train_tokenizer.vocab_size
        yield f"train_tokenizer.vocab_size = {size}: model.vocab_size is {model.vocab_size}; make them equal"


def _phases(pretrain: Pretrain, extend_context: Extension) -> dict[str, Phase]:
    return {f"pretrain.{name}": phase for name, phase in pretrain.phases.items()} | {"extend_context": extend_context}
