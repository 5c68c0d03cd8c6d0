"""lm-evaluation-harness: an adapter for our models, and its tasks for several models side by side.

The harness is not among the project's packages. Our models are asked through `K2`, which gives what the harness's own
`hf` gives on our export, in batches; other folders through `hf`, addresses through `local-completions`. Tasks are the
harness's own, by name, which fetch their data sets, or files of yours (`--include`), whose data may lie anywhere.

Shapes: B sequences, T positions, M of them are targets, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import render
from k2core.chat.tokenizer import Tokenizer
from k2core.evals.candidates import candidate_of
from k2core.evals.candidates.export import Export
from k2core.figures.intervals import Z
from k2core.inference.sampler import generate
from k2core.model.transformer import Transformer
from k2core.stage import StageError
from k2core.storage import write_json
from k2core.storage.foreign import one_line

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise StageError("lm-evaluation-harness is not installed; pip install 'lm-eval[api,hf]'") from None

MOST_TOKENS = 8192
"""Of a batch's forward pass, padding included."""
DEFAULT_NEW_TOKENS, SEED = 256, 1234
"""The harness's own."""
FOLDER_BATCH = 16
ADDRESS_SECONDS = 3600
"""For one answer of a server; the harness's 300 would end, and ask again for, a long one of a model on a CPU."""


class K2(TemplateLM):
    """An exported model of ours. Texts may hold control tokens, as for the harness's `hf`.

    An empty context is `<|im_end|>`, the tokenizer's end, which `hf` takes where a tokenizer has no beginning.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, batch_size: int = 64) -> None:
        super().__init__()
        self.model, self.k2, self.batch_size = model, tokenizer, batch_size

    @property
    def eot_token_id(self) -> int:
        return self.k2.im_end_id

    @property
    def max_length(self) -> int:
        """Tokens of context."""
        return self.model.config.max_position_embeddings

    @property
    def tokenizer_name(self) -> str:
        return "k2"

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "k2"

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        text = render(chat_history, add_generation_prompt=add_generation_prompt)
        return text if add_generation_prompt else text.removesuffix(IM_END)

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return self.k2.encode(string, allow_special=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation in nats, and whether greedy decoding would write it."""
        rows = [
            ([*(context or [self.eot_token_id]), *continuation][-(self.max_length + 1) :], len(continuation))
            for _, context, continuation in requests
        ]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
        while order:
            width = len(rows[order[0]][0]) - 1
            count = max(1, min(self.batch_size, MOST_TOKENS // max(1, width)))
            batch, order = order[:count], order[count:]
            for index, answer in zip(batch, self._scored([rows[index] for index in batch], width), strict=True):
                found[index] = answer
        return found

    @torch.inference_mode()
    def _scored(self, rows: list[tuple[list[int], int]], width: int) -> list[tuple[float, bool]]:
        device = self.model.device
        tokens_BT = torch.zeros(len(rows), width, dtype=torch.long)
        wanted_BT = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, (tokens, count) in enumerate(rows):
            tokens_BT[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            wanted_BT[row, max(0, len(tokens) - 1 - count) : len(tokens) - 1] = True
        log_probs_MV = self.model(tokens_BT.to(device), wanted_BT=wanted_BT.to(device)).float().log_softmax(-1)
        targets = [token for tokens, count in rows for token in tokens[1:][-count:]]
        targets_M = torch.tensor(targets, device=device)
        own_M = log_probs_MV.gather(1, targets_M[:, None])[:, 0]
        counts = [int(row.sum()) for row in wanted_BT]
        greedy_M = log_probs_MV.argmax(-1) == targets_M
        return [
            (float(own.sum()), bool(greedy.all()))
            for own, greedy in zip(own_M.split(counts), greedy_M.split(counts), strict=True)
        ]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, cut into windows as the harness cuts it."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for (text,) in [request.args for request in requests]:
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.eot_token_id, max_seq_len=self.max_length,
                context_len=1,
            )  # fmt: skip
            mine = [(None, *make_disjoint_window(window)) for window in cut]
            windows += mine
            counts.append(len(mine))
        scored = iter(self._loglikelihood_tokens(windows))
        return [sum(next(scored)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the request's stops.

        Raises:
            StageError: a task wants longer answers than the model's context holds.
        """
        found: list[str] = [""] * len(requests)
        asked = [(request.args[0], normalize_gen_kwargs(request.args[1], DEFAULT_NEW_TOKENS)) for request in requests]
        alike: dict[tuple[int, float], list[int]] = {}
        for number, (_, given) in enumerate(asked):
            temperature = given.get("temperature", 0.0) if given["do_sample"] else 0.0
            alike.setdefault((given["max_gen_toks"], temperature), []).append(number)
        for (most, temperature), numbers in alike.items():
            room = self.max_length - most
            if room < 1:
                raise StageError(f"a task wants {most} tokens of answer; the model's context has {self.max_length}")
            prompts = [self.tok_encode(asked[number][0])[-room:] or [self.eot_token_id] for number in numbers]
            completions = generate(
                self.model, prompts, max_new_tokens=most, temperature=temperature,
                stop_ids={self.k2.im_end_id, self.k2.eos_id}, seed=SEED, batch_size=self.batch_size,
            )  # fmt: skip
            for number, completion in zip(numbers, completions, strict=True):
                text = self.k2.decode(completion.tokens, skip_special=True)
                found[number] = postprocess_generated_text(text, asked[number][1]["until"], None)
        return found


def backend(given: str) -> tuple[Any, dict[str, Any]]:
    """What the harness asks `given` through, and its arguments.

    An address may name, behind a second `#`, the folder of its model's tokenizer, without which it only generates.
    """
    if given.startswith(("http://", "https://")):
        address, model, tokenizer = (given + "##").split("#")[:3]
        tokens = {"tokenizer": tokenizer} if tokenizer else {"tokenizer_backend": "none"}
        asked = {"base_url": f"{address}/completions", "model": model, "num_concurrent": 8, "timeout": ADDRESS_SECONDS}
        return "local-completions", asked | tokens
    if not given.startswith("hf:") and isinstance(candidate := candidate_of(given), Export):
        return K2(candidate.model, candidate.tokenizer), {}
    loaded = {"pretrained": given.removeprefix("hf:"), "dtype": "float32", "device": "cpu"}
    return "hf", loaded | {"batch_size": FOLDER_BATCH}


def compare(
    models: Sequence[str], tasks: Sequence[str], include: Path | None, chat: bool, items: int, seed: int,
    out: Path | None,
) -> str:  # fmt: skip
    """The tasks' scores of each model, with 95% intervals, as a table.

    Args:
        include: a folder with task files of one's own.
        chat: whether questions are put into the chat template of each model.

    Raises:
        StageError: the harness has no such task, its data cannot be had, or a server does not answer.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(include) if include else None)
    if missing := [task for task in tasks if not manager.match_tasks([task])]:
        raise StageError(f"lm-evaluation-harness has no task {missing[0]}; `lm-eval ls tasks` lists them")
    found = []
    for given in models:
        model, arguments = backend(given)
        try:
            results = simple_evaluate(
                model=model, model_args=arguments, tasks=list(tasks), limit=items, random_seed=seed,
                bootstrap_iters=1000, task_manager=manager, log_samples=False, apply_chat_template=chat,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            raise StageError(f"{', '.join(tasks)} with {given}: {one_line(error)}") from None
        found.append(results["results"])
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "harness.json", dict(zip(models, found, strict=True)))
    return table(models, found)


def table(models: Sequence[str], found: Sequence[dict[str, dict[str, Any]]]) -> str:
    """A line per task and metric, a column per model."""
    lines = ["task, metric".ljust(40) + "".join(name[-23:].rjust(26) for name in models)]
    for task, metrics in found[0].items():
        for metric, value in metrics.items():
            name, _, tail = metric.partition(",")
            if name.endswith("_stderr") or name == "sample_len" or not isinstance(value, int | float):
                continue
            cells = [_cell(one[task][metric], one[task].get(f"{name}_stderr,{tail}")) for one in found]
            lines.append(f"{task}, {name}".ljust(40) + "".join(cell.rjust(26) for cell in cells))
    return "\n".join(lines)


def _cell(value: float, error: Any) -> str:
    if not isinstance(error, int | float):
        return f"{value:.4f}"
    return f"{value:.3f} ({value - Z * error:.3f} to {value + Z * error:.3f})"
