"""Shards as tasks of Slurm, by a stand-in for its programs, and of Ray, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cluster_work import bad, lost_once, made, slow, times

from k2core.corpus.cluster import following
from k2core.corpus.cluster import slurm as slurm_array
from k2core.corpus.workers import TRIES, Corpus, Watch, map_shards
from k2core.stage import StageError

SLURM = Corpus(executor="slurm", workers=2, tasks=2)
ONE_TASK = Corpus(executor="slurm", workers=2, tasks=1)

PROGRAMS = {
    # Runs the array's tasks in a session of its own.
    "sbatch": """
        arguments, script = sys.argv[1:-1], Path(sys.argv[-1]).read_text()
        id = str(1 + len(list(state.glob("*.sh"))))
        copy = state / f"{id}.sh"
        copy.write_text(script)
        last = int(re.search(r"--array=0-(\\d+)%2", script)[1])
        assert "--time=24:00:00" in script and "--partition=cpu" in script and "--mem-per-cpu=8G" in script
        assert arguments == ["--export=ALL,RUN_OFFSET=0"]
        task = f"SLURM_ARRAY_TASK_ID={{}} bash {copy} > {state}/{id}_{{}}.out 2>&1"
        loop = f"seq 0 {last} | xargs -P 2 -I {{}} bash -c '{task}'"
        environment = {**os.environ, "RUN_OFFSET": "0", "SLURM_NODELIST": "here"}
        job = subprocess.Popen(
            ["bash", "-c", loop], env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        (state / f"{id}.pid").write_text(str(job.pid))
        with (state / "log").open("a") as log:
            log.write(f"sbatch {id} {last + 1}\\n")
        print("Submitted batch job", id)
    """,
    "squeue": """
        assert sys.argv[1:] == ["--me", "--noheader", "--format=%F"]
        for file in state.glob("*.pid"):
            stat = Path(f"/proc/{file.read_text()}/stat")
            if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
                print(file.stem)
    """,
    "scancel": """
        for id in sys.argv[1:]:
            with (state / "log").open("a") as log:
                log.write(f"scancel {id}\\n")
            try:
                os.killpg(int((state / f"{id}.pid").read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
    """,
    "scontrol": "print('here')",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of Slurm on the path; their state, with a log of what was submitted and cancelled."""
    state, programs = tmp_path / "slurm", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    head = f"#!{sys.executable} -S\nimport os, re, signal, subprocess, sys\nfrom pathlib import Path\n"
    head += f"state = Path({str(state)!r})\n"
    for name, program in PROGRAMS.items():
        (programs / name).write_text(head + textwrap.dedent(program))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(following, "POLL_S", 0.1)
    monkeypatch.chdir(tmp_path)
    return state


def log(state: Path) -> list[str]:
    return (state / "log").read_text().splitlines()


def test_the_stage_waits_and_a_lost_task_alone_is_done_again(slurm: Path, tmp_path: Path) -> None:
    results = dict(map_shards(lost_once, ["one", "two", "three"], SLURM, tmp_path / "work"))
    assert results == {"one": "ONE", "two": "TWO", "three": "THREE"}
    assert log(slurm)[:2] == ["sbatch 1 2", "sbatch 2 1"], "the second array has the lost task alone"
    assert [times(shard) for shard in ("one", "two", "three")] == [1, 2, 1]


def test_what_kills_a_process_is_set_aside_and_a_fault_is_named(slurm: Path, tmp_path: Path) -> None:
    results = {}
    with pytest.raises(StageError, match=r"^three, document b: ZeroDivisionError: a share of nothing$"):
        for shard, result in map_shards(bad, ["two", "three"], ONE_TASK, tmp_path / "work"):
            results[shard] = result
    assert results == {"two": ["b"]} and Watch(tmp_path / "work", "two").deaths == {"a": TRIES}
    assert log(slurm)[-1] == "scancel 1"


def test_of_several_clusters_the_job_s_number_is_kept(slurm: Path, tmp_path: Path) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(sbatch.read_text() + "print(' on cluster hpc')\n")
    assert dict(map_shards(made, ["two"], SLURM, tmp_path / "work")) == {"two": "TWO"}
    assert log(slurm)[-1] == "scancel 1"


def test_what_slurm_cannot_do_is_said(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"/a b/work has a space"):
        dict(map_shards(made, ["two"], SLURM, tmp_path / "a b" / "work"))
    monkeypatch.setattr(slurm_array, "_FAULTS", 2)
    monkeypatch.setattr(slurm_array, "_ANSWER_S", 0.2)
    (tmp_path / "bin" / "squeue").write_text(f"#!{sys.executable} -S\nimport time\ntime.sleep(60)\n")
    with pytest.raises(StageError, match=r"squeue fails 2 times in a row: no answer within 0\.2 s"):
        dict(map_shards(slow, ["two"], SLURM, tmp_path / "work"))
    (tmp_path / "bin" / "sbatch").write_text(f"#!{sys.executable} -S\n")
    with pytest.raises(StageError, match=r"sbatch names no job \(it prints nothing\)"):
        dict(map_shards(made, ["two"], SLURM, tmp_path / "other"))


PROGRAM = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
from k2core.corpus.cluster import following
from k2core.stage.process import terminate
from k2core.corpus.workers import Corpus, map_shards
from cluster_work import slow
import signal
slurm = Corpus(executor="slurm", workers=2, tasks=2)
following.POLL_S = 0.1
signal.signal(signal.SIGTERM, terminate)
if __name__ == "__main__":
    for shard, _ in map_shards(slow, ["one", "two"], slurm, Path("work")):
        print(shard, flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_stage_leaves_no_array_and_another_run_does_what_is_missing(
    slurm: Path, tmp_path: Path, end: signal.Signals
) -> None:
    (tmp_path / "stage.py").write_text(PROGRAM.format(path=sys.path))
    stage = subprocess.Popen([sys.executable, "stage.py"], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert stage.stdout and stage.stdout.readline() == "one\n"
    stage.send_signal(end)
    assert stage.wait(30) == (143 if end == signal.SIGTERM else -9)
    if end == signal.SIGTERM:
        assert log(slurm) == ["sbatch 1 2", "scancel 1"]
    assert dict(map_shards(made, ["two"], SLURM, tmp_path / "work")) == {"two": "TWO"}
    assert log(slurm)[:3] == ["sbatch 1 2", "scancel 1", "sbatch 2 1"], "an array of a killed stage is cancelled first"
    assert (times("one"), times("two")) == (1, 1)


def test_without_slurm_or_ray_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match=r"there is no sbatch; run the stage on a node that can submit jobs, or set"):
        dict(map_shards(made, ["one"], SLURM, tmp_path))
    if not importlib.util.find_spec("ray"):
        with pytest.raises(
            StageError, match=r"the package ray is not installed; install it with `pip install -e \.\[ra"
        ):
            dict(map_shards(made, ["one"], Corpus(executor="ray", workers=2), tmp_path))


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is an extra of the project, and not installed")
def test_ray_of_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(following, "POLL_S", 0.1)
    ray, results = Corpus(executor="ray", workers=2, tasks=2, memory_gb=1), {}
    with pytest.raises(StageError, match=r"^three, document b: ZeroDivisionError: a share of nothing$"):
        for shard, result in map_shards(bad, ["one", "three", "two"], ray, tmp_path / "work"):
            results[shard] = result
    results |= map_shards(bad, [shard for shard in ("one", "two") if shard not in results], ray, tmp_path / "work")
    assert results == {"one": ["a", "b"], "two": ["b"]} and Watch(tmp_path / "work", "two").deaths == {"a": TRIES}
