"""Prompts for training, validation, test and prediction."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.contracts import PromptSource, RandomKey
from lgrpo_lightning.data.curriculum import Curriculum, PassRates
from lgrpo_lightning.data.encoding import LongPrompts, PromptEncoder, check_columns
from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.data.row_columns import check_template_kwargs
from lgrpo_lightning.data.sizes import check_prompts_per_step, limited
from lgrpo_lightning.data.sources import all_rows, check_row, named_sources
from lgrpo_lightning.data.stream import PromptStream, check_streamed_run
from lgrpo_lightning.distributed.component_call import component_call
from lgrpo_lightning.distributed.ranks import data_rank
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.run_folder.plain import digest_prompts
from lgrpo_lightning.types import Prompt

STAGES: Mapping[str, tuple[str, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}
"""Stage of a run → the sets it reads; all but the validation set of a fit must be given."""


class PromptDataModule(LightningDataModule):
    """Reads prompts, renders and tokenises them for the model, and serves them in batches.

    Every set is a prompt source by class name (``ArithmeticTasks``, ``PromptFile``) or a path, which is
    short for ``PromptFile``: a ``.jsonl``, ``.parquet`` or ``.csv`` file, a saved or a hub data set.
    All columns but the prompt reach the rewards.

    Args:
        train: Training prompts.
        validation: Validation prompts, or several sets by name.
        test: Prompts of ``lgrpo test``, or several sets by name.
        predict: Prompts of ``lgrpo predict``, or several sets by name.
        prompts_per_step: Prompts of a rollout over all devices together.
        validation_batch_size: Prompts of a validation, test or prediction batch over all devices together.
        shuffle: Draw a new order of the training prompts each epoch.
        seed: Draws the orders; null for the run's seed (``seed_everything``).
        curriculum: Draw training prompts by their running pass rates; null: each once an epoch.
        system_prompt: First message of every chat that does not bring its own.
        chat: Render prompts with the chat template: all (true), none (false), only lists of messages (null).
        prefill: Completions go on with an assistant's last message; false: a prompt that ends with one is refused.
        chat_template_kwargs: More arguments of the chat template, such as ``enable_thinking`` or ``tools``.
        max_prompt_length: Longest prompt, in tokens; null for what completions leave of the model's context.
        long_prompts: What to do with longer prompts: "error", or "drop" to leave them out.
        on_change: Where a resumed run finds other prompts than the checkpoint was made with: "say" it and go on, or
            "error" to refuse.

    Raises:
        ValueError: An argument is out of range; the message says which and what is possible.
    """

    def __init__(
        self,
        train: PromptSource | str | None = None,
        validation: PromptSource | str | dict[str, PromptSource | str] | None = None,
        test: PromptSource | str | dict[str, PromptSource | str] | None = None,
        predict: PromptSource | str | dict[str, PromptSource | str] | None = None,
        prompts_per_step: int = 16,
        validation_batch_size: int = 64,
        shuffle: bool = True,
        seed: int | None = None,
        curriculum: Curriculum | None = None,
        system_prompt: str | None = None,
        chat: bool | None = None,
        prefill: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
        max_prompt_length: int | None = None,
        long_prompts: LongPrompts = "error",
        on_change: Literal["say", "error"] = "say",
    ) -> None:
        super().__init__()
        check_template_kwargs(chat_template_kwargs or {})
        require(
            "data.",
            locals(),
            (prompts_per_step >= 1, "prompts_per_step", "at least 1"),
            (validation_batch_size >= 1, "validation_batch_size", "at least 1"),
            (seed is None or seed >= 0, "seed", "at least 0, or null"),
            (max_prompt_length is None or max_prompt_length >= 1, "max_prompt_length", "at least 1, or null"),
            (long_prompts in ("error", "drop"), "long_prompts", "'error' or 'drop'"),
            (on_change in ("say", "error"), "on_change", "'say' or 'error'"),
        )
        if curriculum is not None and not shuffle:
            raise UserError(
                "data.shuffle is false, but data.curriculum draws the prompts. Set shuffle: true."
            )
        if chat_template_kwargs is not None:
            mapped("data.chat_template_kwargs", chat_template_kwargs)
        self.sources: dict[str, dict[str, PromptSource]] = {
            "train": named_sources("train", train),
            "validation": named_sources("validation", validation),
            "test": named_sources("test", test),
            "predict": named_sources("predict", predict),
        }
        self.streamed = any(source.streaming for source in self.sources["train"].values())
        for which, named in self.sources.items():
            if which != "train" and any(source.streaming for source in named.values()):
                raise UserError(f"data.{which} is read whole: leave streaming out, it is for data.train.")
        if self.streamed and curriculum is not None:
            raise UserError(
                "data.curriculum draws from all prompts by their pass rates, and data.train has streaming: true. Leave "
                "one of them out."
            )
        self.prompts_per_step, self.validation_batch_size = prompts_per_step, validation_batch_size
        self.shuffle, self.seed, self.curriculum = shuffle, seed, curriculum
        self.pass_rates: PassRates | None = None
        self.system_prompt, self.chat, self.prefill = system_prompt, chat, prefill
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.max_prompt_length, self.long_prompts = max_prompt_length, long_prompts
        self.on_change = on_change
        self.fingerprints: dict[str, dict[str, str]] = {}
        self.prompts: dict[str, dict[str, list[Prompt]]] = {}
        self._train_loader: PromptLoader | PromptStream | None = None
        self._resumed_state: dict[str, Any] = {}

    @property
    def validation_names(self) -> tuple[str, ...]:
        """Names of the validation sets, in the order of their loaders; a single one is "validation"."""
        return tuple(self.sources["validation"])

    @property
    def test_names(self) -> tuple[str, ...]:
        """Names of the test sets, in the order of their loaders; a single one is "test"."""
        return tuple(self.sources["test"])

    @property
    def predict_names(self) -> tuple[str, ...]:
        """Names of the prediction sets, in the order of their loaders; a single one is "predict"."""
        return tuple(self.sources["predict"])

    @property
    def longest_sequence(self) -> int:
        """Most tokens that a prompt of the sets that were read, or may be of a stream, and its completion have."""
        module = self._trainer.lightning_module
        sets = (prompts for named in self.prompts.values() for prompts in named.values())
        longest = max((len(p.token_ids) for prompts in sets for p in prompts), default=0)
        if self.streamed and self._trainer.state.fn == "fit":
            longest = self._max_length(module)
        return longest + int(module.sampling.max_new_tokens)

    def setup(self, stage: str) -> None:
        """Read and encode the sets of ``stage``.

        Raises:
            ValueError: A set is missing or empty, a prompt is malformed or too long, a column that a reward
                needs is missing, or the batch sizes do not fit; the message names the place.
        """
        for which in STAGES[stage]:
            if not self.sources[which] and (stage, which) != ("fit", "validation"):
                raise UserError(
                    f"data.{which} is not set, and `lgrpo {getattr(stage, 'value', stage)}` needs it: a path, "
                    "or a prompt source such as ArithmeticTasks."
                )
            if not (which == "train" and self.streamed):
                self.prompts[which] = {
                    name: self._encoded(name, s) for name, s in self.sources[which].items()
                }
        self.fingerprints = {
            "data.train" if which == "train" else f"data.{which} ({name})": digest_prompts(prompts)
            for which in STAGES[stage]
            for name, prompts in self.prompts.get(which, {}).items()
        }
        if stage == "fit":
            self._train_loader, self._resumed_state = None, {}
            self.pass_rates = self._fresh_pass_rates()
            check_prompts_per_step(
                self.prompts_per_step,
                world_size=data_rank(self._trainer).size,
                mini_batches=getattr(
                    getattr(self._trainer.lightning_module, "updates", None), "mini_batches", 1
                ),
                prompts=None if self.streamed else len(self.prompts["train"]["train"]),
            )
            if self.streamed:
                check_streamed_run(self._trainer, validates=bool(self.sources["validation"]))
                return
            count = len(self.prompts["train"]["train"])
            rest = count % self.prompts_per_step
            if rest and not self.shuffle and not self._trainer.overfit_batches:
                rank_zero_warn(
                    f"data.shuffle is false, and the last {rest} of {count} training prompts fill no batch of "
                    f"{self.prompts_per_step} (data.prompts_per_step): they are left out of every epoch. Set shuffle: "
                    "true, under which every epoch leaves out others, or take another number of prompts."
                )

    def train_dataloader(self) -> PromptLoader | PromptStream:
        """Batches of ``prompts_per_step`` prompts over all ranks; an incomplete last one is left out."""
        trainer, data = self._trainer, data_rank(self._trainer)
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed
        limit = trainer.limit_train_batches
        loader: PromptLoader | PromptStream
        if self.streamed:
            source = self.sources["train"]["train"]
            loader = PromptStream(
                source.rows,
                self._row_encoder("train", source),
                self.prompts_per_step,
                rank=data.rank,
                world_size=data.size,
                buffer=source.shuffle_buffer if self.shuffle else None,
                seed=seed,
                limit=limit if isinstance(limit, int) else None,
            )
        else:
            prompts = self.prompts["train"]["train"]
            loader = PromptLoader(
                prompts,
                self.prompts_per_step,
                rank=data.rank,
                world_size=data.size,
                shuffle=self.shuffle and not trainer.overfit_batches,
                seed=seed,
                drop_last=True,
                limit=limited(len(prompts) // self.prompts_per_step, limit),
                weights=None if self.pass_rates is None else self.pass_rates.weights,
            )
        if state := self.state_dict() or self._resumed_state:
            if ("taken" in state) != self.streamed:
                raise UserError(
                    f"The checkpoint was made with streaming: {str(not self.streamed).lower()} of data.train, by which "
                    "its place in the prompts is kept. Set that, or start without --ckpt_path in another "
                    "trainer.default_root_dir."
                )
            loader.load_state_dict(state)
        if self.streamed:
            loader.upcoming(1)  # so that rows that cannot be read are told before the first step
        self._train_loader = loader
        return loader

    def further_prompts(self, count: int, without: set[str]) -> list[Prompt]:
        """At most ``count`` training prompts beside the last batch's, without those of the given uids.

        The same on every rank. The order of the epoch stays as it is; a stream gives its next ones, once.
        """
        return [] if self._train_loader is None else self._train_loader.further(count, without)

    def upcoming_prompts(self, count: int) -> list[tuple[int, list[Prompt]]]:
        """The ``count`` training batches after the last one; fewer where the epochs end.

        Returns:
            (epochs from this one, prompts of this rank) of each.
        """
        trainer, loader = self._trainer, self._train_loader
        limit = trainer.max_epochs
        epochs = None if limit is None or limit < 0 else max(0, limit - trainer.current_epoch - 1)
        return [] if loader is None else loader.upcoming(count, epochs)

    def state_dict(self) -> dict[str, Any]:
        """The place in the training prompts, and their pass rates. Lightning forgets its own copy at an epoch's end."""
        rates = {} if self.pass_rates is None else self.pass_rates.state_dict()
        loader = self._train_loader
        return {} if loader is None else loader.state_dict() | rates | {"fingerprints": self.fingerprints}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the training prompts at a saved place.

        Raises:
            ValueError: They are others, and ``on_change`` is "error".
        """
        self._resumed_state = state_dict
        self._compare(state_dict.get("fingerprints", {}))
        if self.pass_rates is not None:
            self.pass_rates.load_state_dict(state_dict)

    def _compare(self, before: Mapping[str, Mapping[str, str]]) -> None:
        """Say, or refuse, prompts that are others than those of a checkpoint."""
        changed = []
        for name, now in self.fingerprints.items():
            if (was := before.get(name, now)) != now:
                same = was["content"] == now["content"]
                changed.append(
                    f"{name} has {'the same prompts in another order' if same else 'other prompts'}"
                )
        if not changed:
            return
        text = f"{'; '.join(changed)}: other data than the checkpoint was made with."
        if self.on_change == "error":
            raise UserError(
                f"{text} Give the run its data again, set data.on_change: say, or start without --ckpt_path in another "
                "trainer.default_root_dir."
            )
        rank_zero_warn(
            f"{text} The run goes on at the checkpoint's place in them (data.on_change: error refuses it)."
        )

    def val_dataloader(self) -> list[PromptLoader]:
        """One loader per validation set, in the order of ``validation_names``."""
        if not self.validation_names:
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return self._loaders("validation")

    def test_dataloader(self) -> list[PromptLoader]:
        """One loader per test set, in the order of ``test_names``."""
        return self._loaders("test")

    def predict_dataloader(self) -> list[PromptLoader]:
        """One loader per prediction set, in the order of ``predict_names``."""
        return self._loaders("predict")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> list[Prompt]:
        """The batch as a list of prompts; they hold no tensors."""
        return list(batch)

    @property
    def _trainer(self) -> Any:
        if self.trainer is None:
            raise UserError("PromptDataModule needs a trainer: prompts are encoded for the model of a run.")
        return self.trainer

    def _fresh_pass_rates(self) -> PassRates | None:
        """Of the training prompts; None without a curriculum, or where a run trains on the same few batches."""
        if self.curriculum is None or self._trainer.overfit_batches:
            return None
        return PassRates(self.curriculum, [prompt.uid for prompt in self.prompts["train"]["train"]])

    def _loaders(self, which: str) -> list[PromptLoader]:
        data = data_rank(self._trainer)
        return [
            PromptLoader(prompts, self.validation_batch_size, rank=data.rank, world_size=data.size)
            for prompts in self.prompts[which].values()
        ]

    def _encoder(self) -> PromptEncoder:
        module = self._trainer.lightning_module
        return PromptEncoder(
            tokenizer=module.tokenizer,
            max_length=self._max_length(module),
            long_prompts=self.long_prompts,
            chat=self.chat,
            system_prompt=self.system_prompt,
            prefill=self.prefill,
            chat_template_kwargs=self.chat_template_kwargs,
            vocabulary=getattr(module, "vocabulary_size", None),
        )

    def _column_check(self, origin: str) -> Callable[..., None]:
        """``check_columns`` for what the rewards of the run need; takes rows, and the number of the first."""
        module = self._trainer.lightning_module
        readers = getattr(getattr(module, "reward_model", None), "models", ())
        return partial(
            check_columns,
            required=getattr(getattr(module, "reward_model", None), "columns", ()),
            origin=origin,
            readers={column: model.name for model in readers for column in model.columns},
            check=getattr(getattr(module, "reward_model", None), "check_row", None),
        )

    def _row_encoder(
        self, name: str, source: PromptSource
    ) -> Callable[[Mapping[str, Any], int], Prompt | None]:
        """Makes prompts of single rows, checked like those of a set."""
        encoder, origin = self._encoder(), _origin(source)
        check = self._column_check(origin)

        def encode(row: Mapping[str, Any], number: int) -> Prompt | None:
            check_row(row, number, origin)
            check([row], first=number)
            return encoder.encode_row(row, number, name=name, origin=origin)

        return encode

    def _encoded(self, name: str, source: PromptSource) -> list[Prompt]:
        """The prompts of one set, checked against what the model and its rewards need."""
        encoder, origin = self._encoder(), _origin(source)
        with component_call(RandomKey(0, "data", 0), name):
            rows = all_rows(source.rows(), origin)
        self._column_check(origin)(rows)
        prompts = encoder.encode(rows, name=name, origin=origin)
        if dropped := len(rows) - len(prompts):
            rank_zero_warn(
                f"{origin}: {dropped} of {len(rows)} prompts left out: over {encoder.max_length} tokens."
            )
        return prompts

    def _max_length(self, module: Any) -> int:
        """Most tokens of a prompt, so that it and its completion fit the model's context."""
        new, context = module.sampling.max_new_tokens, module.context_length
        if new >= context:
            raise UserError(
                f"sampling.max_new_tokens is {new}, but the model's context is {context}, which prompt "
                f"and completion share. Use less than {context}."
            )
        return int(min(context - new, self.max_prompt_length or context))


def _origin(source: PromptSource) -> str:
    return str(getattr(source, "path", type(source).__name__))
