"""A workspace for tests: a folder with a graph, in which the real runner, DVC, Prefect and MLflow work."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SLOW = (
    "chain", "flows", "tracking",
    "agentic/test_attacks.py", "agentic/test_hostile_worlds.py", "agentic/test_mcp.py", "agentic/test_real.py",
    "corpus/test_cluster.py", "corpus/test_hostile_sources.py", "corpus/test_listing.py", "corpus/test_reading.py",
    "corpus/test_sources.py", "corpus/test_web_recipe.py", "corpus/test_workers.py",
    "gym/test_harbor.py", "llm/test_engine.py",
    "optim/test_sharded.py", "planning/test_configs_for_others.py", "planning/test_launch.py",
    "planning/test_states.py", "rl/test_handover.py", "rl/test_rl_processes.py",
    "coding/test_coding.py", "report/test_browser.py", "sandbox/test_sandbox.py", "swe/test_swe.py",
    "security/test_credentials.py", "security/test_door.py", "security/test_servers.py", "serve",
    "stages/test_endings.py", "stages/test_reruns.py", "storage/test_dvc_remote.py", "storage/test_s3.py",
    "talk", "test_benchmarks.py", "test_benchmarks_corpus.py", "test_corpus_scale.py", "test_extensions.py",
    "test_gpu_check.py",
    "training/test_between_stages.py", "training/test_checkpoint.py", "training/test_checkpoint_faults.py",
    "training/test_context_parallel.py",
    "training/test_kills.py", "training/test_mesh.py", "training/test_pipelines.py",
    "training/test_ranks.py", "training/test_stages.py",
)  # fmt: skip
"""Folders and files of tests that start servers, many processes or whole chains: `make check` leaves them out."""


class Workspace:
    """A folder with a graph, the project's code by symlink, and the commands a user types in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONDONTWRITEBYTECODE": "",  # compiled once, not by every stage
        }

    def run(self, *words: str, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    def type(self, commands: str) -> list[str]:
        """Run the lines of a listing, one after the other; what each has printed."""
        return [self.run(*shlex.split(line, comments=True)).stdout for line in commands.splitlines() if line.strip()]

    def start(self, *words: str, own_group: bool = False) -> subprocess.Popen[str]:
        """Start a command; `own_group` as a shell does, so that `os.killpg` reaches what Ctrl-C reaches."""
        return subprocess.Popen(
            words, cwd=self.root, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            process_group=0 if own_group else None,
        )  # fmt: skip

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text()
        assert old in text, f"{file} does not contain {old}"
        (self.root / file).write_text(text.replace(old, new))

    def lock(self) -> str:
        return (self.root / "dvc.lock").read_text()

    def contents(self, folder: str) -> dict[str, bytes]:
        """The files below `folder`; none where it is not there."""
        return {str(file): file.read_bytes() for file in sorted((self.root / folder).rglob("*")) if file.is_file()}

    def processes(self, word: str) -> list[psutil.Process]:
        """Live processes of this workspace with `word` in their command line; their `info` has name and environment."""
        found = []
        for process in psutil.process_iter(["cmdline", "name", "environ"]):
            try:
                ours = word in " ".join(process.info["cmdline"] or []) and process.cwd() == str(self.root)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue  # another user's, or ended between two of these questions
        return found


def project_git(*words: str) -> list[str]:
    """What git lists of the project's files; an archive of the sources, without git, is taken as a new repository."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["git"]
        if not (ROOT / ".git").exists():
            subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
            command += ["--git-dir", folder, "--work-tree", str(ROOT)]
        done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def project_files() -> list[str]:
    """The project's files that git tracks, or would."""
    listed = project_git("ls-files", "--cached", "--others", "--exclude-standard")
    return [name for name in listed if (ROOT / name).is_file()]


def make_workspace(root: Path, source: Path) -> Workspace:
    """A git and DVC workspace at `root` with the files of `source` and the project's rooms."""
    shutil.copytree(source, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("k2core", "flows", "stages/__main__.py", "stages/checks.py", "stages/closure.py", "stages/written.py"):
        (root / path).symlink_to(ROOT / path)
    (root / "recipes").mkdir()
    shutil.copyfile(root / "params.yaml", root / "recipes" / "toy.yaml")
    for file in (".gitignore", ".dvcignore"):
        shutil.copyfile(ROOT / file, root / file)
    workspace = Workspace(root)
    workspace.run("git", "init", "-q", ".")
    workspace.run("dvc", "init", "-q")
    return workspace
