"""Which policies can be divided over devices, and how."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Phi3Config

from lgrpo_lightning.distributed.tensor_parallel import PARTIAL, make_plan, read_plan
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.lora import Lora
from tests.models import SMALL


def policy(folder: Path, **options: object) -> Policy:
    return Policy(PolicyConfig(path=str(folder), **options))  # type: ignore[arg-type]


def test_plan_of_every_layer(model_folder: Callable[..., Path]) -> None:
    styles = make_plan(policy(model_folder("qwen3")), 2)
    layer = {name.removeprefix("model.layers.1."): s for name, s in styles.items() if ".1." in name}
    assert layer == {
        **{f"self_attn.{x}_proj": "colwise" for x in "qkv"},
        **{f"self_attn.{x}_norm": PARTIAL for x in "qk"},
        **{f"mlp.{x}_proj": "colwise" for x in ("gate", "up")},
        "self_attn.o_proj": "rowwise",
        "mlp.down_proj": "rowwise",
    }
    assert len(styles) == 2 * len(layer)  # neither embedding nor head


def test_sizes(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"size is 4, .* 4 attention heads, 2 key-value .* Possible are 1, 2\."):
        make_plan(policy(model_folder("llama")), 4)


def test_models_without_a_plan(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(
        ValueError, match=r"GPT2LMHeadModel cannot be divided: it has no plan. Use tensor_parallel_size: 1"
    ):
        make_plan(policy(model_folder("gpt2")), 2)


def test_plans_of_another_style() -> None:
    model = AutoModelForCausalLM.from_config(Phi3Config(**SMALL))
    with pytest.raises(
        ValueError, match=r"colwise, rowwise, .* \(model.layers.0.self_attn.o_proj: rowwise_split_input"
    ):
        read_plan(model)


def test_what_a_plan_leaves_out_beside_heads(model_folder: Callable[..., Path]) -> None:
    model = policy(model_folder("qwen3")).model
    del model.tp_plan["model.layers.*.self_attn.q_norm"]
    with pytest.raises(ValueError, match=r"self_attn.q_norm: not in it"):
        read_plan(model)


def test_adapters(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"adapter \(policy.lora\) is not divided .* Use tensor_parallel_size: 1"):
        make_plan(policy(model_folder("llama"), lora=Lora()), 2)
