"""The adapter gives what lm-evaluation-harness's own `hf` gives on our export."""

from __future__ import annotations

import json
from random import Random
from types import SimpleNamespace

import pytest
from untrained import export_untrained

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an extra: pip install 'lm-eval[api,hf]'")

from k2core.evals.harness import K2, backend, compare
from k2core.stage import StageError

TEXTS = ["def f(x):\n    return x", "naïve – 窓", "a", " leading and trailing ", "word " * 700, "x<|im_end|>y", "\n\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_untrained(tmp_path_factory.mktemp("harness") / "tiny")


@pytest.fixture(scope="module")
def ours(folder) -> K2:
    return backend(str(folder))[0]


@pytest.fixture(scope="module")
def theirs(folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)


def asked(*arguments):
    return [SimpleNamespace(args=one, arguments=one) for one in arguments]


def test_log_likelihoods(ours, theirs):
    random = Random(1)
    pairs = [("", "x"), ("a b", " c"), ("ends in space ", "d")]
    pairs += [(random.choice(TEXTS[:6]), random.choice(TEXTS[:4])) for _ in range(12)]
    for (own, greedy), (their, theirs_greedy) in zip(
        ours.loglikelihood(asked(*pairs)), theirs.loglikelihood(asked(*pairs)), strict=True
    ):
        assert own == pytest.approx(their, abs=1e-3) and greedy == theirs_greedy
    written = ours.generate_until(asked(("a b", {"until": [], "max_gen_toks": 1})))[0]
    if written and "\ufffd" not in written:
        assert ours.loglikelihood(asked(("a b", written)))[0][1]


def test_rolling(ours, theirs):
    texts = [(text,) for text in TEXTS]
    assert ours.loglikelihood_rolling(asked(*texts)) == pytest.approx(
        theirs.loglikelihood_rolling(asked(*texts)), abs=1e-2
    )


def test_generations(ours, theirs):
    wanted = [(text, {"until": [until], "max_gen_toks": 24, "do_sample": False})
              for text in TEXTS[:5] for until in ("\n", "e", "never said")]  # fmt: skip
    assert ours.generate_until(asked(*wanted)) == theirs.generate_until(asked(*wanted))


def test_batches_change_nothing(ours):
    pairs = [(text, text[:5] or "x") for text in TEXTS if text.strip()]
    alone = K2(ours.model, ours.k2, batch_size=1).loglikelihood(asked(*pairs))
    assert [one for one, _ in ours.loglikelihood(asked(*pairs))] == pytest.approx([one for one, _ in alone], abs=1e-3)


def test_tasks_from_files_of_ones_own(folder, tmp_path):
    """A task file in the harness's own format with its data beside it: nothing is fetched."""
    rows = [{"question": f"{n} + {n} =", "choices": [str(2 * n), str(2 * n + 1)], "answer": 0} for n in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(f"""
task: own_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/sums.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""")
    text = compare([str(folder), f"hf:{folder}"], ["own_sums"], tmp_path, True, 6, 1, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("own_sums, acc")]
    found = json.loads((tmp_path / "harness.json").read_text())
    assert found[str(folder)]["own_sums"]["acc,none"] == found[f"hf:{folder}"]["own_sums"]["acc,none"]
    assert line.count(" to ") == 2
    with pytest.raises(StageError, match="no task no_such_task"):
        compare([str(folder)], ["no_such_task"], tmp_path, False, 6, 1, None)
