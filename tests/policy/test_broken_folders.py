"""Folders of models and adapters with a weight too few, an odd value or half a file: the message says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.end_of_sequence import list_eos_token_ids
from lgrpo_lightning.policy.export import export
from lgrpo_lightning.policy.loading import load_model, load_tokenizer
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.policy.verification import verify
from tests.architectures.__main__ import model_types
from tests.architectures.trial import NOT_TRIED, write_model
from tests.models import make_model, tokenizer
from tests.policy.test_policy import rows

PEFT = "adapter_model.safetensors"
Change = Callable[[Path], object]


def entry(file: str, **changes: Any) -> Change:
    """Other entries in a JSON file."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(change: Callable[[dict[str, Any]], dict[str, Any]], file: str = "model.safetensors") -> Change:
    """Other weights in a file."""
    return lambda folder: save_file(change(load_file(folder / file)), folder / file, {"format": "pt"})


def cut(file: str) -> Change:
    """Half of a file."""
    return lambda folder: (folder / file).write_bytes((content := (folder / file).read_bytes())[: len(content) // 2])


def with_nan(found: dict[str, Any]) -> dict[str, Any]:
    """NaN in the last weight."""
    found[max(found)][0] = torch.nan
    return found


def bad_pattern(folder: Path) -> None:
    """A tokenizer with a regular expression that is none."""
    split = {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}
    entry("tokenizer.json", pre_tokenizer=split)(folder)


def as_pickle(folder: Path) -> None:
    """An adapter's weights as ``adapter_model.bin``."""
    path = folder / PEFT
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()


MODELS: dict[str, tuple[Change, str]] = {
    "layers": (weights(lambda w: {n: t for n, t in w.items() if ".1." not in n}),
               r"lacks weights of the model: model.layers.1.input_layernorm.weight, .* and 6 more"),
    "shape": (weights(lambda w: w | {"lm_head.weight": torch.ones(3, 64)}), r"lm_head.weight \[3, 64\] for \[44, 64\]"),
    "NaN": (weights(with_nan), "holds NaN or infinity: model.norm.weight"),
    "cut": (cut("model.safetensors"), "SafetensorError.* A file is cut"),
    "end": (entry("generation_config.json", eos_token_id="</s>"), "generation config has eos_token_id '</s>'"),
    "dtype": (entry("config.json", dtype="float12"), "no attribute 'float12'"),
    "activation": (entry("config.json", hidden_act="swooosh"), "KeyError: 'swooosh'"),
    "rope": (entry("config.json", rope_scaling={"type": "spiral", "factor": 2.0}), "KeyError: 'spiral'"),
    "heads": (entry("config.json", num_attention_heads=3), "not a multiple of the number of attention heads"),
    "pattern": (bad_pattern, "Oniguruma error: premature end"),
}  # fmt: skip
ADAPTERS: dict[str, tuple[Change, str]] = {
    "no name fits": (weights(lambda w: {n.replace("layers", "h"): t for n, t in w.items()}, PEFT),
                     r"lacks weights of the model: .*down_proj.lora_A.default.weight, .* and 25 more"),
    "one too many": (weights(lambda w: w | {max(w).replace("layers.1", "layers.7"): torch.ones(2, 2)},
                             PEFT), "has no place for: model.layers.7"),
    "rank": (entry("adapter_config.json", r=5), r"another shape than .*: .* \[2, 96\] for \[5, 96\]"),
    "NaN": (weights(with_nan, PEFT), "holds NaN or infinity: .*v_proj.lora_B"),
    "cut": (cut(PEFT), "no adapter can be read there .SafetensorError"),
    "pickle": (as_pickle, "no adapter can be read there .FileNotFoundError"),
    "kind": (entry("adapter_config.json", peft_type="FOO"), "no adapter can be read there .KeyError: 'FOO'"),
    "broken pattern": (entry("adapter_config.json", target_modules="(["), "can be read there .error: unterm"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_models(case: str, tmp_path: Path) -> None:
    change, said = MODELS[case]
    change(make_model("llama", tmp_path))
    config = PolicyConfig(path=str(tmp_path))
    with pytest.raises(ValueError, match=rf"^policy.path is '{tmp_path}'.*{said}"):
        (list_eos_token_ids(config, load_tokenizer(config)), load_model(config))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and an adapter of it."""
    folder = tmp_path_factory.mktemp("model")
    policy = Policy(PolicyConfig(path=str(make_model("llama", folder / "base")), lora=Lora(rank=2)))
    export(policy, tokenizer(), folder / "adapter", adapter=True)
    return folder / "base", folder / "adapter"


def copied(folder: Path, to: Path) -> Path:
    """The files of a folder in another one."""
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(case: str, adapter: tuple[Path, Path], tmp_path: Path) -> None:
    change, said = ADAPTERS[case]
    change(copied(adapter[1], tmp_path))
    with pytest.raises(ValueError, match=rf"^policy.lora.from_adapter is '{tmp_path}'.*{said}"):
        load_model(PolicyConfig(path=str(adapter[0]), lora=Lora(from_adapter=str(tmp_path))))


def test_targets_that_are_a_regular_expression(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    weights(lambda w: {n: t for n, t in w.items() if "q_proj" in n}, PEFT)(copied(adapter[1], tmp_path))
    entry("adapter_config.json", target_modules=r".*\.q_proj")(tmp_path)
    model = load_model(PolicyConfig(path=str(adapter[0]), lora=Lora(from_adapter=str(tmp_path))))
    assert sum("lora_A" in n for n, _ in model.named_parameters()) == 2
    with pytest.raises(ValueError, match=r"lora.targets is \['v_proj'\], but the adapter .* Leave it out"):
        PolicyConfig(lora=Lora(from_adapter=str(tmp_path), targets=["v_proj"]))


def test_finite_weights_that_overflow(tmp_path: Path) -> None:
    weights(lambda w: w | {"lm_head.weight": w["lm_head.weight"].sign() * 3e38})(make_model("llama", tmp_path))
    with pytest.raises(ValueError, match="for logits, though its weights are finite: numbers overflow in"):
        verify(Policy(PolicyConfig(path=str(tmp_path))), *rows())


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(set(model_types()) - set(NOT_TRIED)))
def test_no_architecture_lacks_weights(model_type: str, tmp_path: Path) -> None:
    """What is tied or drawn on loading counts as there; ``test_families`` has the quick ones."""
    write_model(model_type, tmp_path)
    assert load_model(PolicyConfig(path=str(tmp_path))) is not None
