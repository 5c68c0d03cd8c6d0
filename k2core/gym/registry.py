"""The environments by name: the modules of `k2core/gym/environments`, the data sets that the recipe names, and the
tool tasks (`tool_call.py`)."""

from __future__ import annotations

from k2core.gym.base import Environment
from k2core.gym.data_sets import DataSetEnvironment
from k2core.gym.judging import NO_MODELS, Models
from k2core.gym.named import faithfulness, harbor, instructions, safety, verifiers
from k2core.gym.settings import NO_DATA_SETS, GymConfig
from k2core.recipe import modules_in


def text_environments(gym: GymConfig = NO_DATA_SETS, models: Models = NO_MODELS) -> dict[str, Environment]:
    """The environments that need no files."""
    made: list[Environment] = [module.make() for module in modules_in("k2core.gym.environments").values()]
    made += [DataSetEnvironment(name, each.max_new_tokens, each.config) for name, each in gym.reasoning_gym.items()]
    made += [*instructions.make(gym.instructions, models), *faithfulness.make(gym.faithfulness, models)]
    made += [*verifiers.make(gym.verifiers, models), *harbor.make(gym.harbor, models)]
    made += safety.make(gym.safety, models)
    return {environment.name: environment for environment in made}


def select(environments: dict[str, Environment], names: dict[str, int], where: str) -> dict[str, int]:
    """`names` as given, checked.

    Raises:
        ValueError: a name is not an environment.
    """
    unknown = sorted(set(names) - set(environments))
    if unknown:
        raise ValueError(f"{where}: no environment {', '.join(unknown)}; there are {', '.join(sorted(environments))}")
    return names
