"""Runs whose layers are compiled are those whose layers are not, and resume exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.compiled_layers import compile_forward
from lgrpo_lightning.training import layer_compilation
from lgrpo_lightning.training.batch_scorer import BatchScorer
from tests.architectures.trial import write_model
from tests.losses.stub_policy import drawn
from tests.runs import checkpoint, fit, lgrpo, train_metrics
from tests.several import main, ranks

RUN = {"trainer__max_steps": 4, "model__updates__iterations": 2, "model__objective__kl_coef": 0.04}

ONE = {"trainer__max_steps": 1}


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Layers are captured as graphs, which run as they are; compiled in slow tests."""
    torch._dynamo.reset()
    compile_forward.cache_clear()
    counters.clear()
    torch.compiler.set_default_backend(getattr(request, "param", "eager"))
    yield
    torch.compiler.set_default_backend(None)
    compile_forward.cache_clear()


def largest_difference(a: Path, b: Path) -> float:
    left, right = (checkpoint(root)["state_dict"] for root in (a, b))
    return max(float((x - right[name]).abs().max()) for name, x in left.items())  # type: ignore[attr-defined, index]


@pytest.mark.long
def test_a_run(tmp_path: Path) -> None:
    options = ONE | {"model__policy__layout": "prefix"}
    compiled = fit(tmp_path / "compiled", **options, model__policy__compile="layers")
    assert counters["stats"]["unique_graphs"] > 0
    assert largest_difference(compiled, fit(tmp_path / "eager", **options)) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)], indirect=True)
def test_a_run_and_one_that_is_resumed(tmp_path: Path) -> None:
    options = RUN | {"model__policy__layout": "tree", "model__policy__compile": "layers"}
    whole = fit(tmp_path / "whole", **options)
    assert counters["stats"]["unique_graphs"] > 0
    half = fit(tmp_path / "half", **options | {"trainer__max_steps": 2})
    torch._dynamo.reset()  # as in a new process
    assert largest_difference(whole, fit(half, **options, ckpt_path="last")) == 0
    eager = fit(tmp_path / "eager", **options | {"model__policy__compile": "none"})
    assert largest_difference(whole, eager) < 1e-5
    for name in ("loss", "grad_norm", "kl"):
        torch.testing.assert_close(
            train_metrics(whole)[name].tolist(), train_metrics(eager)[name].tolist(), rtol=1e-3, atol=1e-6
        )


def test_layers_with_other_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``layers`` stops the run; ``auto`` goes on with a warning, and on a CPU compiles nothing."""

    def double(model: Any) -> None:
        model.get_output_embeddings().weight.data.mul_(2)

    fit(tmp_path / "cpu", **ONE, model__policy__compile="auto")
    monkeypatch.setattr(layer_compilation, "compile_layers", double)
    assert lgrpo("fit", tmp_path / "layers", **ONE, model__policy__compile="layers") == 2
    assert re.search(r"differ by .* Set\s+model\.policy\.compile: none", capsys.readouterr().err)
    monkeypatch.setattr(layer_compilation, "compiles_on", lambda device: True)
    with pytest.warns(UserWarning, match=r"is 'auto', but .* differ by .* The layers of this run are not compiled"):
        fit(tmp_path / "auto", **ONE, model__policy__compile="auto")


def test_layers_that_fail_leave_no_gradient(model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[None] = []

    def fail_later(model: Any) -> None:
        def count(*_: Any) -> None:
            passes.append(None)
            if len(passes) > 3:
                raise RuntimeError("no such kernel")

        model.model.layers[0].register_forward_pre_hook(count)

    monkeypatch.setattr(layer_compilation, "compile_layers", fail_later)
    monkeypatch.setattr(layer_compilation, "compiles_on", lambda device: True)
    policy = Policy(PolicyConfig(path=str(model_folder()), compile="auto"))
    scorer = BatchScorer(policy=policy, ranks=Ranks(), temperature=1.0)
    compilation = layer_compilation.LayerCompilation()
    with pytest.warns(UserWarning, match=r"cannot be computed \(RuntimeError: no such kernel\)"):
        compilation.prepare(scorer, None, drawn(rows=4).batch(), lambda loss, last: loss.backward())
    assert compilation.refused
    assert len(passes) == 4  # the gradient of the first pass was there
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_the_graphs_of_the_load_balancing_loss_are_made_before_training(tmp_path: Path) -> None:
    write_model("qwen3_moe", tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path), compile="layers", layout="padded", dtype="bfloat16"))
    scorer = BatchScorer(policy=policy, ranks=Ranks(), temperature=1.0)
    rows = [[5] * 9] * 2 + [[6] * 7] * 2, [[9, 10, 11] * 3, [12] * 5, [13, 14] * 2, [9] * 8]
    batch = drawn(rows=4).batch()
    eager = policy(*rows, with_router_loss=True).router_loss
    layer_compilation.LayerCompilation().prepare(
        scorer, None, batch, lambda loss, last: loss.backward(), with_router_loss=True
    )
    assert counters["stats"]["unique_graphs"] > 0
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(policy(*rows, with_router_loss=True).router_loss, eager)


def run_with_backend(name: str | None, words: list[list[str]]) -> None:
    """Be several commands of ``lgrpo``; their processes do not have the backend that the fixture sets."""
    torch.compiler.set_default_backend(name)
    main(words)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_sharded_layers(name: str, tmp_path: Path) -> None:
    from tests.integration.test_fsdp2 import command, weights

    arguments = {"model__policy__layout": "padded", "trainer__max_steps": 2}
    words = [
        command("fit", tmp_path / "compiled", **arguments, model__policy__compile="layers"),
        command("fit", tmp_path / "eager", **arguments),
    ]
    ranks(2, run_with_backend, name, [[str(word) for word in run] for run in words], seconds=900)
    a, b = weights(tmp_path / "compiled"), weights(tmp_path / "eager")
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5
