"""The sandbox does what an ordinary program needs, keeps its limits, denies every escape, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from benchmarks.escapes import ATTACKS, escapes, table
from k2core.sandbox import backends, seccomp
from k2core.sandbox.backends import BACKENDS, create, fault, missing
from k2core.sandbox.base import Limits, SandboxError
from k2core.sandbox.bubblewrap import Bubblewrap
from k2core.sandbox.namespaces import Namespaces

MARK = "k2-sandbox-test"


def sandboxed() -> list[psutil.Process]:
    """Processes of sandboxes that this process, or one of its children, has started."""
    ours = psutil.Process().children(recursive=True)
    return [each for each in ours if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend.program)
def backend(request):
    if reason := fault(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def only(backend, monkeypatch):
    """`create` makes sandboxes of this backend."""
    monkeypatch.setattr(backends, "BACKENDS", (backend,))
    return backend


@pytest.fixture(scope="module")
def found(backend):
    before = mounts()
    found = escapes(backend)
    assert mounts() == before
    return {each.name: each for each in found}


@pytest.mark.parametrize("attack", [attack.name for attack in ATTACKS])
def test_no_attack_gets_out(found, attack):
    assert found[attack].breach == ""
    assert found[attack].outcome, "nothing says what stopped it"


def test_the_escape_table_has_a_line_for_every_attack(found):
    lines = table(list(found.values())).splitlines()
    assert len(lines) == len(ATTACKS) + 2 and all("denied" in line for line in lines[2:])


def test_an_ordinary_program_runs(only):
    program = b"""
import json, subprocess, sys, tempfile, threading
numbers = list(map(int, input().split()))
with open("kept.txt", "w") as file:
    print(sum(numbers), file=file)
with tempfile.TemporaryFile() as file:
    file.write(b"x")
thread = threading.Thread(target=print, args=("thread",))
thread.start(); thread.join()
print(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True).stdout.strip())
print(json.dumps({"argv": sys.argv, "name": __name__}))
sys.stderr.write("said")
exit(3)
"""
    with create(files={"main.py": program}) as sandbox:
        done = sandbox.exec(["python", "main.py", "a"], b"1 2 3\n")
        assert done.text.split("\n")[:3] == ["thread", "child", '{"argv": ["main.py", "a"], "name": "__main__"}'], done
        assert (done.status, done.stderr, done.timed_out, done.overflow) == (3, b"said", False, False)
        assert sandbox.read_file("kept.txt") == b"6\n"


def test_files_stay_between_commands_and_go_with_the_sandbox(only):
    with create(files={"a/b.txt": b"one", "gone.txt": b""}) as sandbox:
        sandbox.write_file("c.txt", b"three")
        sandbox.exec(
            ["python", "-c", "import os; os.remove('gone.txt'); open('a/d.txt', 'w').write(open('c.txt').read())"]
        )
        assert sandbox.exec(["cat", "a/b.txt", "a/d.txt"]).stdout == b"onethree"
        with pytest.raises(SandboxError, match=r"no file 'gone.txt'"):
            sandbox.read_file("gone.txt")
        sandbox.exec(["python", "-c", "open('a/d.txt', 'w').write('lost')"], keep=False)
        assert sandbox.read_file("a/d.txt") == b"three"
    assert sandbox.files == {}


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "", "nul\0"])
def test_a_path_out_of_the_folder_is_refused(path):
    with pytest.raises(SandboxError, match="no path of a sandbox's file"):
        Bubblewrap(Limits(), {path: b""})


def test_two_sandboxes_see_nothing_of_each_other(only):
    look = "import os; print(sorted(os.listdir('.')), sorted(os.listdir('/tmp')))"
    with create() as one, create() as other, ThreadPoolExecutor(2) as pool:
        busy = pool.submit(
            one.exec, ["python", "-c", "open('mine', 'w'); open('/tmp/mine', 'w'); import time; time.sleep(0.5)"]
        )
        time.sleep(0.2)
        assert other.exec(["python", "-c", look]).text == "[] []\n"
        assert busy.result().status == 0 and one.read_file("mine") == b""


def test_packages_are_given_by_name(only):
    with create(packages=["pluggy"]) as sandbox:
        done = sandbox.exec(
            [
                "python",
                "-c",
                "import pluggy; print(pluggy.__name__)\ntry: import torch\nexcept ImportError: print('no')",
            ]
        )
        assert done.text == "pluggy\nno\n", done
    with pytest.raises(SandboxError, match="no package nowhere"):
        create(packages=["nowhere"]).exec(["true"])


def test_hostile_executions_among_others_leave_nothing(only):
    """The benchmark does it with 10,000 executions."""
    from benchmarks.sandbox import many

    counted = many(executions=60, hostile_share=0.1)
    assert counted.left == {} and counted.hostile >= 5 and counted.wrong == 0


def test_a_killed_parent_leaves_no_process(backend):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', sys.argv[1]])"
    script = (
        f"from {backend.__module__} import {backend.__name__} as Backend\nfrom k2core.sandbox.base import Limits\n"
        f"Backend(Limits(), {{}}).exec(['python', '-c', {child!r}, {MARK!r}])"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])

    def marked() -> int:
        return sum(MARK in (each.info["cmdline"] or [])[-1:] for each in psutil.process_iter(["cmdline"]))

    deadline = time.monotonic() + 20
    while not marked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while marked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked()


SYSTEM_PYTHON = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
AS_NOBODY = """
import os
from k2core.sandbox.base import Limits
from MODULE import BACKEND
BOMB = '''
import os, time
try:
    for _ in range(99): os.fork() or time.sleep(9)
except OSError as error: print(error.errno, os.getuid(), os.listdir('.'))
'''
done = BACKEND(Limits(wall=5, processes=4), {'a': b'1'}).exec(['python', '-c', BOMB])
print(done.text, done.stderr)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; this one already is")
@pytest.mark.skipif(not os.path.exists(SYSTEM_PYTHON), reason="no interpreter that every user may run")
def test_it_works_for_a_user_who_is_not_root(backend):
    import pydantic

    path = f"{Path(__file__).parents[2]}:{Path(pydantic.__file__).parents[1]}"
    script = AS_NOBODY.replace("MODULE", backend.__module__).replace("BACKEND", backend.__name__)
    done = subprocess.run(
        [SYSTEM_PYTHON, "-B", "-c", script], user=65534, group=65534, extra_groups=[], cwd="/",
        capture_output=True, text=True, env={"PATH": "/usr/bin", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.startswith("11 1000 ['a']"), done


@pytest.fixture
def unasked():
    """What works here is asked anew, in the test and after it."""
    fault.cache_clear()
    yield
    fault.cache_clear()


def test_without_a_backend_no_code_is_run(monkeypatch, tmp_path, unasked):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=r"no model-written code is run.*no bwrap; there is no unshare; apt-get"):
        create()


def test_without_bubblewrap_the_kernels_namespaces_serve(monkeypatch, unasked):
    if reason := fault(Namespaces):
        pytest.skip(reason)
    monkeypatch.setattr(Bubblewrap, "program", "no-bwrap")
    fault.cache_clear()
    assert missing() == "" and isinstance(create(), Namespaces)


def test_a_backend_that_cannot_mount_says_so(monkeypatch, unasked):
    """What a container without rights meets: here a folder that does not exist is to be given to the sandbox."""
    if reason := fault(Namespaces):
        pytest.skip(reason)
    monkeypatch.setattr(Namespaces, "steps", lambda self: [("device", "/dev/nowhere")])
    with pytest.raises(SandboxError, match=r"unshare cannot make a sandbox: unshare: .*No such file or directory"):
        Namespaces(Limits(), {}).exec(["true"])


def test_without_libseccomp_no_code_is_run(monkeypatch):
    monkeypatch.setattr(seccomp, "LIBRARY", "libnowhere.so")
    seccomp.program.cache_clear()
    try:
        with pytest.raises(SandboxError, match=r"no libnowhere.so here, without which no model-written code is run"):
            seccomp.program()
    finally:
        seccomp.program.cache_clear()
