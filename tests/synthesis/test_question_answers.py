"""Rejection sampling: what is wrong with a pair, when answers are the same, problems, and the stage end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peaks import peak

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.sources.builtin.mathematics import Source, documents
from k2core.llm.cache import ReplayCache
from k2core.llm.client import LLM, Answer
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.recipe import RecipeError
from k2core.stage import Job, StageError
from k2core.storage import read_table
from k2core.synthesis.questions.pairs import Pair, Sampling, by_grammar, exchanged, flaw, judge, same
from k2core.synthesis.questions.problems import problem_of
from stages import questions

COMPUTE = Compute(threads=1, seed=1, device="cpu", backend="auto", precision="fp32")
LLM_CONFIG = LLMConfig(
    base_url="embedded", model="m", api_key_variable="", context=512, timeout_s=9, max_attempts=1, max_wait_s=1,
    concurrency=1, expected_tokens_per_second=70,
)  # fmt: skip
NILE = "The Nile is a river in Africa that flows into the Mediterranean. It is 6,650 km long."
SAMPLING = Sampling(samples=3, agreeing=2, agreement=0.6, temperature=0.5)


def pair(question: str, answer: str) -> Pair:
    return Pair("llm", "wikipedia/Nile", NILE, question, answer)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("How long is the Nile?", "6,650 km", ""),
        ("Into what does the Nile flow?", "the Mediterranean", ""),
        ("", "", "malformed"),
        ("The Nile is long?", "6,650 km", "malformed"),
        ("How long is it? And where?", "6,650 km", "malformed"),
        ("How long is the Nile", "6,650 km", "malformed"),
        ("How long is the Nile?", "...", "malformed"),
        ("How long is the Nile?", "6,850 km", "answer_not_in_passage"),
        ("How long is the Nile?", "650 kilometres", "answer_not_in_passage"),
        ("Which river in Africa is long?", "a river in Africa", "answer_not_in_passage"),
        ("What is the river in Africa called?", "river in Africa", "question_holds_answer"),
    ],
)
def test_flaws_of_form(question: str, answer: str, reason: str) -> None:
    passage = Pair("llm", "x", NILE.replace("a river", "one river"), question, answer)
    assert flaw(passage) == reason


def test_same_answers() -> None:
    assert same("6,650 km", "It is 6650 km.", 0.5) is False  # the words differ by the comma
    assert same("the Mediterranean", "Mediterranean.", 1.0)
    assert same("6,650 km", "6,650 km long", 0.6)
    assert not same("6,650 km", "6,651 km", 0.1)
    assert not same("Africa", "Asia", 0.1) and not same("Africa", "", 0.1)


def test_a_pair_stays_if_enough_answers_agree() -> None:
    right = pair("How long is the Nile?", "6,650 km")
    assert judge(right, ["6,650 km", "6,650 km long", "Africa"], SAMPLING).reason == "accepted"
    refused = judge(right, ["6,650 km", "Africa", "Asia"], SAMPLING)
    assert (refused.reason, refused.agreed) == ("not_confirmed", 1)
    with pytest.raises(ValueError, match="no pair could stay"):
        Sampling(samples=1, agreeing=2, agreement=0.6, temperature=0)


def rows() -> list[dict[str, Any]]:
    base = dict.fromkeys(COLUMNS, "x") | {"language": "en", "domain": "knowledge", "license": "CC-BY-SA-4.0"}
    texts = {
        "Nile": NILE,
        "Quito": "Quito is the capital of Ecuador. It was founded in 1534 by the Spanish.",
        "Lima": "Lima is the capital of Peru. It was founded in 1535 by the Spanish.",
        "Held": "Held is the capital of Nowhere. It was founded in 1999 by the last of them.",
    }
    articles = [
        {**base, "id": f"wikipedia/{name}", "text": text, "attribution": f'"{name}", Wikipedia contributors',
         "source": "wikipedia", "split": "heldout" if name == "Held" else "train"}
        for name, text in texts.items()
    ]  # fmt: skip
    source = Source(limit=4, tasks=["products", "lcm"], seed=4_000_000)
    return articles + [{**vars(document), "split": "train"} for document in documents(source)]


def test_problems_are_made_again_and_scored() -> None:
    for row in rows()[4:]:
        problem = problem_of(row)
        assert row["text"] == f"Problem: {problem.text}\n{problem.worked}"
        assert problem.solved_by(problem.worked) and not problem.solved_by("Answer: -1") and not problem.solved_by("-1")
        with pytest.raises(RecipeError, match=r"does not make mathematics/.* run ingest again"):
            problem_of({**row, "text": row["text"] + "0"})


def test_exchanged_answers_are_wrong() -> None:
    found = by_grammar(rows()[:3])
    chosen = [known for known, question in found.items() if question.kind == "year"]
    assert [known.answer for known in chosen] == ["1534", "1535"]
    wrong = exchanged(found, chosen, seed=1)
    assert [known.answer for known in wrong] == ["1535", "1534"]
    assert all(flaw(known) == "answer_not_in_passage" for known in wrong)


class Fake(LLM):
    """Answers by `reply(prompt, seed)` behind the real replay cache; counts what it is asked, ends after `lives`."""

    def __init__(self, cache: Path, reply: Any, lives: int = 10_000) -> None:
        super().__init__(LLM_CONFIG, None, ReplayCache(cache))  # type: ignore[arg-type]
        self.reply, self.asked, self.lives = reply, 0, lives

    def _ask(self, body: dict[str, Any]) -> Answer:
        if self.asked == self.lives:
            raise ConnectionError("died")
        self.asked += 1
        return Answer(self.reply(body["messages"][-1]["content"], body["seed"]), "stop", 9)


def knowing(prompt: str, seed: int) -> str:
    """Makes a good pair about the Nile, a wrong one else; answers and solves what it can."""
    if prompt.startswith("Write a question"):
        right = "Question: How many km long is the Nile?\nAnswer: 6,650"
        return right if "Nile" in prompt else "Question: When was it founded?\nAnswer: 1808"
    if prompt.startswith("Solve"):
        return "I think.\nAnswer: " + str(eval(prompt.rsplit(": ", 1)[1].rstrip("."))) if "*" in prompt else "Answer: 0"
    return "6,650" if "How many km" in prompt else "I do not know"


def written(root: Path, documents: list[dict[str, Any]], block: int) -> Path:
    """The curated documents of workspace `root`, in blocks of so many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "curated").mkdir(parents=True)
    table = pa.Table.from_pylist(documents, document_schema(("split", pa.string())))
    pq.write_table(table, root / "curated" / "documents.parquet", row_group_size=block)
    return root


def run(
    root: Path, monkeypatch: pytest.MonkeyPatch, reply: Any = knowing, lives: int = 10_000, block: int = 99,
    **changes: Any,
) -> Any:  # fmt: skip
    """The stage over what is `written`, else `rows` in blocks of so many."""

    models = []

    @contextmanager
    def opened(config: Any, compute: Any, cache: Path) -> Iterator[Fake]:
        models.append(Fake(cache, reply, lives))
        yield models[0]

    monkeypatch.setattr(questions.LLM, "open", opened)
    if not (root / "curated").exists():
        written(root, rows(), block)
    (root / "tasks").mkdir(exist_ok=True)
    said = changes.pop("said", "Please look up the price of the ticket to the island for me today")
    task = {"id": "t", "split": "heldout", "instruction": said, "follow_up": ""}
    (root / "tasks" / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    values = {
        "articles": 10, "passages": 3, "min_characters": 10, "max_characters": 400, "checked": 3, "problems": 4,
        "attempted": 4, "solution_tokens": 32, "sampling": SAMPLING,
        "decontamination": {"item_words": 8, "heldout_words": 8},
    }  # fmt: skip
    params = questions.Params(**{**values, **changes})
    figures = questions.run(
        params, LLM_CONFIG, COMPUTE, root / "curated", root / "tasks", root / "out",
        Job("questions", root, None),
    )  # fmt: skip
    return figures, models[0]


def read(root: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    accepted = read_table(root / "out" / "documents.parquet")
    return {row["text"]: row for row in accepted}, read_table(root / "out" / "rejected.parquet")


def test_the_stage_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, _ = run(tmp_path, monkeypatch)
    accepted, rejected = read(tmp_path)
    made = [row for row in accepted.values() if row["source"] == "questions/llm"]
    assert [row["text"] for row in made] == ["Question: How many km long is the Nile?\nAnswer: 6,650"]
    assert made[0]["origin"] == "wikipedia/Nile" and made[0]["license"] == "CC-BY-SA-4.0"
    assert made[0]["attribution"].startswith('"Nile", Wikipedia contributors; ')
    assert "Question: In which year was Quito founded?\nAnswer: 1534" in accepted
    assert not [row for row in accepted.values() if "Held" in row["text"] or "Held" in row["origin"]]
    by_source = [row["source"] for row in accepted.values()]
    assert by_source.count("questions/solved") == 2 and by_source.count("questions/worked") == 2
    assert all(text.count("Answer: ") == 1 for text in accepted)
    assert sorted(row["reason"] for row in rejected) == ["answer_not_in_passage"] * 2 + ["wrong_solution"] * 2
    assert {row["passage"] for row in rejected} and all(row["agreed"] == 0 for row in rejected)
    assert len({row["id"] for row in [*accepted.values(), *rejected]}) == len(accepted) + len(rejected)
    assert figures["accepted_share/llm"] == pytest.approx(1 / 3) and figures["accepted_share/solved"] == 0.5
    assert figures["check/wrong_accepted"] == 0 and 0 <= figures["check/right_accepted"] <= 1
    assert figures["pairs"] == len(accepted)


def test_a_model_that_changes_its_mind_confirms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fickle(prompt: str, seed: int) -> str:
        return knowing(prompt, seed) if "How many km" not in prompt or seed == 1 else "eleven countries"

    figures, _ = run(tmp_path, monkeypatch, fickle)
    assert figures["accepted/llm"] == 0 and figures["rejected/not_confirmed"] == 1
    assert [row["agreed"] for row in read(tmp_path)[1] if row["reason"] == "not_confirmed"] == [1]


def test_the_check_is_measured_on_right_and_wrong_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles: Sequence[dict[str, Any]] = rows()[:3]
    known = {found.question: found.answer for found in by_grammar(articles)}

    def oracle(prompt: str, seed: int) -> str:
        return next((answer for question, answer in known.items() if prompt.endswith(question)), "no")

    figures, _ = run(tmp_path, monkeypatch, oracle)
    assert figures["check/right_accepted"] == 1 and figures["check/wrong_accepted"] == 0


def test_pairs_that_hold_evaluation_text_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, _ = run(tmp_path, monkeypatch, said="in which year was Quito founded answer 1534")
    accepted, rejected = read(tmp_path)
    assert figures["rejected/contaminated"] == 1
    assert "Question: In which year was Quito founded?\nAnswer: 1534" not in accepted
    assert [row["question"] for row in rejected if row["reason"] == "contaminated"] == [
        "In which year was Quito founded?"
    ]


def test_a_killed_run_goes_on_from_its_cache_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    _, first = run(whole, monkeypatch)
    with pytest.raises(ConnectionError):
        run(broken, monkeypatch, lives=5)
    _, second = run(broken, monkeypatch)
    assert second.asked == first.asked - 5
    for name in ("documents.parquet", "rejected.parquet"):
        assert (whole / "out" / name).read_bytes() == (broken / "out" / name).read_bytes()


def tables_of(root: Path) -> dict[str, bytes]:
    return {name: (root / "out" / name).read_bytes() for name in ("documents.parquet", "rejected.parquet")}


@pytest.mark.parametrize("block", [1, 3])
def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Drawn are fewer than there are; one pair repeats another block's, one holds evaluation text."""
    documents = [*rows(), {**rows()[1], "id": "wikipedia/Twin"}]
    given = {
        "articles": 3, "passages": 2, "checked": 2, "problems": 3, "attempted": 2,
        "said": "in which year was Quito founded answer 1534",
    }  # fmt: skip
    whole, _ = run(written(tmp_path / "whole", documents, 99), monkeypatch, **given)
    parts, _ = run(written(tmp_path / "parts", documents, block), monkeypatch, **given)
    assert whole == parts and tables_of(tmp_path / "whole") == tables_of(tmp_path / "parts")
    given["articles"] = 99
    everything, _ = run(written(tmp_path / "all", documents, block), monkeypatch, **given)
    assert everything["rejected/duplicate"] and everything["rejected/contaminated"] == 1


def test_a_finished_block_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first = run(tmp_path / "whole", monkeypatch, block=1)
    with pytest.raises(ConnectionError):
        run(tmp_path / "killed", monkeypatch, lives=first.asked - 4, block=1)
    done = list((tmp_path / "killed/blocks").iterdir())
    (tmp_path / "killed/answers.sqlite").unlink()  # what keeps them apart is not the replay cache
    figures, second = run(tmp_path / "killed", monkeypatch, block=1)
    assert len(done) > 3 and second.asked < first.asked / 2
    assert figures == whole and tables_of(tmp_path / "whole") == tables_of(tmp_path / "killed")


def test_memory_is_that_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thrice as many blocks of 10 articles of 8 kB, all of them drawn: the texts that are new are not in memory."""
    quito = rows()[1]

    def stage(count: int) -> Callable[[], Any]:
        articles = [
            {**quito, "id": f"wikipedia/Quito {number}", "split": "heldout" if number % 5 == 0 else "train",
             "text": f"Quito is the capital of Ecuador. It was founded in {1000 + number}. " + f"{number:0100} " * 80}
            for number in range(count)
        ]  # fmt: skip
        root = written(tmp_path / str(count), articles, 10)
        return lambda: run(root, monkeypatch, articles=999, passages=0, problems=0, checked=0)

    monkeypatch.setattr("k2core.evals.text_sets.text_sets", lambda tasks: [])
    monkeypatch.setattr("stages.questions._POOL", 8)
    monkeypatch.setattr("k2core.storage.parquet.GROUP_BYTES", 2**17)
    stage(10)()  # what is loaded once
    less, more = peak(stage(20)), peak(stage(60))
    assert more - less < 40 * 8000 / 2


def test_a_pair_that_grammar_made_already_is_a_duplicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def repeats(prompt: str, seed: int) -> str:
        if prompt.startswith("Write a question"):
            return "Question: In which year was Quito founded?\nAnswer: 1534"
        return "1534" if "Quito" in prompt else "Answer: 0"

    figures, _ = run(tmp_path, monkeypatch, repeats)
    assert figures["rejected/duplicate"] == 1 and figures["rejected/answer_not_in_passage"] == 2


def test_no_pair_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"no question-answer pair is left of 3 .malformed 3"):
        run(tmp_path, monkeypatch, lambda prompt, seed: "", articles=0, problems=0, checked=0)
