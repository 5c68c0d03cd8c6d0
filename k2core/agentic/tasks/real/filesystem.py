"""Tasks on a real folder of files, executed by `fsguard-mcp`: reads, searches, writes, moves, copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.tasks.real_domain import RealDomain, Wish, call, check_plain, made_up
from k2core.agentic.tasks.script import Read, Text, at
from k2core.agentic.tools.simulator import State

ENDINGS = ("txt", "md", "csv", "log", "cfg")
KINDS = ("read", "list", "search", "write", "move", "copy", "missing", "find_and_move")
ABSENT = {"absent": "FileNotFoundError"}
TOOLS = ("fs_read", "fs_write", "fs_list", "fs_search", "fs_move")
LONGEST_PATH, MOST_BYTES = 200, 2**20
"""Characters of a path, and bytes of a file that is still read back."""


class Filesystem(RealDomain):
    """Three folders of files: `{"files": {path: {"text"}}}`."""

    name = "filesystem"
    system = "You look after the files in a folder."
    tools = TOOLS

    def wish(self, number: int, random: Random) -> Wish:
        kind = KINDS[number % len(KINDS)]
        folders = [made_up(random) for _ in range(3)]
        files = {f"{random.choice(folders)}/{_file(random)}": _text(random) for _ in range(random.randint(5, 8))}
        path = random.choice(list(files))
        folder, file = path.split("/")
        other = random.choice([each for each in folders if each != folder])
        match kind:
            case "read":
                clause, answer = f"what does the file {path} say", f"It says: {files[path]}."
                return _wish(clause, answer, [_read(path, words="says")], files, files, [files[path]], True, random)
            case "list":
                held = sorted(each.split("/")[1] for each in files if each.startswith(f"{folder}/"))
                clause, answer = f"which files are in the folder {folder}", f"There is {' and '.join(held)}."
                says = {"words": "files", "thing": f"folder {folder}", "value": at(0, "entries", "*", "name"), **ABSENT}
                return _wish(clause, answer, [call("fs_list", says, path=folder)], files, files, held, True, random)
            case "search":
                clause, answer = f"in which folder is the file {file}", f"It is in {folder}."
                calls = [_search(file, words="folder", value=at(0, "matches", 0, find="^(.+)/"))]
                return _wish(clause, answer, calls, files, files, [folder], True, random)
            case "missing":
                absent = f"{folder}/{_file(random)}"
                clause, answer = f"what does the file {absent} say", f"There is no file {absent}."
                calls, mentions = [_read(absent, words="says")], [absent, "no"]
                wish = _wish(clause, answer, calls, files, files, mentions, True, random)
                wish.returned[:] = ["FileNotFoundError"]
                return wish
            case "write":
                new, text = f"{folder}/{_file(random)}", _text(random)
                clause, answer = f"make a file {new} that says: {text}", f"I wrote {new}."
                calls = [call("fs_write", {"words": "wrote", "value": at(0, "written")}, path=new, content=text)]
                return _wish(clause, answer, calls, files, {**files, new: text}, [new], False, random)
            case "move":
                there = f"{other}/{file}"
                calls = [_move(0, path, other, file)]
                clause, answer = f"move the file {path} to the folder {other}", f"It is now {there}."
            case "copy":
                there = f"{other}/{_file(random)}"
                says = {"words": "copied", "value": at(1, "written")}
                copied = Read(files[path], at(0, "content"))
                calls = [_read(path), call("fs_write", says, 1, path=there, content=copied)]
                clause, answer = f"copy the file {path} to {there}", f"I copied it to {there}."
                return _wish(clause, answer, calls, files, {**files, there: files[path]}, [there], False, random)
            case _:
                there = f"{other}/{file}"
                calls = [_search(file), _move(1, Read(path, at(0, "matches", 0)), other, file)]
                clause, answer = f"find the file {file} and move it to the folder {other}", f"It is now {there}."
        end = {name: text for name, text in files.items() if name != path} | {there: files[path]}
        return _wish(clause, answer, calls, files, end, [there], False, random)

    def make(self, folder: Path, state: State) -> None:
        super().make(folder, state)
        for name, file in state.get("files", {}).items():
            check_plain(*name.split("/"))
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(file["text"], encoding="utf-8")

    def state(self, folder: Path, initial: State) -> State:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if sum(path.stat().st_size for path in paths) > MOST_BYTES:
            raise ValueError(f"the files have more than {MOST_BYTES:,} bytes")
        return _state({str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths})

    def refusal(self, arguments: Mapping[str, Any], folder: Path, initial: State) -> str:
        for name in ("path", "source", "destination"):
            path = str(arguments.get(name, "."))
            if len(path) > LONGEST_PATH:
                return f"a path of more than {LONGEST_PATH} characters"
            place = folder / path
            if any(part.is_symlink() for part in (place, *place.parents) if part != folder and folder in part.parents):
                return f"{path} leads through a link"  # the server writes through one whose target is missing
        return ""


DOMAIN = Filesystem()


def _state(files: dict[str, str]) -> State:
    return {"files": {name: {"text": text} for name, text in files.items()}}


def _file(random: Random) -> str:
    return f"{made_up(random, 3)}.{random.choice(ENDINGS)}"


def _text(random: Random) -> str:
    return " ".join([made_up(random), str(random.randint(10, 999)), made_up(random)])


def _read(path: str, **says: str) -> dict[str, Any]:
    return call("fs_read", {"thing": f"file {path}", "value": at(0, "content"), **ABSENT, **says}, path=path)


def _search(file: str, **says: Any) -> dict[str, Any]:
    return call("fs_search", {"thing": f"file {file}", "absent": r'"matches": \[\]', **says}, pattern=file)


def _move(number: int, source: str | Read, folder: str, file: str) -> dict[str, Any]:
    """Call `number` of the task."""
    says = {"words": "moved", "value": at(number, "moved_to"), "thing": f"file {file}", **ABSENT}
    return call("fs_move", says, number, source=source, destination=Text("{}/{}", (folder, file)))


def _wish(
    clause: str, answer: str, calls: list[dict[str, Any]], files: dict[str, str], end: dict[str, str],
    mentions: list[str], question: bool, random: Random,
) -> Wish:  # fmt: skip
    """With the tools that are needed and one that is not."""
    needed = sorted({each["name"] for each in calls})
    tools = [*needed, random.choice([name for name in TOOLS if name not in needed])]
    returned = list(mentions) if question else []
    return Wish(clause, question, answer, calls, tools, _state(files), _state(end), mentions, returned)
