"""Building the kernels, and doing without."""

from __future__ import annotations

import shutil

import pytest
import torch

from k2core.model.linear import Linear
from k2core.ops.cpu import build as module
from k2core.ops.cpu.build import eager, library, usable


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process, with nothing built."""
    monkeypatch.setattr(module, "BUILT", tmp_path / "built")
    library.cache_clear()
    yield tmp_path / "built"
    library.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_kernels_are_built_once_and_again_when_a_source_changes(fresh, monkeypatch, tmp_path):
    assert library() is not None
    (built,) = fresh.iterdir()
    before = built.stat().st_mtime_ns
    library.cache_clear()
    assert library() is not None
    assert [file.stat().st_mtime_ns for file in fresh.iterdir()] == [before]
    sources = tmp_path / "sources"
    shutil.copytree(module.FOLDER, sources)
    (sources / "swiglu.c").write_text((sources / "swiglu.c").read_text() + "\n")
    monkeypatch.setattr(module, "FOLDER", sources)
    library.cache_clear()
    assert library() is not None
    assert len(list(fresh.iterdir())) == 2


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_everything_runs_and_says_so(fresh, monkeypatch, caplog, compiler):
    monkeypatch.setenv("CC", compiler)
    assert not usable(torch.ones(1))
    assert f"could not be built with the C compiler '{compiler}' (set CC" in caplog.text
    layer = Linear(3, 2)
    assert torch.equal(layer(torch.ones(4, 3)), torch.nn.functional.linear(torch.ones(4, 3), layer.weight))


def test_a_source_that_does_not_compile_shows_the_compilers_words(fresh, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    (tmp_path / "broken.c").write_text("int f( {")
    assert library() is None
    assert "broken.c:1" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(fresh, caplog):
    fresh.write_text("not a folder")
    assert library() is None
    assert str(fresh) in caplog.text


def test_eager_switches_them_off_and_on_again():
    before = usable(torch.ones(1))
    with pytest.raises(KeyError), eager():
        assert not usable(torch.ones(1))
        raise KeyError
    assert usable(torch.ones(1)) == before
