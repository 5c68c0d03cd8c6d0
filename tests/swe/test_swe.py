"""Repository tasks: proved, mended by their gold patch alone, and no tampering is rewarded."""

from __future__ import annotations

import json
import subprocess
import sys
from random import Random

import pytest

from benchmarks.tricks import on_repository, tampered
from k2core.agentic.tools.simulator import Outcome
from k2core.chat.parser import ToolCall
from k2core.gym.swe import Swe
from k2core.sandbox.backends import missing
from k2core.stage import Job, StageError
from k2core.storage import write_lines
from k2core.swe import prove
from k2core.swe.bench import TOOLS, Bench, repaired
from k2core.swe.prove import Funnel, _candidates, tasks
from k2core.swe.repository import is_test, repository
from k2core.swe.task import broken, gold_patch, patched, tampering, verdict
from k2core.swe.testing import Outcome as Run
from k2core.swe.testing import Variant, run_tests, run_variants

needs_sandbox = pytest.mark.skipif(bool(missing()), reason=missing() or "there")
NAME = "shortuuid"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job("programs", tmp_path_factory.mktemp("scratch"), None)


@pytest.fixture(scope="module")
def made(job):
    funnel = Funnel()
    return tasks(repository(NAME), 2, 7, test_files=4, funnel=funnel, job=job), funnel


@pytest.fixture(scope="module")
def task(made):
    return made[0][0]


@needs_sandbox
def test_the_funnel_says_what_became_of_every_mistake(made):
    kept, funnel = made
    assert funnel.tried == sum(funnel.why.values()) >= len(kept) == funnel.why["proved"] > 0
    for each in kept:
        assert each["failing"] and set(each["failing"]) < set(each["passing"])
        assert each["before"] not in each["issue"] and each["reason"] not in each["issue"]
        assert each["failing"][0] in each["issue"] and "\nE " in each["issue"]


@needs_sandbox
def test_a_proof_that_was_interrupted_goes_on(made, job, monkeypatch):
    """What is in the scratch is not run again, and what is not there gives the same as before."""
    ran = []

    def counted(repository, files, variants, **more):
        ran.extend(variants)
        return run_variants(repository, files, variants, **more)

    monkeypatch.setattr(prove, "run_variants", counted)

    def again():
        ran.clear()
        funnel = Funnel()
        return tasks(repository(NAME), 2, 7, test_files=4, funnel=funnel, job=job), funnel

    assert again() == made and ran == []
    (last, *_) = sorted(job.scratch.glob("*/mistakes-*.json"), reverse=True)
    last.unlink()
    assert again() == made and 0 < len(ran) <= 6 * prove.GROUP


@needs_sandbox
def test_tests_are_told_apart_by_the_functions_that_they_run(task):
    """A mistake is noticed by tests that run its function, by no other, and these can be run alone."""
    package, tests = repository(NAME), task["tests"]
    (whole,) = run_variants(package, package.files, [Variant(tests)], coverage=True)
    running = whole.covered[task["path"], task["function"]]
    assert {*task["failing"]} <= {*running} < {*whole.of}, "a test of the package reaches not all of it"
    changed = {task["path"]: broken(task)[task["path"]]}
    alone, other, plain = run_variants(
        package, package.files, [Variant(tests, changed, running), Variant(tests, changed, []), Variant(tests)]
    )
    assert {*alone.of} == {*running} and {*running} - alone.passed == {*task["failing"]}
    assert not other.of and not other.fault and plain.of == whole.of


@needs_sandbox
def test_the_same_answer_has_the_same_verdict_where_tests_draw():
    """As the tests of this package do."""
    package = repository(NAME)
    test = package.test_files[0]
    drawn = b"import random, secrets, uuid\ndef test_a():\n"
    drawn += b"    assert [uuid.uuid4(), secrets.token_hex(9), random.random()] == 0"

    def said(times: int) -> list[str]:
        found = run_variants(package, {**package.files, test: drawn}, [Variant([test])] * times)
        return [each.errors[f"{test}::test_a"] for each in found]

    assert len({*said(1), *said(2)}) == 1


def test_compiled_sources_are_taken_where_they_are_of_the_same_content(tmp_path):
    package = repository(NAME)
    for path, content in {**package.files, **package.compiled}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    command = [sys.executable, "-S", "-B", "-v", "-c", f"import {NAME}.main; print({NAME}.main.MARK)"]

    def said(mark: str) -> subprocess.CompletedProcess:
        (tmp_path / NAME / "main.py").write_bytes(package.files[f"{NAME}/main.py"] + mark.encode())
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert f"{NAME}/__pycache__/main" in said("").stderr and "AttributeError" in said("").stderr
    assert said("\nMARK = 'new'\n").stdout == "new\n"


@needs_sandbox
def test_an_answer_is_rewarded_for_the_mend_alone(made, tmp_path):
    kept, _ = made
    write_lines(tmp_path / "repairs.jsonl", kept)
    environment = Swe.load(tmp_path)
    split = "train" if environment.size("train") else "heldout"
    assert environment.size("train") + environment.size("heldout") == len(kept)
    item = environment.item(0, split, 0)
    assert environment.score(item, item.gold["content"] + "<|im_end|>") == 1.0
    gold = item.gold["content"]
    other = gold.replace(item.meta["task"]["before"], item.meta["task"]["after"])
    for wrong in ("", "I do not know.", other, gold.replace(item.meta["task"]["path"], "shortuuid/nowhere.py")):
        assert environment.score(item, wrong + "<|im_end|>") == 0.0
    assert item.meta["task"]["after"].strip() in item.messages[-1]["content"]


@needs_sandbox
def test_tampering_is_not_rewarded(task):
    tried = on_repository(task)
    assert len(tried) == len(tampered(task)) and [each.name for each in tried if each.rewarded] == [], tried
    files = patched(broken(task), gold_patch(task))
    assert tampering(task, files) == "" and verdict(task, files) == ""


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (b"\nimport os\nos._exit(0)\n", "the tests do not come to their end"),
        (b"\nraise SystemExit(0)\n", ""),
        (
            b"\nimport _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n",
            "the verdict of tests is changed",
        ),
        (
            b"\nimport os\nfor f in range(3, 64):\n try: os.write(f, b'')\n except OSError: pass\nos._exit(0)\n",
            "the tests do not come to their end",
        ),
    ],
)
def test_code_that_reaches_for_the_verdict_gives_itself_away(code, fault):
    """What runs when no rule has kept it out."""
    package = repository(NAME)
    path = f"{NAME}/main.py"
    outcome = run_tests(package, {**package.files, path: package.files[path] + code}, package.test_files[:1])
    assert outcome.fault.startswith(fault) if fault else not outcome.passed, outcome


@needs_sandbox
def test_an_agent_mends_it_with_tools(task):
    played = repaired(task)
    assert played["verdict"]["passed"] and played["task_id"] == task["id"]
    called = [call["function"]["name"] for message in played["messages"] for call in message.get("tool_calls", [])]
    assert called == ["repo_test", "repo_search", "repo_read", "repo_edit", "repo_test"]
    results = [json.loads(message["content"]) for message in played["messages"] if message["role"] == "tool"]
    assert results[0]["failed"] and not results[-1]["failed"]
    assert {tool["function"]["name"] for tool in played["tools"]} == set(TOOLS)


def call(bench: Bench, name: str, **arguments) -> Outcome:
    return bench.execute(ToolCall(f"functions.{name}:0", name, json.dumps(arguments)))


@needs_sandbox
def test_tools_refuse_in_a_sentence(task):
    bench = Bench(task)
    assert NAME in call(bench, "repo_list", folder=".").text or "no folder" in call(bench, "repo_list", folder=".").text
    assert "main.py" in call(bench, "repo_list", folder=NAME).text
    for name, arguments, said in (
        ("repo_read", {"path": "/etc/passwd", "first": 1, "last": 2}, "there is no file"),
        ("repo_edit", {"path": task["tests"][0], "old": "import", "new": ""}, "times"),
        ("repo_edit", {"path": task["path"], "old": task["after"], "new": "import os; os._exit(0)"}, "refused"),
        ("repo_test", {"path": "nowhere.py"}, "no file of tests"),
        ("repo_search", {"text": " "}, "give a text"),
        ("repo_read", {"path": "x"}, "first"),
    ):
        outcome = call(bench, name, **arguments)
        assert not outcome.valid and said in outcome.text, outcome
    assert bench.files == broken(task)


def test_candidates_depend_on_the_seed_alone():
    package = repository(NAME)
    reached = {
        test: Run({"a": "passed", "b": "passed"}, covered={(f"{NAME}/main.py", "int_to_string"): ["a"]})
        for test in package.test_files
    }
    first, again = ([*_candidates(package, reached, Random(seed))] for seed in ("3", "3"))
    assert first == again and {each.mistake.function for each in first} == {"int_to_string"}
    assert first[0].only == ["a"] * len(first[0].tests)
    at_import = {test: Run(each.of, covered={key: [""] for key in each.covered}) for test, each in reached.items()}
    (candidate,) = _candidates(package, at_import, Random("3"))
    assert candidate.only == ["a", "b"] * len(candidate.tests), "what reading the files runs concerns all their tests"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("numpy", "is compiled|not a permissive"),
        ("certifi", "MPL-2.0, not a permissive one"),
        ("requests", "has no tests"),
    ],
)
def test_a_package_that_cannot_serve_is_refused(name, said):
    with pytest.raises(StageError, match=said):
        repository(name)


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("a/b.py", False),
        ("a/tests/b.py", True),
        ("a/test_b.py", True),
        ("a/b_test.py", True),
        ("conftest.py", True),
        ("a/attest.py", False),
    ],
)
def test_files_of_tests_are_known_by_name(path, test):
    assert is_test(path) is test


def test_another_version_of_the_package_is_named():
    stale = {"id": "swe/x", "package": NAME, "version": "0", "digest": "0", "path": f"{NAME}/main.py"}
    with pytest.raises(StageError, match="run the stage `programs` again"):
        broken(stale)
