"""What verl and slime are handed: our prompts token by token, our rewards, our objective with its gradient.

Where verl is installed it is the real one. slime wants Megatron and its own SGLang; of it, and of verl where that is
not installed, the few functions that the plug-ins call are written down here.
"""

import asyncio
import importlib.util
import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from test_loop import Watched, gradients, micro_model
from typer.testing import CliRunner
from untrained import export_untrained
from workspace import ROOT

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import assign_splits, plain_tools
from k2core.agentic.tools.specs import write_tools
from k2core.chat.template import encode_dialogue
from k2core.chat.tokenizer import Tokenizer
from k2core.gym.tool_call import all_environments
from k2core.inference.rollouts import encode_prompt
from k2core.recipe.overlay import read_recipe
from k2core.rl.handover.__main__ import app
from k2core.rl.handover.rewards import rewards_of
from k2core.storage import read_table, write_lines

TAU, TEMPERATURE = 0.3, 0.8


@pytest.fixture(scope="module")
def verl(module_patch):
    """The plug-in, on the real verl or on what it calls of it."""
    if importlib.util.find_spec("verl") is None:
        base = ModuleType("verl.experimental.reward_loop.reward_manager.base")
        base.RewardManagerBase = type("RewardManagerBase", (), {})
        core = ModuleType("verl.trainer.ppo.core_algos")
        core.register_policy_loss = lambda name: lambda function: function

        def agg_loss(loss_mat, loss_mask, loss_agg_mode, dp_size=1, global_batch_size=None, **_):
            assert loss_agg_mode == "seq-mean-token-sum"
            rows = (loss_mat * loss_mask).sum(-1)
            said = (loss_mask.sum(-1) > 0).float()
            return (rows * said).sum() / (global_batch_size or said.sum()) * dp_size

        core.agg_loss = agg_loss
        for module in (base, core):
            names = module.__name__.split(".")
            for depth in range(1, len(names)):
                module_patch.setitem(sys.modules, ".".join(names[:depth]), ModuleType(names[depth - 1]))
            module_patch.setitem(sys.modules, module.__name__, module)
    import k2core.rl.handover.verl as plug_in

    yield plug_in
    sys.modules.pop("k2core.rl.handover.verl")


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder written by the command, with the files that it was made of beside it."""
    root = tmp_path_factory.mktemp("handover")
    tools = [tool for domain in domains().values() for tool in plain_tools(domain)]
    tools = assign_splits(tools, {tool.name for tool in tools})
    maker = TaskMaker(
        {tool.name: tool for tool in tools},
        {"single": 0.5, "parallel": 0.15, "chain": 0.1, "ask": 0.1, "none": 0.15},
        0,
    )
    (root / "tasks").mkdir()
    (root / "programs").mkdir()
    write_tools(root / "tasks/tools.jsonl", tools)
    tasks = [maker.task(split, index) for split in ("train", "heldout") for index in range(6)]
    write_lines(root / "tasks/tasks.jsonl", tasks)
    for file in ("problems.jsonl", "repairs.jsonl"):
        write_lines(root / "programs" / file, [])
    export_untrained(root / "model")
    recipe = read_recipe(ROOT / "recipes/laptop.yaml")
    recipe["rl"]["pool"] = {"sort_numbers": 5, "tool_call": 6}
    (root / "params.yaml").write_text(yaml.safe_dump(recipe))
    done = command(root)
    assert done.exit_code == 0, done.output
    return root


def command(root, **other):
    options = {
        "out": "out",
        "recipe": "params.yaml",
        "model": "model",
        "tasks": "tasks",
        "programs": "programs",
    } | other
    words = [word for name, file in options.items() for word in (f"--{name}", str(root / file))]
    return CliRunner().invoke(app, [*words, "--heldout", "3"])


def test_prompts_are_ours_token_by_token(folder):
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(folder / "model"), Tokenizer.load(folder / "model")
    environments = all_environments(folder / "tasks", folder / "programs")
    sizes = {}
    for file, split in (("train", "train"), ("heldout", "heldout")):
        rows = read_table(folder / f"out/{file}.parquet")
        sizes[file] = len(rows)
        for row in rows:
            about = row["extra_info"]
            assert row["data_source"] == about["environment"] and about["split"] == split
            item = environments[about["environment"]].item(about["seed"], split, about["index"])
            ids = theirs.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True)
            ids = ids if isinstance(ids, list) else ids["input_ids"]
            assert tuple(ids) == encode_prompt(ours, item.messages, item.tools)
            assert json.loads(row["reward_model"]["ground_truth"]) == item.gold
    assert sizes == {"train": 11, "heldout": 6}
    page = (folder / "out/README.md").read_text()
    assert "loss_mode=k2" in page and "11 prompts in train.parquet" in page and "rollout.n=8" in page
    assert str(folder) not in "".join(
        file.read_text() for file in (folder / "out").rglob("*") if file.suffix in (".md", ".json")
    )


def replies(folder):
    """For each row of both files: what it is about, the right reply's tokens, and another item's."""
    environments, tokenizer = all_environments(folder / "tasks", folder / "programs"), Tokenizer.load(folder / "model")
    for file in ("train", "heldout"):
        for row in read_table(folder / f"out/{file}.parquet"):
            about = row["extra_info"]
            environment = environments[about["environment"]]
            item = environment.item(about["seed"], about["split"], about["index"])
            prompt = encode_prompt(tokenizer, item.messages, item.tools)
            gold = encode_dialogue(tokenizer, [*item.messages, item.gold], item.tools)[0][len(prompt) :]
            wrong = [*tokenizer.encode("no idea"), tokenizer.im_end_id]
            yield about, gold, wrong, environment.max_new_tokens


def test_rewards_are_those_of_our_loop(folder, monkeypatch):
    rewards, called = rewards_of(folder / "out"), 0
    for about, gold, wrong, budget in replies(folder):
        if len(gold) > budget:  # the untrained tokenizer's tokens are short
            assert rewards.score(about, gold) == rewards.settings.overlong_reward
            roomy = replace(rewards.environments[about["environment"]], max_new_tokens=10**4)
            monkeypatch.setitem(rewards.environments, about["environment"], roomy)
        assert rewards.score(about, gold) == 1.0
        assert rewards.score(about, wrong) == 0.0
        assert rewards.score(about, gold[:-1]) == rewards.settings.overlong_reward < 0
        assert rewards.score(about, []) == rewards.settings.overlong_reward
        called += len(set(gold) & rewards.tokenizer.special_ids) > 1
    assert called, "calls are among them, whose tokens verl's own managers drop"


def test_slime_asks_for_rewards(folder):
    from k2core.rl.handover.slime import reward

    about, gold, wrong, _ = next(replies(folder))
    args = SimpleNamespace(prompt_data=str(folder / "out/train.parquet"))
    for tokens, wanted in ((gold, rewards_of(folder / "out").score(about, gold)), (wrong, 0.0)):
        sample = SimpleNamespace(tokens=[5, 6, *tokens], response_length=len(tokens), metadata=about)
        assert asyncio.run(reward(args, sample)) == wanted


def test_verl_asks_for_rewards(folder, verl):
    about, gold, wrong, _ = next(replies(folder))
    manager = object.__new__(verl.K2Rewards)
    manager.config = SimpleNamespace(data=SimpleNamespace(train_files=[str(folder / "out/train.parquet")]))

    async def asked(tokens):
        manager.loop = asyncio.get_running_loop()
        responses = torch.tensor([*tokens, 0, 0])
        mask = torch.tensor([0, 1, 1] + [1] * len(tokens) + [0, 0])  # padding, prompt, response, padding
        one = SimpleNamespace(
            batch={"responses": responses, "attention_mask": mask}, non_tensor_batch={"extra_info": about}
        )
        return await manager.run_single([one])

    assert asyncio.run(asked(gold)) == {"reward_score": 1.0, "reward_extra_info": {"acc": 1.0}}
    assert asyncio.run(asked(wrong)) == {"reward_score": 0.0, "reward_extra_info": {"acc": 0.0}}


class Batch:
    """An iteration's responses at its second step, when π is no longer π_old; and what our loop made of them."""

    def __init__(self, tmp_path):
        watched = Watched(tmp_path, passes=2, tau=TAU)
        self.model = micro_model()
        self.model.load_state_dict(watched.weights[1])
        self.loss, self.gradients = watched.metrics["loss/policy"] / (2 * TAU), watched.gradients[1]
        self.old, self.gains, self.ids = [], [], []
        for prompt, group in zip(watched.prompts, watched.groups, strict=True):
            mean = sum(rollout.reward for rollout in group) / len(group)
            for rollout in group:
                self.ids.append((torch.tensor(prompt.tokens), torch.tensor(rollout.tokens)))
                self.old.append(torch.tensor(rollout.log_probs))
                self.gains.append(torch.full((len(rollout.tokens),), rollout.reward - mean))

    def logits(self, number):
        prompt, response = self.ids[number]
        return self.model(torch.cat([prompt, response])[None])[0]

    def new(self, number):
        prompt, response = self.ids[number]
        log_probs = (self.logits(number)[len(prompt) - 1 : -1] / TEMPERATURE).log_softmax(-1)
        return log_probs.gather(1, response[:, None])[:, 0]

    def check(self, loss):
        assert float(loss) == pytest.approx(self.loss, rel=1e-4)
        for name, gradient in gradients(self.model).items():
            torch.testing.assert_close(gradient, self.gradients[name], atol=2e-5, rtol=1e-3, msg=name)


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("parts", [1, 4])
def test_verls_loss_and_gradient_are_ours(tmp_path, verl, parts):
    batch, total = Batch(tmp_path), 0.0
    count = len(batch.ids)
    config = SimpleNamespace(
        policy_loss=SimpleNamespace(ppo_kl_coef=TAU), global_batch_info={"dp_size": 1, "global_batch_size": count}
    )
    for part in range(parts):
        numbers = range(part * count // parts, (part + 1) * count // parts)
        mask = padded([torch.ones(len(batch.old[number])) for number in numbers])
        loss, figures = verl.k2_loss(
            padded([batch.old[number] for number in numbers]), padded([batch.new(number) for number in numbers]),
            padded([batch.gains[number] for number in numbers]), mask, "token-mean", config, None,
        )  # fmt: skip
        loss.backward()
        total += float(loss.detach())
    batch.check(total)
    assert figures["actor/log_ratio_abs"] > 0.01


def test_verls_loss_refuses_what_the_objective_does_not_have(verl):
    ones = torch.ones(1, 2)
    config = SimpleNamespace(policy_loss=SimpleNamespace(ppo_kl_coef=0.0), global_batch_info={})
    with pytest.raises(ValueError, match="no importance weights"):
        verl.k2_loss(ones, ones, ones, ones, "token-mean", config, ones)
    with pytest.raises(ValueError, match="must be above 0; set verl's ppo_kl_coef"):
        verl.k2_loss(ones, ones, ones, ones, "token-mean", config, None)


def test_slimes_loss_and_gradient_are_ours(tmp_path, monkeypatch):
    """slime packs responses with their prompts into one row of logits."""
    from k2core.rl.handover.slime import loss

    def get_log_probs_and_entropy(logits, *, args, unconcat_tokens, total_lengths, response_lengths, with_entropy):
        ends, found = torch.tensor(total_lengths).cumsum(0).tolist(), []
        for end, tokens, length in zip(ends, unconcat_tokens, response_lengths, strict=True):
            chosen = (logits[0, end - length - 1 : end - 1] / args.rollout_temperature).log_softmax(-1)
            found.append(chosen.gather(1, tokens[-length:, None])[:, 0])
        return None, {"log_probs": found}

    module = ModuleType("slime.backends.megatron_utils.loss")
    module.get_log_probs_and_entropy = get_log_probs_and_entropy
    for name in ("slime", "slime.backends", "slime.backends.megatron_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = Batch(tmp_path)
    numbers = range(len(made.ids))
    args = SimpleNamespace(rollout_temperature=TEMPERATURE, kl_loss_coef=TAU, use_rollout_logprobs=False)
    batch = {
        "unconcat_tokens": [torch.cat(made.ids[number]) for number in numbers],
        "total_lengths": [sum(map(len, made.ids[number])) for number in numbers],
        "response_lengths": [len(made.ids[number][1]) for number in numbers],
        "log_probs": made.old, "advantages": made.gains, "loss_masks": [torch.ones(len(old)) for old in made.old],
    }  # fmt: skip
    total, told = loss(args, batch, torch.cat([made.logits(number) for number in numbers])[None], sum)
    mean = total / len(numbers)  # as slime divides
    mean.backward()
    made.check(mean.detach())
    assert float(told["loss"]) == pytest.approx(float(total.detach()))
    args.context_parallel_size = 2
    with pytest.raises(ValueError, match="set --context-parallel-size to 1"):
        loss(args, batch, torch.zeros(1, 1, 1), sum)


@pytest.mark.parametrize(
    ("pool", "other", "said"),
    [
        ({"chess": 5}, {}, "no environment chess"),
        ({"sort_numbers": -1, "tool_call": "many"}, {}, "rl.pool"),
        ({"sort_numbers": 5}, {"model": "nowhere"}, "no such tokenizer"),
        ({"sort_numbers": 5}, {"tasks": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_handed_over_is_one_sentence(folder, tmp_path, pool, other, said):
    recipe = yaml.safe_load((folder / "params.yaml").read_text())
    recipe["rl"]["pool"] = pool
    (folder / "other.yaml").write_text(yaml.safe_dump(recipe))
    done = command(folder, recipe="other.yaml", out="other", **other)
    assert done.exit_code == 1 and said in done.stderr and done.stderr.count("\n") == 1
