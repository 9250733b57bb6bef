"""``trainer.precision`` in one process, with ddp and with fsdp2: what trains, in which types, and what is refused."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from lgrpo_lightning.distributed.precision import explain_small_step
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.training.policy_module import PolicyModule
from tests.recorded.run import fit, several
from tests.runs import fit as fit_command
from tests.runs import lgrpo
from tests.several import ranks

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Two processes: strategy and precision → outcome."""
    out = tmp_path_factory.mktemp("two") / "outcomes.pt"
    fits = {
        (s, p): {"strategy": s, "steps": 2, "trainer": {"precision": p}} for s in ("ddp", "fsdp2") for p in PRECISIONS
    }
    ranks(2, several, str(out), list(fits.values()))
    return dict(zip(fits, torch.load(out, weights_only=True), strict=True))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process: precision → outcome."""
    root = tmp_path_factory.mktemp("one")
    return {p: fit(root / p, steps=2, trainer={"precision": p}) for p in PRECISIONS}


def check_trained(parameters: dict[str, Tensor], losses: list[float], precision: str, golden: list[float]) -> None:
    wanted = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in parameters.values()} == {wanted}
    before = dict(Policy(PolicyConfig()).named_parameters())
    moved = [not torch.equal(p.float(), before[n].to(wanted).float()) for n, p in parameters.items()]
    assert sum(moved) > (0.7 if precision == "bf16-true" else 0.9) * len(moved)  # bf16 holds norms of 1 where they are
    assert losses == pytest.approx(golden, rel=1e-5 if precision == "32-true" else 0.1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_process(precision: str, one: dict[str, Any]) -> None:
    check_trained(one[precision].parameters, one[precision].losses, precision, one["32-true"].losses)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes(strategy: str, precision: str, one: dict[str, Any], two: dict[tuple[str, str], Any]) -> None:
    outcome = two[strategy, precision]
    check_trained(outcome["parameters"], outcome["losses"], precision, one["32-true"].losses)
    gathered_in_bf16 = precision == "bf16-true" or (strategy, precision) == ("fsdp2", "bf16-mixed")
    assert outcome["computed"] == ("torch.bfloat16" if gathered_in_bf16 else "torch.float32")
    if precision != "32-true":
        assert outcome["losses"] != pytest.approx(one["32-true"].losses, rel=1e-5)


def test_fp16_with_a_scaler(one: dict[str, Any], tmp_path: Path) -> None:
    """On a CPU Lightning takes bf16 for 16-mixed, so its plug-in is given as an object."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    outcome = fit(tmp_path, steps=2, trainer={"plugins": [plugin]})
    check_trained(outcome.parameters, outcome.losses, "16-mixed", one["32-true"].losses)
    assert outcome.norms[0] == pytest.approx(one["32-true"].norms[0], rel=0.05)  # the scale is off again
    assert scaler.get_scale() == 2.0**10


def test_an_overflow_skips_the_step(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    outcome = fit(tmp_path, steps=2, trainer={"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]})
    before = dict(Policy(PolicyConfig()).named_parameters())
    assert all(torch.equal(p, before[n]) for n, p in outcome.parameters.items())
    assert scaler.get_scale() < 2.0**60


def test_bf16_weights_leave_everything_else_in_fp32(tmp_path: Path) -> None:
    """Lightning's plug-in would make bf16 the default type of rewards, log-probs and counts."""
    from lgrpo_lightning.callbacks import RolloutCallback

    seen: dict[str, Any] = {}

    class Look(RolloutCallback):
        def on_rollout_end(self, trainer: Any, pl_module: Any, rollout: Any) -> None:
            group = rollout.groups[0]
            seen["logprobs"] = group.completions[0].logprobs.dtype
            seen["advantages"] = rollout.credits[0].advantages.dtype
            seen["default"] = torch.get_default_dtype()
            scores = pl_module.policy([group.prompt.token_ids], [group.completions[0].token_ids])
            seen["scores"] = scores.logprobs.dtype
            seen["reference"] = {p.dtype for p in pl_module.reference.parameters()}
            rotary = next(b for n, b in pl_module.policy.named_buffers() if n.endswith("inv_freq"))
            seen["rotary"] = rotary.dtype

    fit(tmp_path, free=True, steps=2, trainer={"precision": "bf16-true", "callbacks": [Look()]})
    assert seen.pop("reference") == {torch.bfloat16}
    assert set(seen.values()) == {torch.float32}


def test_casting_a_policy_leaves_its_rotary_frequencies() -> None:
    policy = Policy(PolicyConfig())
    before = {n: b.clone() for n, b in policy.named_buffers()}
    policy.to(torch.bfloat16)
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}
    assert before
    assert all(torch.equal(b, before[n]) for n, b in policy.named_buffers())


def test_a_rate_too_small_for_bf16_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"learning rate 1e-07 changes about \d% of the weights.*bf16-mixed"):
        fit_command(
            tmp_path / "small",
            trainer__precision="bf16-true",
            model__optimizer__init_args__lr=1e-7,
            trainer__max_steps=1,
        )


def test_share_of_weights_that_move() -> None:
    weights = torch.nn.Parameter((torch.randn(20_000) * 0.02).bfloat16())
    small = explain_small_step([weights], 1e-6) or ""
    share = float((weights + 1e-6 != weights).float().mean())
    assert f"about {share:.0%} of the weights" in small
    enough = float(small.partition("a learning rate of about ")[2].rstrip("."))
    assert 0.45 < float((weights + enough != weights).float().mean()) < 0.9
    assert explain_small_step([weights], 1e-3) is None
    assert explain_small_step([torch.nn.Parameter(weights.detach().float())], 1e-6) is None


@pytest.mark.parametrize(("rates", "warns"), [((1e-3, 1e-7), False), ((1e-7, 1e-8), True)])
def test_the_highest_rate_counts(rates: tuple[float, float], warns: bool) -> None:
    policy = torch.nn.Linear(100, 100).bfloat16()
    groups = [{"params": [p], "lr": rate} for p, rate in zip(policy.parameters(), rates, strict=True)]
    trainer = SimpleNamespace(optimizers=[torch.optim.SGD(groups)], world_size=1)
    module: Any = SimpleNamespace(policy=policy, reference=None, trainer=trainer)
    with pytest.warns(UserWarning, match="learning rate 1e-07") if warns else nullcontext():
        PolicyModule.on_fit_start(module)


REFUSED = [
    ({"trainer__precision": "16-true"}, "16-mixed or bf16-true"),
    ({"trainer__precision": "64-true"}, "Use one of: 32-true, bf16-mixed, bf16-true, 16-mixed"),
    (
        {"trainer__precision": "16-mixed"},
        "needs a GPU; Lightning would put bf16-mixed in its place. Use bf16-mixed",
    ),
    ({"trainer__precision": "16-mixed", "trainer__strategy": "fsdp2"}, "trainer.strategy: ddp"),
    ({"trainer__precision": "bf16-mixed", "model__policy__dtype": "bfloat16"}, "policy.dtype: float32"),
    ({"trainer__precision": "bf16-true", "model__policy__dtype": "float16"}, "Leave policy.dtype out"),
    ({"model__policy__dtype": "float16"}, "trainer.precision: 16-mixed"),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(changes: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lgrpo("fit", tmp_path, **changes) == 2
    assert says in capsys.readouterr().err


def test_fused_optimizers_do_not_fit_a_scaler(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="fused: false"):
        fit(
            tmp_path,
            optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
            trainer={"plugins": [plugin]},
        )
