"""From the same rollouts every number of processes, strategy, layout and micro-batch gives the same training."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from lgrpo_lightning.policy import PolicyConfig
from tests.recorded.components import recorded
from tests.recorded.record import GOLDEN
from tests.recorded.run import Outcome, fit, several
from tests.reference import naive
from tests.several import ranks

SEVERAL = {"padded": {3: 480, 8: 160}, "tree": {8: 110}, "prefix": {8: 160}}
"""Layout → passes of the first optimizer step in one process → ``micro_batch_tokens`` that give them."""
ROUNDING = {"padded": 1e-6, "tree": 1e-6, "prefix": 3e-6}
"""Relative difference of gradients of one layout; the gradient of a prompt's cache is a sum over completions."""
One = Callable[[str, int], Outcome]
ARITHMETIC = PolicyConfig().resolved_path
STRATEGIES = ("ddp", "fsdp2")


def policy(layout: str, passes: int = 0) -> dict[str, object]:
    return {"layout": layout} | ({"micro_batch_tokens": SEVERAL[layout][passes]} if passes else {})


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> One:
    """One process: layout and number of passes (0: what fits) → outcome."""
    root = tmp_path_factory.mktemp("one")
    return cache(lambda layout, passes: fit(root / f"{layout}{passes}", policy=policy(layout, passes)))


@pytest.fixture(scope="module")
def model(model_folder: Callable[..., Path]) -> str:
    return str(model_folder("llama"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, model: str) -> dict[tuple[str, str], Outcome]:
    """Two processes, started once: strategy and layout (or "free") → outcome."""
    out = tmp_path_factory.mktemp("two") / "outcomes.pt"
    fits = {
        (strategy, layout): {"strategy": strategy, "policy": policy(layout, 8)}
        for strategy in STRATEGIES
        for layout in SEVERAL
    } | {(s, "free"): {"strategy": s, "free": True, "policy": {"path": model}} for s in STRATEGIES}
    ranks(2, several, str(out), list(fits.values()))
    return dict(zip(fits, (Outcome(**o) for o in torch.load(out, weights_only=True)), strict=True))


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def check_same(a: Outcome, b: Outcome, *, gradients: float = 1e-6) -> None:
    assert a.parameters.keys() == b.parameters.keys()
    parameters = (flat(a.parameters) - flat(b.parameters)).abs().max()
    g, h = flat(a.gradients), flat(b.gradients)
    print(f"parameters {parameters:.1e}, first gradient {(g - h).norm() / h.norm():.1e}")
    assert parameters < 5e-6
    assert (g - h).norm() / h.norm() < gradients


def check_golden(outcome: Outcome) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert outcome.losses == pytest.approx(golden["loss"], rel=1e-5, abs=0)
    assert outcome.norms[0] == pytest.approx(golden["grad_norm"][0], rel=1e-5, abs=0)
    assert outcome.norms == pytest.approx(golden["grad_norm"], rel=2e-4, abs=0)


@pytest.mark.long
def test_what_is_replayed_tells_one_run_from_another(one: One, tmp_path: Path) -> None:
    for layout, counts in SEVERAL.items():
        for passes in counts:
            assert passes == one(layout, passes).passes[0]
    assert len({len(c["token_ids"]) for group in recorded().values() for c in group["completions"]}) > 10
    other = fit(tmp_path, objective={"kl_coef": 0.05})
    with pytest.raises(AssertionError):
        check_golden(other)


@pytest.mark.parametrize("layout", SEVERAL)
def test_golden_trajectory(layout: str, one: One) -> None:
    check_golden(one(layout, 0))


@pytest.mark.parametrize(
    ("layout", "passes"),
    [("padded", 3), *(pytest.param(layout, 8, marks=pytest.mark.long) for layout in SEVERAL)],
)
def test_micro_batches(layout: str, passes: int, one: One) -> None:
    check_same(one(layout, passes), one(layout, 0), gradients=ROUNDING[layout])
    check_golden(one(layout, passes))


@pytest.mark.parametrize("layout", ["tree", "prefix"])
def test_layouts(layout: str, one: One) -> None:
    check_same(one(layout, 0), one("padded", 0), gradients=3e-6)


@pytest.mark.long
@pytest.mark.parametrize("layout", SEVERAL)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes(strategy: str, layout: str, one: One, two: dict[tuple[str, str], Outcome]) -> None:
    check_same(two[strategy, layout], one(layout, 0), gradients=ROUNDING[layout])
    check_golden(two[strategy, layout])


@pytest.mark.long
def test_free_running_completions_do_not_depend_on_processes(
    two: dict[tuple[str, str], Outcome], model: str, tmp_path: Path
) -> None:
    alone = fit(tmp_path, free=True, policy={"path": model})
    assert len(alone.completions) == 32
    for strategy in STRATEGIES:
        assert two[strategy, "free"].completions == alone.completions


def test_first_loss_from_the_definition() -> None:
    """λ-GRPO over whole sequences, one at a time: log-probs by the bare model, the rest by loops."""
    bare = AutoModelForCausalLM.from_pretrained(ARITHMETIC).eval()
    total, tokens = 0.0, 0
    for key, group in recorded().items():
        if key.startswith("0/"):
            sequences = [c["token_ids"] for c in group["completions"]]
            logprobs = bare_logprobs(bare, prompt_ids(key), sequences)
            sizes = [len(s) for s in sequences]
            advantage = [[a] * n for a, n in zip(naive.advantages(group["rewards"]), sizes, strict=True)]
            total += sum(sizes) * naive.loss(sequences, logprobs, logprobs, logprobs, advantage, weighted=True)
            tokens += sum(sizes)
    assert total / tokens == pytest.approx(json.loads(GOLDEN.read_text())["loss"][0], rel=1e-5)


def prompt_ids(key: str) -> list[int]:
    from transformers import AutoTokenizer

    text = ArithmeticTasks(count=16).rows()[int(key.rpartition("/")[2])]["prompt"]
    ids: list[int] = AutoTokenizer.from_pretrained(ARITHMETIC)(text)["input_ids"]
    return ids


def bare_logprobs(model: Any, prompt: list[int], sequences: list[list[int]]) -> list[list[float]]:
    rows = []
    for sequence in sequences:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + sequence])).logits[0] / 3.0
        scores = logits[len(prompt) - 1 : -1].log_softmax(-1)
        rows.append([float(scores[t, token]) for t, token in enumerate(sequence)])
    return rows
