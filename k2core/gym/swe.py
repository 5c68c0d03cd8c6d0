"""Repository tasks without tools: an answer is a patch, rewarded by the package's own tests in the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from k2core.coding.mutation import functions
from k2core.gym.base import Item, Split, answer, question, response_text
from k2core.storage import read_lines
from k2core.swe.task import Task, broken, gold_patch, patched, verdict

FILE = "repairs.jsonl"
FORM = (
    "Answer with the path of the file, and below it a block that replaces lines it has once:\n"
    "PATH\n<<<<<<< SEARCH\nOLD LINES\n=======\nNEW LINES\n>>>>>>> REPLACE"
)


@dataclass(frozen=True)
class Swe:
    """The tasks by split; the seed plays no part."""

    tasks: dict[Split, list[Task]]
    name: str = "swe"
    max_new_tokens: int = 512

    @classmethod
    def load(cls, folder: Path) -> Swe:
        """Read `repairs.jsonl`.

        Raises:
            StorageError: it is missing or torn.
        """
        rows = read_lines(folder / FILE, columns=("id", "split", "package", "path"))
        return cls({split: [row for row in rows if row["split"] == split] for split in ("train", "heldout")})

    def size(self, split: Split) -> int:
        return len(self.tasks[split])

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Task number `index` of the split, with the function that has the mistake."""
        task = self.tasks[split][index]
        source = broken(task)[task["path"]].decode()
        function = next(node for name, node in functions(source) if name == task["function"])
        shown = "\n".join(source.splitlines()[function.lineno - 1 : function.end_lineno])
        asked = f"{task['issue']}\n\nFrom {task['path']}:\n```python\n{shown}\n```\n{FORM}"
        return Item(f"{self.name}/{task['id']}", question(asked), answer(gold_patch(task)), meta={"task": task})

    def score(self, item: Item, completion: str) -> float:
        """1 if all tests pass that passed before the mistake, and nothing but the package's code is changed; else 0."""
        task = item.meta["task"]
        try:
            files = patched(broken(task), response_text(completion) + "\n")
        except ValueError:
            return 0.0
        return float(not verdict(task, files))
