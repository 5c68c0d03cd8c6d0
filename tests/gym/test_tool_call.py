"""Tool tasks as an environment: gold replies pass, wrong ones fail, and the files round-trip."""

import json

import pytest

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import assign_splits, plain_tools
from k2core.agentic.tools.specs import write_tools
from k2core.chat.template import render
from k2core.evals.tool_calls import check_calls
from k2core.gym.tool_call import all_environments
from k2core.storage import StorageError, write_lines


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    tools = [tool for domain in domains().values() for tool in plain_tools(domain)]
    tools = assign_splits(tools, {tool.name for tool in tools})
    maker = TaskMaker(
        {t.name: t for t in tools}, {"single": 0.5, "parallel": 0.15, "chain": 0.1, "ask": 0.1, "none": 0.15}, 0
    )
    write_tools(folder / "tools.jsonl", tools)
    write_lines(folder / "tasks.jsonl", [maker.task(split, i) for split in ("train", "heldout") for i in range(40)])
    for file in ("problems.jsonl", "repairs.jsonl"):
        write_lines(folder / file, [])
    return all_environments(folder, folder)["tool_call"]


def completion(item, message):
    """What the model would have to write to say `message`."""
    before = render(item.messages, item.tools, add_generation_prompt=True)
    after = render([*item.messages, message], item.tools)
    assert after.startswith(before)
    return after[len(before) :]


def items(environment):
    return [environment.item(0, split, i) for split in ("train", "heldout") for i in range(environment.size(split))]


def test_gold_passes_and_so_does_the_exact_check(environment):
    for item in items(environment):
        text = completion(item, item.gold)
        assert environment.score(item, text) == 1.0
        check = check_calls(text, item.tools, item.meta["gold_calls"])
        assert check.called == check.due == bool(item.meta["gold_calls"])
        assert check.valid == check.exact == check.due


def test_known_wrong_fails(environment):
    seen = set()
    for item in items(environment):
        calls = item.gold.get("tool_calls")
        if calls:
            seen.add("calls")
            twice = item.gold | {"tool_calls": [*calls, *calls]}
            unknown = json.loads(json.dumps(calls))
            unknown[0]["id"] = "functions.no_such_tool:0"
            nothing = json.loads(json.dumps(calls))
            nothing[0]["function"]["arguments"] = "{}"
            wrong = [twice, item.gold | {"tool_calls": unknown}, {"role": "assistant", "content": "Done."}]
            wrong += [item.gold | {"tool_calls": nothing}] if calls[0]["function"]["arguments"] != "{}" else []
        else:
            seen.add("words")
            name = item.tools[0]["function"]["name"]
            call = {"id": f"functions.{name}:0", "function": {"name": name, "arguments": "{}"}}
            wrong = [item.gold | {"tool_calls": [call]}, {"role": "assistant", "content": "Done."}]
        for message in wrong:
            text = completion(item, message)
            assert environment.score(item, text) < 1.0, text
            assert not check_calls(text, item.tools, item.meta["gold_calls"]).exact
    assert seen == {"calls", "words"}


def test_splits_share_no_task_and_missing_files_are_named(environment, tmp_path):
    keys = [item.key for item in items(environment)]
    assert len(set(keys)) == len(keys) == 80
    with pytest.raises(StorageError, match=r"tasks\.jsonl"):
        all_environments(tmp_path, tmp_path)
