"""Prompts for training, validation, test and prediction."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule

from lgrpo_lightning.contracts import PromptSource, RandomKey
from lgrpo_lightning.data import sizes
from lgrpo_lightning.data.curriculum import Curriculum, PassRates
from lgrpo_lightning.data.encoding import LongPrompts, PromptEncoder
from lgrpo_lightning.data.images import ImageOptions, RowImages, find_base, holds_images
from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.data.row_columns import check_template_kwargs
from lgrpo_lightning.data.set_encoder import SetEncoder
from lgrpo_lightning.data.sources import check_given, check_streaming, compare_prompts, name_sources, read_rows
from lgrpo_lightning.data.stream import PromptStream, check_state, check_streamed_run
from lgrpo_lightning.distributed.component_call import isolate_call
from lgrpo_lightning.distributed.ranks import find_data_rank
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.policy.loading import read_run_seed
from lgrpo_lightning.rollouts.plain import digest_prompts
from lgrpo_lightning.types import Prompt

STAGES: Mapping[str, tuple[str, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
}
"""Stage of a run → the sets it reads; all but the validation set of a fit must be given."""
PEEKED = 100
"""Rows of a stream that say whether it has images."""


class PromptDataModule(LightningDataModule):
    """Reads prompts, renders and tokenises them for the model, and serves them in batches.

    Every set is a prompt source by class name (``ArithmeticTasks``, ``PromptFile``) or a path, which is short for
    ``PromptFile``: a file, a saved or a hub data set. All columns but the prompt reach the rewards.

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
        images: Which images prompts may have.
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
        images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
        on_change: Literal["say", "error"] = "say",
    ) -> None:
        super().__init__()
        require(
            "data.",
            locals(),
            (prompts_per_step >= 1, "prompts_per_step", "at least 1"),
            (validation_batch_size >= 1, "validation_batch_size", "at least 1"),
            (seed is None or seed >= 0, "seed", "at least 0, or null"),
            (max_prompt_length is None or max_prompt_length >= 1, "max_prompt_length", "at least 1, or null"),
            (long_prompts in ("error", "drop"), "long_prompts", "'error' or 'drop'"),
            (on_change in ("say", "error"), "on_change", "'say' or 'error'"),
            (curriculum is None or shuffle, "shuffle", "true beside data.curriculum, which draws the prompts"),
        )
        self.chat_template_kwargs = mapped("data.chat_template_kwargs", chat_template_kwargs or {})
        check_template_kwargs(self.chat_template_kwargs)
        sets = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.sources = {which: name_sources(which, sources) for which, sources in sets.items()}
        self.streamed = check_streaming(self.sources, curriculum=curriculum is not None)
        self.prompts_per_step, self.validation_batch_size = prompts_per_step, validation_batch_size
        self.shuffle, self.seed, self.curriculum = shuffle, seed, curriculum
        self.pass_rates: PassRates | None = None
        self.system_prompt, self.chat, self.prefill = system_prompt, chat, prefill
        self.max_prompt_length, self.long_prompts, self.on_change = max_prompt_length, long_prompts, on_change
        self.images = images
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
    def longest_sequence(self) -> int:
        """Most tokens that a prompt of the sets that were read, or may be of a stream, and its completion have."""
        module, sets = self._trainer.lightning_module, self.prompts.values()
        prompts = (p for named in sets for prompts in named.values() for p in prompts)
        longest = max((len(ids) for p in prompts for ids in (p.token_ids, *p.contexts.values())), default=0)
        if self.streamed and self._trainer.state.fn == "fit":
            longest = sizes.find_max_length(module, self.max_prompt_length)
        return longest + int(module.sampling.max_new_tokens)

    @cached_property
    def _stream_has_images(self) -> bool:
        if not self._takes_images:  # its rows are not opened once more
            return False
        return any(map(holds_images, islice(self.sources["train"]["train"].rows(), PEEKED)))

    @property
    def _takes_images(self) -> bool:
        processor = getattr(self._trainer.lightning_module, "processor", None)
        return processor is not None and bool(processor.available)

    @property
    def has_images(self) -> bool:
        """Whether prompts of the sets that were read have images, or the first rows of a stream."""
        if self.streamed and self._trainer.state.fn == "fit" and self._stream_has_images:
            return True
        return any(p.images for named in self.prompts.values() for prompts in named.values() for p in prompts)

    def setup(self, stage: str) -> None:
        """Read and encode the sets of ``stage``.

        Raises:
            ValueError: A set is missing or empty, a prompt is malformed or too long, a column that a reward
                needs is missing, or the batch sizes do not fit; the message names the place.
        """
        self.fingerprints = {}
        for which in STAGES[stage]:
            if (stage, which) != ("fit", "validation"):
                check_given(self.sources[which], which, stage)
            if which == "train" and self.streamed:
                continue
            self.prompts[which] = {name: self._encode_set(name, s) for name, s in self.sources[which].items()}
            for name, prompts in self.prompts[which].items():
                key = "data.train" if which == "train" else f"data.{which} ({name})"
                self.fingerprints[key] = digest_prompts(prompts)
        if self.has_images:
            self._check_placeholders()
        if stage == "fit":
            self._train_loader, self.pass_rates, self._resumed_state = None, None, {}
            # a run that overfits a few batches draws those alone, whatever their pass rates
            if self.curriculum is not None and not self._trainer.overfit_batches:
                self.pass_rates = PassRates(self.curriculum, [p.uid for p in self.prompts["train"]["train"]])
            self._check_training_set()

    def _check_placeholders(self) -> None:
        """Refuse text that has the token of an image: the images of a pass would go to it."""
        ids = {*self._trainer.lightning_module.processor.placeholder_ids}
        for prompt in (p for named in self.prompts.values() for prompts in named.values() for p in prompts):
            if not prompt.images and ids & {*prompt.token_ids}:
                raise UserError(
                    f"Prompt {prompt.uid} has no images, and its text has a token that stands for one, beside prompts "
                    f"with images. Its text is {prompt.text[:200]!r}: write the token otherwise, or leave the row out."
                )

    def _check_training_set(self) -> None:
        trainer, count = self._trainer, None if self.streamed else len(self.prompts["train"]["train"])
        sizes.check_prompts_per_step(
            self.prompts_per_step,
            world_size=find_data_rank(trainer).size,
            mini_batches=getattr(getattr(trainer.lightning_module, "updates", None), "mini_batches", 1),
            prompts=count,
        )
        if count is None:
            check_streamed_run(trainer, validates=bool(self.sources["validation"]))
        elif not self.shuffle and not trainer.overfit_batches:
            sizes.warn_of_incomplete_batch(count, self.prompts_per_step)

    def train_dataloader(self) -> PromptLoader | PromptStream:
        """Batches of ``prompts_per_step`` prompts over all ranks; an incomplete last one is left out."""
        loader = self._make_train_loader()
        if state := self.state_dict() or self._resumed_state:
            check_state(state, streamed=self.streamed)
            loader.load_state_dict(state)
        if self.streamed:
            loader.preview(1)  # so that rows that cannot be read are refused before the first step
        self._train_loader = loader
        return loader

    def _make_train_loader(self) -> PromptLoader | PromptStream:
        trainer, data = self._trainer, find_data_rank(self._trainer)
        limit = trainer.limit_train_batches
        common: dict[str, Any] = {
            "rank": data.rank,
            "world_size": data.size,
            "seed": read_run_seed() if self.seed is None else self.seed,
        }
        if self.streamed:
            source = self.sources["train"]["train"]
            return PromptStream(
                source.rows,
                self._make_set_encoder("train", source).encode_row,
                self.prompts_per_step,
                buffer=source.shuffle_buffer if self.shuffle else None,
                limit=limit if isinstance(limit, int) else None,
                **common,
            )
        prompts = self.prompts["train"]["train"]
        return PromptLoader(
            prompts,
            self.prompts_per_step,
            shuffle=self.shuffle and not trainer.overfit_batches,
            drop_last=True,
            limit=sizes.limit_batches(len(prompts) // self.prompts_per_step, limit),
            weights=None if self.pass_rates is None else self.pass_rates.weigh_prompts,
            **common,
        )

    def draw_further_prompts(self, count: int, without: set[str]) -> list[Prompt]:
        """At most ``count`` training prompts beside the last batch's, but for those uids; the same on every rank.

        The order of the epoch stays as it is; a stream gives its next ones, once.
        """
        return [] if self._train_loader is None else self._train_loader.draw_further(count, without)

    def preview_prompts(self, count: int) -> list[tuple[int, list[Prompt]]]:
        """(epochs from this one, this rank's prompts) of the ``count`` next training batches; fewer at the end."""
        limit, loader = self._trainer.max_epochs, self._train_loader
        epochs = None if limit is None or limit < 0 else max(0, limit - self._trainer.current_epoch - 1)
        return [] if loader is None else loader.preview(count, epochs)

    def state_dict(self) -> dict[str, Any]:
        """The place in the training prompts, and their pass rates. Lightning forgets its own copy at an epoch's end."""
        if self._train_loader is None:
            return {}
        rates = {} if self.pass_rates is None else self.pass_rates.state_dict()
        return self._train_loader.state_dict() | rates | {"fingerprints": self.fingerprints}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the training prompts at a saved place; other prompts are refused where ``on_change`` is "error"."""
        self._resumed_state = state_dict  # Lightning loads a data module's state before it has made a loader
        compare_prompts(state_dict.get("fingerprints", {}), self.fingerprints, refuse=self.on_change == "error")
        if self.pass_rates is not None:
            self.pass_rates.load_state_dict(state_dict)

    def val_dataloader(self) -> list[PromptLoader]:
        """One loader per validation set, in the order of ``validation_names``."""
        if not self.validation_names:
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return self._make_loaders("validation")

    def test_dataloader(self) -> list[PromptLoader]:
        """One loader per test set, in the order of ``test_names``."""
        return self._make_loaders("test")

    def predict_dataloader(self) -> list[PromptLoader]:
        """One loader per prediction set, in the order of their names."""
        return self._make_loaders("predict")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> list[Prompt]:
        """The batch as a list of prompts; they hold no tensors."""
        return list(batch)  # Lightning's own would go through the fields of every prompt for something to move

    @property
    def _trainer(self) -> Any:
        if self.trainer is None:
            raise UserError("PromptDataModule needs a trainer: prompts are encoded for the model of a run.")
        return self.trainer

    def _make_loaders(self, which: str) -> list[PromptLoader]:
        data = find_data_rank(self._trainer)
        return [
            PromptLoader(prompts, self.validation_batch_size, rank=data.rank, world_size=data.size)
            for prompts in self.prompts[which].values()
        ]

    def _make_set_encoder(self, name: str, source: PromptSource) -> SetEncoder:
        module = self._trainer.lightning_module
        refusal = getattr(module, "refusal_of_images", None)
        if source.streaming and self.streamed and self._takes_images and not self._stream_has_images:
            refusal = f"the first {PEEKED} rows of the stream have none, for which the run is made. Put one in front."
        encoder = PromptEncoder(
            tokenizer=module.tokenizer,
            max_length=sizes.find_max_length(module, self.max_prompt_length),
            long_prompts=self.long_prompts,
            chat=self.chat,
            system_prompt=self.system_prompt,
            prefill=self.prefill,
            chat_template_kwargs=self.chat_template_kwargs,
            vocabulary=getattr(module, "vocabulary_size", None),
            contexts=getattr(getattr(module, "reward_model", None), "contexts", ()),
            max_context_length=sizes.find_max_length(module, None),
            images=RowImages(
                processor=module.processor,
                base=find_base(source),
                folder=Path(self._trainer.default_root_dir) / "images",
                options=self.images,
                refusal=refusal,
            )
            if hasattr(module, "refusal_of_images")
            else None,
        )
        return SetEncoder(name, source, encoder, module)

    def _encode_set(self, name: str, source: PromptSource) -> list[Prompt]:
        encoder = self._make_set_encoder(name, source)
        with isolate_call(RandomKey(0, "data", 0), name):
            rows = read_rows(source.rows(), encoder.origin)
        return encoder.encode(rows)
