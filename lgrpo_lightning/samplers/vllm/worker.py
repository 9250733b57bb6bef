"""The worker extension that loads weights; it runs inside vLLM."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from torch import Tensor


class WeightReceiver:
    """Methods added to vLLM's worker (``worker_extension_cls``); called by ``collective_rpc``."""

    def lgrpo_describe(self) -> dict[str, Any]:
        """Which process this is, which weights it has, and what model they are for."""
        config, state = self.vllm_config.model_config, self._lgrpo_state()  # type: ignore[attr-defined]
        lora = self.vllm_config.lora_config  # type: ignore[attr-defined]
        return {
            "boot": state["boot"],
            "version": state["version"],
            "weights": state["weights"],
            "lora_rank": None if lora is None else int(lora.max_lora_rank),
            "model": describe_model(config.hf_config),
            "dtype": str(config.dtype).removeprefix("torch."),
            "max_model_len": int(config.max_model_len),
            "logprobs_mode": str(getattr(config.logprobs_mode, "value", config.logprobs_mode)),
        }

    def lgrpo_load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over (Hugging Face name, tensor) pairs, one at a time; nothing of them is kept."""
        state = self._lgrpo_state()
        state["version"] = state["weights"] = None  # half-loaded weights have no version
        self._lgrpo_forget_experts()
        self.reload_weights(weights_iterator=iter(weights))  # type: ignore[attr-defined]
        self._lgrpo_refresh_heads()
        state["version"] = state["weights"] = version

    def lgrpo_load_folder(self, folder: str, version: int) -> None:
        """Take over the weights that ``write_weights`` left in ``folder``."""
        from lgrpo_lightning.samplers.vllm.weights import read_weights

        self.lgrpo_load(read_weights(folder), int(version))

    def lgrpo_adapt(self, folder: str, number: int, version: int) -> None:
        """Take over the adapter that ``write_adapter`` left in ``folder``, in the place of the one before."""
        from vllm.lora.request import LoRARequest

        self._lgrpo_state()["version"] = None
        self.add_lora(  # type: ignore[attr-defined]
            LoRARequest(lora_name=f"lgrpo-{version}", lora_int_id=number, lora_path=folder, load_inplace=True)
        )
        self.lgrpo_adapted(version)

    def lgrpo_adapted(self, version: int) -> None:
        """Remember that the adapter of this version was taken over."""
        self._lgrpo_state()["version"] = int(version)

    def _lgrpo_forget_experts(self) -> None:
        """Have experts packed again on a CPU: those whose kernel is there already are left as they come."""
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            return
        for module in self.model_runner.get_model().modules():  # type: ignore[attr-defined]
            method: Any = getattr(module, "quant_method", None)
            if getattr(method, "moe_kernel", None) is not None:
                method.moe_kernel = None

    def _lgrpo_refresh_heads(self) -> None:
        """Pack the output heads again on a CPU: a head that is tied to the embedding is not reloaded by itself."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            return
        for module in self.model_runner.get_model().modules():  # type: ignore[attr-defined]
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def _lgrpo_state(self) -> dict[str, Any]:
        # vLLM mixes this class into its worker and calls no __init__ of it
        if "_lgrpo" not in self.__dict__:
            self.__dict__["_lgrpo"] = {"boot": uuid.uuid4().hex, "version": None, "weights": None}
        state: dict[str, Any] = self.__dict__["_lgrpo"]
        return state


SIGNATURE = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def describe_model(config: Any) -> dict[str, Any]:
    """What two Hugging Face configurations must share for the weights of one to fit the other."""
    text = config.get_text_config()
    return {name: value for name in SIGNATURE if (value := getattr(text, name, None)) is not None}
