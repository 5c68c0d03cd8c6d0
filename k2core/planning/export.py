"""The command: `python -m k2core.planning.export RECIPE --to megatron-bridge|torchtitan --out FOLDER`.

Pre-training of the recipe as a configuration of another trainer: `config_registry.py` with a function for each phase,
and `PHASE/config.json`, the model as Hugging Face's `deepseek_v3`. Data and all that follows pre-training stay here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from k2core.formats.huggingface import huggingface_config
from k2core.model.config import ModelConfig
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.optimizer import OptimizerConfig
from k2core.planning.jobs import EXTENSION, PRETRAIN, keys_of, phase_names
from k2core.recipe import RecipeError, did_you_mean, modules_in, read_recipe, section_of
from k2core.storage import write_json, write_text
from k2core.training.config import ParallelConfig
from k2core.training.phases import Extension, Phase

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
REGISTRY = "config_registry.py"


@dataclass(frozen=True)
class Exported:
    """What of a recipe is exported.

    Attributes:
        phases: name → phase and the model at its context.
    """

    recipe: str
    optimizer: MuonClipConfig
    parallel: ParallelConfig
    phases: dict[str, tuple[Phase, ModelConfig]]

    def rows(self, phase: Phase, shared: int) -> tuple[int, int]:
        """Rows per step, and those that the `shared` processes which share rows handle at once."""
        at_once = max(1, self.parallel.micro_batch_tokens * shared // phase.context_length)
        return phase.batch_tokens // phase.context_length, at_once


def read(path: Path) -> Exported:
    """The pre-training of the recipe at `path`.

    Raises:
        RecipeError: a section is missing or does not fit.
    """
    content = read_recipe(path)
    model = section_of(ModelConfig, content, path, "model")
    phases = {name: (keys_of(Phase, content, path, PRETRAIN, name), model) for name in phase_names(content, path)}
    extension = keys_of(Extension, content, path, EXTENSION)
    phases[EXTENSION] = (extension, model.with_rope_scaling(extension.rope_scaling))
    optimizer: OptimizerConfig = section_of(OptimizerConfig, content, path, "optimizer")  # type: ignore[type-abstract]
    if not isinstance(optimizer, MuonClipConfig):
        raise RecipeError(f"{path}: optimizer.kind = {optimizer.kind}: only muonclip can be exported")
    return Exported(
        _within_docstring(path.name), optimizer, section_of(ParallelConfig, content, path, "parallel"), phases
    )


def _within_docstring(name: str) -> str:
    return name.encode("unicode_escape").decode().replace('"', "'")


@app.command()
def main(
    recipe: Path = typer.Argument(help="a recipe, e.g. recipes/k2.yaml"),
    to: str = typer.Option(help="megatron-bridge or torchtitan"),
    out: Path = typer.Option(help="folder, which becomes a Python package"),
) -> None:
    """Write pre-training of RECIPE as a configuration of another trainer; says what that trainer cannot take over."""
    engines = {name.replace("_", "-"): module for name, module in modules_in("k2core.planning.engines").items()}
    try:
        if to not in engines:
            raise RecipeError(f"--to {to}: no such trainer{did_you_mean(to, engines)}; there are: {', '.join(engines)}")
        found, engine = read(recipe), engines[to]
        write(found, engine.source(found), out)
        print(f"{out}: {found.recipe} for {engine.REFERENCE}; never run there. It does not take over:")
        print("\n".join(f"- {each}" for each in engine.lost(found)))
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def write(found: Exported, source: str, out: Path) -> None:
    """Write the package to `out`.

    Raises:
        RecipeError: a phase has the name of one of its functions.
    """
    names = [each.name for each in ast.parse(source).body if isinstance(each, ast.FunctionDef)]
    if twice := [name for name in found.phases if names.count(name) > 1]:
        raise RecipeError(f"{PRETRAIN}.{twice[0]}: the exported module has a function of that name; rename the phase")
    for name, (_, model) in found.phases.items():
        write_json(out / name / "config.json", huggingface_config(model, eos_token_ids=[], dtype="bfloat16"))
    write_text(out / "__init__.py", "")
    write_text(out / REGISTRY, source)


def literal(values: Mapping[str, object], name: str) -> str:
    """An assignment of `values` to `name`, a key a line."""
    return f"{name} = {{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in values.items()) + "}\n"


if __name__ == "__main__":
    app()
