"""Which source files a stage's result depends on: the static import closure, as `deps` of `dvc.yaml`.

DVC knows nothing of Python imports (treeverse/dvc #9195), so a changed helper would leave stale results. The
closure follows imports inside functions too, and every module of a folder that is a registry (`modules_in`). Rooms
that cannot change an output are left out. `k2core/stage/digest.py` says which these are, and which kinds of files are
code.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

from k2core.stage.digest import CODE_ROOMS, COMPILED, DATA, INERT_ROOMS


def closure(module: str, root: Path) -> list[str]:
    """Paths, relative to `root`, of the project's files that `module` imports, directly or not, and its own.

    A folder stands for its files where all of them belong to it (`dvc.lock` is written after every stage, and slowly).
    """
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        file = _file(name, root)
        if file is None or str(file) in seen or INERT_ROOMS & set(file.parts):
            continue
        seen.add(str(file))
        todo += _imports(name, root / file, root)
    # A data file (prompts, a taxonomy, a template) belongs to the source files beside it that name it or read all of
    # its kind (`glob("*.yaml")`), C to its folder.
    data = {
        str(path.relative_to(root))
        for file in seen
        for path in (root / file).parent.iterdir()
        if path.suffix in COMPILED or (path.suffix in DATA and _names((root / file).read_text(), path))
    }
    return _folded({file for file in seen if _says_something(root / file)} | data, root)


def _names(source: str, data: Path) -> bool:
    return data.name in source or f'glob("*{data.suffix}")' in source


def stage_module(cmd: str) -> str:
    """The module a stage's command runs."""
    found = re.search(r"python -m (stages\.\w+)", cmd)
    if not found:
        raise ValueError(f"not a stage command: {cmd}")
    return found.group(1)


def rewrite(text: str, root: Path) -> str:
    """`dvc.yaml` with the code dependencies of every stage brought up to date, all else as it was.

    A stage's code comes after its data at the end of its `deps`.
    """
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 110, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    document: Any = yaml.load(text)
    for stage in document["stages"].values():
        body = stage.get("do", stage)
        data = [dep for dep in body.get("deps", []) if not _is_code(dep)]
        code = closure(stage_module(body["cmd"]), root)
        if list(body.get("deps", [])) != data + code:
            body["deps"] = _in_place(body.get("deps", []), data + code)
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _in_place(before: Any, entries: list[str]) -> Any:
    """`entries` as a list of `dvc.yaml`, with what follows the list `before`: blank lines, a comment."""
    from ruamel.yaml.comments import CommentedSeq

    after = CommentedSeq(entries)
    behind = before.ca.items.get(len(before) - 1) if isinstance(before, CommentedSeq) else None
    if behind and entries:
        after.ca.items[len(entries) - 1] = behind
    return after


def _folded(files: set[str], root: Path) -> list[str]:
    """`files` by room: a folder stands for its files where a stage uses half of a room, or two thirds of several.

    DVC parses and writes every entry of every stage, at each command and after each stage. A room is a folder
    without folders in it; what is one room is changed together.
    """
    folders = sorted({folder for file in files for folder in Path(file).parents if len(folder.parts) > 1})
    whole: list[Path] = []
    for folder in folders:  # the outer ones first
        below = [path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file()]
        speaking = [path for path in below if not _ignored(path) and _says_something(root / path)]
        share = sum(str(path) in files for path in speaking) / len(speaking)
        enough = 1 / 2 if all(path.parent == folder for path in speaking) else 2 / 3
        if share >= enough and len(speaking) > 1 and not any(folder.is_relative_to(found) for found in whole):
            whole.append(folder)
    single = {file for file in files if not any(Path(file).is_relative_to(folder) for folder in whole)}
    return sorted(single | {str(folder) for folder in whole})


def _ignored(file: Path) -> bool:
    """Whether `.dvcignore` keeps DVC from looking at `file`."""
    return "__pycache__" in file.parts or file.name.startswith(".") or file.name.endswith("~")


def _says_something(file: Path) -> bool:
    """Whether a file is more than an empty module, or one with nothing but a docstring."""
    if file.suffix != ".py":
        return True
    body = _parsed(file).body
    return len(body) > 1 or (bool(body) and ast.get_docstring(ast.Module(body, [])) is None)


def _parsed(file: Path) -> ast.Module:
    return _parsed_as_of(file, file.stat().st_mtime_ns)


@functools.cache
def _parsed_as_of(file: Path, written: int) -> ast.Module:
    return ast.parse(file.read_text())


def _is_code(dep: str) -> bool:
    return dep.split("/")[0] in CODE_ROOMS


def _file(module: str, root: Path) -> Path | None:
    base = Path(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


def _imports(module: str, file: Path, root: Path) -> list[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    tree = _parsed(file)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("modules_in"):
            found_in = ast.literal_eval(node.args[0])
            names += [f"{found_in}.{file.stem}" for file in sorted((root / Path(*found_in.split("."))).glob("*.py"))]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    ours = [name for name in names if name.split(".")[0] in CODE_ROOMS]
    parents = [".".join(name.split(".")[:depth]) for name in ours for depth in range(1, name.count(".") + 1)]
    return [name for name in dict.fromkeys(ours + parents) if _file(name, root)]
