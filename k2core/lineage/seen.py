"""A document in the token shards, the phases and the stages after them, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from k2core.data.rows.shards import SPLITS
from k2core.lineage.chain import Chain, main_out
from k2core.lineage.text import some, times
from k2core.lineage.training import PhaseRecord, Place, Training, trains
from k2core.tracking.lock import data_deps, downstream, producers

HELDOUT = SPLITS[1]
SEEN = "seen"
Told = tuple[str, str]


def tokenized(chain: Chain, place: Place | None) -> Iterator[Told]:
    """The document's place in the shards."""
    folder = main_out(chain.stages["tokenize"])
    if place is None:
        yield "tokenize", f"not in {folder}"
        return
    yield (
        "tokenize",
        (
            f"{folder}/{place.split}/{place.domain}.bin, document {place.number:,}, tokens {place.start:,} to "
            f"{place.end - 1:,} ({place.end - place.start:,} with the end mark)"
        ),
    )


def read_by_phases(
    training: Training, phases: Sequence[PhaseRecord], places: Mapping[str, Place | None], document: str
) -> Iterator[Told]:
    """How often each phase saw the document, and at which steps; then which saw what was made of it."""
    for phase in phases:
        yield phase.name, _seen(training, phase, places[document])
    for name, place in places.items():
        if name != document:
            told = [(phase.name, _seen(training, phase, place)) for phase in phases]
            seen = [f"{phase}: {text}" for phase, text in told if text.startswith(SEEN)]
            yield "made of it", f"{name}: {'; '.join(seen) or 'not drawn'}"


def _seen(training: Training, phase: PhaseRecord, place: Place | None) -> str:
    if place is None:
        return "not trained on"
    if place.split == HELDOUT:
        return "not trained on; bits per byte are measured on it"
    steps = phase.steps(place.domain, place.number)
    if steps:
        length = place.end - place.start
        tokens, pieces = phase.read(place.domain, place.number)
        count, part = tokens / length, "" if tokens % length == 0 else f" ({tokens:,} tokens)"
        cut = f", in {pieces:,} pieces" if pieces != count else ""
        word = "step" if len(steps) == 1 else "steps"
        return f"{SEEN} {times(count)}{part}{cut}, at {word} {some([f'{step:,}' for step in steps])}"
    if not phase.phase.mixture.get(place.domain):
        return f"not drawn: nothing of {place.domain} is in the mixture"
    return "not drawn" if training.admitted(phase, place) else "not drawn: its quality is below what the phase selects"


def read_by_later_stages(chain: Chain, phases: Sequence[PhaseRecord], place: Place | None) -> Iterator[Told]:
    """Whether the stages that go on from the phases' models read the document: the artifact's own, and evaluations."""
    trained = {phase.stage for phase in phases}
    later = downstream(chain.everything, trained) - trained
    models = {main_out(stage) for name, stage in chain.stages.items() if name in trained | later}
    shards = main_out(chain.stages["tokenize"])
    for name, stage in chain.everything.items():
        if name not in later:
            continue
        deps = set(data_deps(stage))
        # A stage that trains on the shards is a phase of another model than the artifact.
        if shards in deps and models & deps and not trains(stage):
            heldout = place is not None and place.split == HELDOUT
            yield name, "bits per byte are measured on it" if heldout else "not read: only held-out documents are"
        elif name in chain.stages and (data := _data(chain, deps, trained | later)):
            through = [path for path in data if "ingest" in chain.behind_input(path)]
            none = f"not read: no document goes into {' and '.join(data)}"
            yield name, f"perhaps read, through {' and '.join(through)}" if through else none


def _data(chain: Chain, deps: set[str], training: set[str]) -> list[str]:
    """A stage's inputs that are neither models nor the tokenizer."""
    apart = training | {"train_tokenizer"}
    return sorted(path for path in deps if not apart & set(producers(chain.everything, path)))
