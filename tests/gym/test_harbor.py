"""Tasks in Harbor's format: the solution passes, hacks score 0, what cannot be run says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.chat.special_tokens import IM_END
from k2core.chat.tokenizer import Tokenizer
from k2core.gym.base import Episodic, Item
from k2core.gym.named.harbor import Harbor, HarborSettings, read_task, rooted
from k2core.gym.registry import text_environments
from k2core.gym.settings import NO_DATA_SETS, GymConfig
from k2core.recipe import validate
from k2core.sandbox.backends import missing
from k2core.stage import StageError

needs_sandbox = pytest.mark.skipif(bool(missing()), reason="no sandbox here")
SCRIPT = """#!/bin/bash
cd /app
if [ "$(cat /app/out.txt)" = "A RIVER" ]; then echo 1 > /logs/verifier/reward.txt
else echo 0 > /logs/verifier/reward.txt; fi
"""
PYTEST = """#!/bin/bash
apt-get install -y curl
uvx pytest /tests/test_outputs.py
[ $? -eq 0 ] && echo 1 > /logs/verifier/reward.txt
"""
TESTS = """from pathlib import Path

def test_text():
    assert Path("/app/out.txt").read_text().strip() == "A RIVER"

def test_input():
    assert Path("/app/in.txt").read_text() == "a river\\n"
"""
DOCKERFILE = "FROM python:3.12\nWORKDIR /app\nCOPY in.txt .\n"
UPPER = "tr a-z A-Z < /app/in.txt > /app/out.txt"


def write_task(folder: Path, tests: dict[str, str], dockerfile: str = DOCKERFILE) -> Path:
    """A task of the kind that `harbor init` makes."""
    for name, text in {
        "task.toml": 'version = "1.0"\n[agent]\ntimeout_sec = 9.0\n[verifier]\ntimeout_sec = 9.0\n',
        "instruction.md": "Write the text of /app/in.txt in capitals to /app/out.txt.\n",
        "environment/Dockerfile": dockerfile,
        "environment/in.txt": "a river\n",
        "solution/solve.sh": "#!/bin/bash\nbash /solution/upper.sh\n",
        "solution/upper.sh": f"{UPPER}\n",
        **{f"tests/{name}": text for name, text in tests.items()},
    }.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def environment(folder: Path, turns: int = 2) -> Harbor:
    settings = HarborSettings(folder=str(folder), max_new_tokens=64, turns=turns, timeout_s=8)
    return Harbor("tasks", settings)


def only(tasks: Harbor) -> Item:
    (item,) = [tasks.item(0, split, n) for split in ("train", "heldout") for n in range(tasks.size(split))]
    return item


KINDS = {"by a script": {"test.sh": SCRIPT}, "by pytest": {"test.sh": PYTEST, "test_outputs.py": TESTS}}
HACKS = {
    "nothing": "echo done",
    "no commands": None,
    "wrong": "echo 'A RIVEr' > /app/out.txt",
    "its own reward": "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt; echo 1 > /app/reward.txt",
    "its own reward, elsewhere": "mkdir -p /work/logs/verifier; echo 1 > /work/logs/verifier/reward.json",
    "other tests": "mkdir /tests; cd /tests; echo 'echo 1 > /logs/verifier/reward.txt' > test.sh; > test_outputs.py",
    "a conftest": "echo 'import os; os._exit(0)' | tee /app/conftest.py /work/conftest.py /app/sitecustomize.py",
    "another pytest": "echo 'def main(*a, **k): return 0' | tee /app/pytest.py /work/pytest.py /work/usercustomize.py",
    "another cat": "printf '#!/bin/sh\\necho A RIVER\\n' > /app/cat; chmod +x /app/cat; PATH=/app:$PATH; export PATH",
    "left running": "(sleep 3; echo 'A RIVER' > /app/out.txt) &",
    "for ever": "while true; do :; done",
}


@needs_sandbox
@pytest.mark.parametrize("kind", KINDS)
def test_the_solution_passes_and_hacks_score_0(tmp_path: Path, kind: str) -> None:
    tasks = environment(write_task(tmp_path / "upper", KINDS[kind]))
    object.__setattr__(tasks.settings, "timeout_s", 2.0)
    item = only(tasks)
    assert tasks.score(item, item.gold["content"] + IM_END) == 1.0
    assert tasks.score(item, f"```bash\n{UPPER}\n```") == 1.0
    for name, commands in HACKS.items():
        reply = "A RIVER" if commands is None else f"```bash\n{commands}\n```"
        assert tasks.score(item, reply + IM_END) == 0.0, name


@needs_sandbox
def test_an_episode_sees_what_its_commands_print(tmp_path: Path) -> None:
    tasks = environment(write_task(tmp_path / "upper", KINDS["by a script"]))
    item, tokenizer = only(tasks), Tokenizer.train(["a river and a bridge"], 280)
    assert isinstance(tasks, Episodic)
    episode = tasks.episode(item, tokenizer)
    said = episode.advance(f"I look first.\n```bash\ncat /app/in.txt; pwd; ls /nowhere\n```{IM_END}")
    assert said is not None
    printed = tokenizer.decode(list(said))
    assert "a river\n/app" in printed and "exit status 2" in printed and "No such file" in printed
    assert episode.reward() == 0.0
    assert episode.advance(f"```bash\n{UPPER}\n```{IM_END}") is None, "two turns are allowed"
    assert episode.reward() == 1.0
    first = tasks.episode(item, tokenizer)
    assert first.advance("Done." + IM_END) is None and first.reward() == 0.0, "a fresh folder for each sample"


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    one = {"test.sh": SCRIPT}
    golang = "FROM python:3.12\nRUN apt-get update && apt-get install -y no-such-program\n"
    write_task(tmp_path / "all" / "golang", one, golang)
    write_task(tmp_path / "all" / "compose", one)
    (tmp_path / "all" / "compose" / "environment" / "docker-compose.yaml").write_text("services: {}\n")
    write_task(tmp_path / "all" / "torn", one)
    (tmp_path / "all" / "torn" / "task.toml").write_text("[agent\n")
    write_task(tmp_path / "all" / "absent", {})
    tasks = environment(tmp_path / "all")
    with pytest.raises(StageError, match=r"gym\.harbor\.tasks\.folder = .*: no task that can be run \(absent: no te"):
        tasks.size("train")
    assert {name: reason[:22] for name, reason in tasks.left_out.items()} == {
        "golang": "its Dockerfile has 'RU", "compose": "it needs several conta", "torn": "not a task: Expected '",
        "absent": "no tests/test.sh",
    }  # fmt: skip
    with pytest.raises(StageError, match=r"no task that can be run \(no task.toml\)"):
        environment(tmp_path / "nowhere").size("train")


def test_a_dockerfile_says_where_files_are(tmp_path: Path) -> None:
    lines = "FROM x\n# a comment\nRUN mkdir -p /data && apt-get update\nCOPY --chown=1:1 in.txt /data\nWORKDIR /data\n"
    task = read_task(write_task(tmp_path / "where", {"test.sh": SCRIPT}, lines + "COPY in.txt copy.txt\n"))
    assert task.workdir == "/data" and set(task.files) == {"data/in.txt", "data/copy.txt"}


def test_only_harbors_own_folders_are_moved() -> None:
    assert (
        rooted('cat /app/x "/tests" /apps/y ./app /usr/app/z')
        == 'cat /work/app/x "/work/tests" /apps/y ./app /usr/app/z'
    )


def test_the_recipe_names_a_folder(tmp_path: Path) -> None:
    write_task(tmp_path / "upper", {"test.sh": SCRIPT})
    one = {"folder": str(tmp_path), "max_new_tokens": 64, "turns": 1, "timeout_s": 8.0}
    gym = validate(GymConfig, NO_DATA_SETS.model_dump() | {"harbor": {"shell": one}}, "recipe: gym")
    shell = text_environments(gym)["shell"]
    assert shell.size("train") + shell.size("heldout") == 1
