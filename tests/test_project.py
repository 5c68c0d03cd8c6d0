"""What a contributor starts from: the install, the lock, the tools and the versions of Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from workspace import ROOT, SLOW

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.txt", "requirements-data.txt", "requirements-uv.txt")


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\0"
    )[:-1]


def test_an_editable_install_into_a_fresh_environment_imports(tmp_path: Path):
    copy, place = tmp_path / "copy", tmp_path / "venv"
    for name in tracked():
        if name.split("/")[0] in {"k2core", "stages", "flows"} or "/" not in name:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    quiet = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))
    }
    # `--no-build-isolation` takes the builder, setuptools, from this environment.
    builder = quiet | {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*install, "--no-build-isolation", "-e", str(copy)], env=builder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    asked = """
import json, k2core, stages, flows
from importlib.metadata import requires
print(json.dumps([k2core.__file__, stages.__file__, flows.__file__, requires("k2-recipe")]))
"""
    told = subprocess.run([python, "-c", asked], cwd=tmp_path, env=quiet, capture_output=True, text=True, check=True)
    *files, required = json.loads(told.stdout)
    assert all(Path(file).is_relative_to(copy) for file in files)
    named = {re.match(r"[\w.-]+", line)[0] for line in required}
    assert {"torch", "prefect", "dvc", "mlflow", "mypy"} <= named  # the one list, requirements.in


@pytest.mark.parametrize("lock", LOCKS)
def test_each_locked_package_has_one_version_and_hashes(lock: str):
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==[\w.+]+", entry) and "--hash=sha256:" in entry, entry


def test_what_is_imported_is_locked():
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()]
    wanted = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines if line}
    assert wanted and wanted <= locked


@pytest.mark.parametrize(
    ("version", "fits"), [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), True), ((3, 14), False)]
)
def test_the_makefile_takes_the_pythons_that_pyproject_allows(version: tuple[int, int], fits: bool):
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    check = re.search(r"PYTHON\) -c '(import sys.*)'$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    posed = check.replace("import sys;", f"import sys; sys.version_info = ({version[0]}, {version[1]}, 0);")
    done = subprocess.run([sys.executable, "-c", posed], capture_output=True, text=True)
    assert (done.returncode == 0) == fits
    assert fits or "Python 3.11, 3.12 or 3.13 is needed, this is {}.{}".format(*version) in done.stderr


def test_hooks_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        assert (ROOT / hook["entry"].split()[0]).exists(), hook


def test_the_hooks_pass_on_the_whole_project(tmp_path: Path):
    """As a commit runs them, but for the slow ones, which `make lint` has; in a copy, for they mend what they find."""
    copy = tmp_path / "copy"
    for name in tracked():
        if name.endswith((".py", ".c", ".h")) or "/" not in name:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "-A"]):
        subprocess.run([*git, *arguments], cwd=copy, check=True, capture_output=True)
    environment = os.environ | {
        "SKIP": "mypy,lint-imports", "PRE_COMMIT_HOME": str(tmp_path / "home"), "HTTPS_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    command = [copy / ".venv" / "bin" / "pre-commit", "run", "--all-files"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    kernel = copy / "k2core" / "ops" / "cpu" / "norm.c"
    kernel.write_text(kernel.read_text() + "\nint   odd( void ){return 1;}\n")
    done = run()
    assert done.returncode and "clang-format" in done.stdout
    assert "int odd(void) { return 1; }" in kernel.read_text()


def test_what_make_check_leaves_out_is_there():
    assert not [name for name in SLOW if not (ROOT / "tests" / name).exists()]


def test_an_audit_without_a_network_says_that_it_was_skipped():
    environment = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, ROOT / ".ci" / "audit.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("AUDIT SKIPPED: https://api.osv.dev cannot be reached (")
