"""Tasks in Harbor's format (terminal-bench's successor): shell commands in the sandbox, rewarded by the task's tests.

A task is a folder with `task.toml`, `instruction.md`, `environment/`, `tests/` and `solution/`
(https://www.harborframework.com/docs/tasks). A reply is a block of shell commands, and what they print is the next
message; a reply without commands, or the last of `turns`, ends the episode. Then the tests are put beside the files
that the commands have left, in a sandbox of their own.

The sandbox is no container. A Dockerfile's `WORKDIR` and `COPY` are done, and a task that needs more is left out with
its reason. Harbor's folders /app, /tests and /logs are folders of the sandbox's: their names are rewritten in all that
is run. There is no network, so a test script that installs and runs pytest is passed over: pytest runs its test files.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import Field

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import encode_continuation
from k2core.gym.base import Item, Message, Split, answer, question, split_of
from k2core.gym.judging import Models
from k2core.recipe import Section
from k2core.sandbox.backends import create
from k2core.sandbox.base import MIB, Limits
from k2core.stage import StageError
from k2core.swe.repository import Repository, needs_of
from k2core.swe.testing import run_tests

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

RULE = (
    "Answer with shell commands in one block that begins with ```bash and ends with ```. You see what they print, and "
    "may answer again; answer without a block when you are done."
)
BLOCK = re.compile(r"```(?:bash|sh)\n(.*?)```", re.DOTALL)
ROOTED = re.compile(r"(?<![\w./~$}-])/(app|tests|logs|solution|workspace)(?=[/\s\"'`;:)]|$)")
"""Harbor's folders, where they are written as absolute paths."""
REWARDS = ("logs/verifier/reward.json", "logs/verifier/reward.txt")
SHOWN = 2000
"""Characters of output that the next message has."""
LARGEST = 2**20
Files = dict[str, bytes]


class HarborSettings(Section):
    """A folder of tasks, and how long each may take."""

    folder: str = Field(min_length=1, description="folder of tasks, or one task; relative to the project")
    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    turns: int = Field(ge=1, description="most responses to a task")
    timeout_s: float = Field(gt=0, description="most seconds of one response's commands; a task may allow fewer")


@dataclass(frozen=True)
class Task:
    """A task as it was read.

    Attributes:
        files: the folder of the commands as they find it; paths begin with that of `workdir`.
        tests: what is put beside them in the end.
        solution: the commands of `solution/solve.sh`, behind some that write the files beside it; empty if there is
            none.
        seconds: for commands, and for the tests.
    """

    name: str
    instruction: str
    files: Files
    workdir: str
    tests: Files
    solution: str
    seconds: tuple[float, float]


def read_task(folder: Path) -> Task:
    """The task of a folder.

    Raises:
        ValueError: it is none, or needs what the sandbox does not have; says what.
    """
    try:
        config = tomllib.loads((folder / "task.toml").read_text())
        instruction = (folder / "instruction.md").read_text().strip()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"not a task: {error}") from None
    if not (folder / "tests" / "test.sh").is_file():
        raise ValueError("no tests/test.sh")
    if config.get("verifier", {}).get("environment_mode", "shared") != "shared":
        raise ValueError("its tests want a container of their own")
    workdir, files = _built(folder / "environment")
    seconds = tuple(float(config.get(part, {}).get("timeout_sec", 600.0)) for part in ("agent", "verifier"))
    return Task(
        folder.name, instruction, files, config.get("environment", {}).get("workdir") or workdir,
        _read(folder / "tests", "tests"), _solution(folder / "solution"), (seconds[0], seconds[1]),
    )  # fmt: skip


def _solution(folder: Path) -> str:
    solve = folder / "solve.sh"
    if not solve.is_file():
        return ""
    beside = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != solve]
    written = [
        f"mkdir -p {shlex.quote(str(place.parent))}\ncat > {shlex.quote(str(place))} << 'END_OF_{path.stem}'\n"
        f"{path.read_text()}\nEND_OF_{path.stem}\n"
        for path in beside for place in [PurePosixPath("/solution", path.relative_to(folder).as_posix())]
    ]  # fmt: skip
    return "".join([*written, solve.read_text()])


def _built(environment: Path) -> tuple[str, Files]:
    """The working directory and the files that a Dockerfile makes."""
    dockerfile, workdir, files = environment / "Dockerfile", "/app", Files()
    if (environment / "docker-compose.yaml").exists():
        raise ValueError("it needs several containers")
    lines = dockerfile.read_text().replace("\\\n", " ").splitlines() if dockerfile.is_file() else []
    for line in map(str.strip, lines):
        word, _, rest = line.partition(" ")
        match word.upper():
            case "WORKDIR":
                workdir = rest.strip()
            case "COPY" | "ADD":
                *sources, target = [part for part in shlex.split(rest) if not part.startswith("--")]
                place = str(PurePosixPath(workdir, target))
                for source in sources:
                    path = environment / source
                    named = PurePosixPath(target).suffix or PurePosixPath(target).name == path.name
                    into = place if path.is_dir() or (named and target[-1] != "/") else f"{place}/{path.name}"
                    files |= _read(path, into.lstrip("/"))
            case "FROM" | "" | "ENV" | "LABEL" | "CMD" | "ENTRYPOINT" | "USER" | "ARG" | "EXPOSE":
                continue
            case "RUN" if all(map(_is_here, re.split(r"&&|;", rest))):
                continue
            case _ if not word.startswith("#"):
                raise ValueError(f"its Dockerfile has {line[:60]!r}, and no image is built here")
    return workdir, files


def _is_here(command: str) -> bool:
    """Whether what a command of a Dockerfile brings about is so in the sandbox: folders, and programs it has."""
    match shlex.split(command):
        case [] | ["mkdir", *_] | ["apt-get", "update", *_] | ["rm", "-rf", "/var/lib/apt/lists/*"]:
            return True
        case ["apt-get", "install", *packages]:
            return all(name.startswith("-") or Path("/usr/bin", name).exists() for name in packages)
    return False


def _read(path: Path, place: str) -> Files:
    """A file, or all of a folder, as files of the sandbox below `place`."""
    if not path.exists():
        raise ValueError(f"no {path.name}")
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    if sum(each.stat().st_size for each in found) > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST:,} bytes")
    inside = [place if each == path else f"{place}/{each.relative_to(path).as_posix()}" for each in found]
    return {name: _rewritten(each.read_bytes()) for name, each in zip(inside, found, strict=True)}


def _rewritten(content: bytes) -> bytes:
    try:
        return rooted(content.decode()).encode()
    except UnicodeDecodeError:
        return content


def rooted(text: str) -> str:
    """`text` with Harbor's folders where they are in the sandbox."""
    return ROOTED.sub(r"/work/\1", text)


class HarborEpisode:
    """One try of a task."""

    def __init__(
        self, task: Task, settings: HarborSettings, encode: Callable[[Sequence[Message]], Sequence[int]]
    ) -> None:
        self._task, self._settings, self._encode = task, settings, encode
        self._turns = 0
        self.files = dict(task.files)

    def advance(self, response: str) -> Sequence[int] | None:
        """What the response's commands print, as tokens; None once the task is over."""
        block = BLOCK.search(response.removesuffix(IM_END))
        self._turns += 1
        if not block:
            return None
        printed = self._run(block[1])
        if self._turns == self._settings.turns:
            return None
        return self._encode([{"role": "user", "content": printed}])

    def _run(self, commands: str) -> str:
        """Run commands in the working directory; what they print."""
        folder = self._task.workdir.lstrip("/")
        script = f"mkdir -p {shlex.quote(folder)}; cd {shlex.quote(folder)}\n{rooted(commands)}\n"
        seconds = min(self._settings.timeout_s, self._task.seconds[0])
        with create(_limits(seconds), self.files) as sandbox:
            done = sandbox.exec(["bash", "-c", script])
            self.files = dict(sandbox.files)
        printed = (done.stdout + done.stderr).decode("utf-8", "replace").replace("/work/", "/")
        ended = "\n(the time is up)" if done.timed_out else f"\n(exit status {done.status})" if done.status else ""
        return f"{printed[-SHOWN:].strip()}{ended}" or "(nothing is printed)"

    def reward(self) -> float:
        """What the task's tests make of the files as they are now, in [0, 1]."""
        task, own = self._task, self._task.workdir.lstrip("/")
        left = {path: content for path, content in self.files.items() if path.startswith(f"{own}/")}
        files = {**left, **task.tests}
        script = task.tests["tests/test.sh"].decode("utf-8", "replace")
        named = sorted(path for path in task.tests if re.fullmatch(r"tests/test_\w+\.py", path))
        if named and "pytest" in script:
            outcome = run_tests(Repository("harbor", "", "", {}, _pytest()), files, named)
            return float(not outcome.fault and bool(outcome.of) and set(outcome.of) == outcome.passed)
        seconds = min(self._settings.timeout_s, task.seconds[1])
        begin = f"mkdir -p logs/verifier {shlex.quote(own)}; cd {shlex.quote(own)}; bash /work/tests/test.sh"
        with create(_limits(seconds), files, _pytest()) as sandbox:
            sandbox.exec(["bash", "-c", begin])
            return _reward({path: sandbox.files[path] for path in REWARDS if path in sandbox.files})


@cache
def _pytest() -> tuple[str, ...]:
    """What pytest imports, itself included."""
    return tuple(needs_of(distribution("pytest"), ""))


def _limits(seconds: float) -> Limits:
    return Limits(wall=seconds, cpu=max(1, int(seconds)), memory=1024 * MIB, processes=64, disk=64 * MIB)


def _reward(written: Mapping[str, bytes]) -> float:
    """The number of reward.json (its key `reward`) or reward.txt, cut to [0, 1]; 0 if there is none."""
    for content in written.values():
        try:
            found = json.loads(content)
            value = float(found["reward"] if isinstance(found, dict) else found)
        except (ValueError, TypeError, KeyError):
            continue
        if value == value:  # NaN is no reward
            return min(1.0, max(0.0, value))
    return 0.0


@dataclass(frozen=True)
class Harbor:
    """The tasks of a folder that the sandbox can run, by split; the seed plays no part."""

    name: str
    settings: HarborSettings
    left_out: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def max_new_tokens(self) -> int:
        """Token budget of one response."""
        return self.settings.max_new_tokens

    @cached_property
    def tasks(self) -> dict[Split, list[Task]]:
        """By hash of their names.

        Raises:
            StageError: there is no task that can be run here.
        """
        where, root = f"gym.harbor.{self.name}.folder", Path(self.settings.folder)
        found: dict[Split, list[Task]] = {"train": [], "heldout": []}
        for file in sorted(root.rglob("task.toml")):
            try:
                task = read_task(file.parent)
            except ValueError as reason:
                self.left_out[file.parent.name] = str(reason)
            else:
                found[split_of(f"harbor/{task.name}")].append(task)
        if not any(found.values()):
            why = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise StageError(f"{where} = {self.settings.folder!r}: no task that can be run ({why or 'no task.toml'})")
        return found

    def size(self, split: Split) -> int:
        """The number of tasks."""
        return len(self.tasks[split])

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Task number `index` of the split."""
        task = self.tasks[split][index]
        return Item(
            f"{self.name}/{task.name}", question(f"{task.instruction}\n\n{RULE}"),
            answer(f"```bash\n{task.solution.strip()}\n```"), meta={"task": task},
        )  # fmt: skip

    def score(self, item: Item, completion: str) -> float:
        """Reward of a task to which this is the only response."""
        episode = HarborEpisode(item.meta["task"], self.settings, lambda messages: ())
        episode.advance(completion)
        return episode.reward()

    def episode(self, item: Item, tokenizer: Tokenizer) -> HarborEpisode:
        """A try of the item's task."""
        return HarborEpisode(item.meta["task"], self.settings, partial(encode_continuation, tokenizer))


def make(settings: Mapping[str, HarborSettings], models: Models) -> list[Harbor]:
    """The environments of section `gym.harbor`."""
    return [Harbor(name, each) for name, each in settings.items()]
