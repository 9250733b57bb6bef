"""Completions scored by a sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lgrpo_judge.judge import read_prompt
from lgrpo_lightning import Group, ProcessTree, Prompt, RewardModel, Rewards
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.policy.refusals import check_weights

DTYPES = ("float32", "bfloat16", "float16")
TEXTS = ("auto", "chat", "plain", "pair")


class ModelReward(RewardModel):
    """Scores prompt and completion by a sequence classifier: the logit of its one label, or a label's probability.

    The model has a device of its own, one in every process, and is never trained or saved.

    Args:
        path: Hugging Face name or folder.
        label: Whose probability is the reward, of a model with several labels.
        text: What the model reads: "chat", its chat template; "plain", the prompt and right after it the completion;
            "pair", two segments, as encoders such as DeBERTa do; "auto": "chat" if it has a template, else "plain".
        max_length: Most tokens it reads; longer text is cut off on the left. Null: what the model takes.
        dtype: Of its weights: "float32", "bfloat16" or "float16".
        device: Where it runs, such as "cuda:1"; "auto": the process's GPU where there is one.
        batch_size: Completions of one forward pass.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ValueError: An option is out of range; in ``setup``: the model is no classifier, compares pairs of completions,
            lacks weights, or has no such label.
    """

    def __init__(
        self,
        path: str,
        label: str | None = None,
        text: Literal["auto", "chat", "plain", "pair"] = "auto",
        max_length: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "auto",
        batch_size: int = 16,
        trust_remote_code: bool = False,
    ) -> None:
        require(
            "ModelReward: ",
            locals(),
            (text in TEXTS, "text", f"one of {', '.join(TEXTS)}"),
            (max_length is None or max_length >= 1, "max_length", "at least 1, or null"),
            (dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}"),
            (batch_size >= 1, "batch_size", "at least 1"),
        )
        self.path, self.label, self.text, self.max_length = path, label, text, max_length
        self.dtype, self.device, self.batch_size = dtype, device, batch_size
        self.trust_remote_code, self._warned = trust_remote_code, False
        self._model: Any = None
        self._tokenizer: Any = None

    def setup(self, source: Any) -> None:
        if self._model is None:
            self._load()

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        self.setup(None)
        inputs = [self._encode(group.prompt, c.text) for group in groups for c in group.completions]
        scores, cut = iter(self._score([row for row, _ in inputs])), iter([was_cut for _, was_cut in inputs])
        out = []
        for group in groups:
            outcome = torch.tensor([next(scores) for _ in group.completions])
            share = sum(next(cut) for _ in group.completions) / len(group)
            metrics = {f"rewards/{self.name}/truncated": share}
            out.append(Rewards(outcome=outcome, parts={self.name: outcome}, metrics=metrics))
        return out

    def teardown(self) -> None:
        self._model = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_model": None, "_tokenizer": None}  # it is loaded again

    def _load(self) -> None:
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        self._refuse(AutoConfig.from_pretrained(self.path, **options))
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        self._tokenizer = AutoTokenizer.from_pretrained(self.path, truncation_side="left", **options)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            self.path, dtype=getattr(torch, self.dtype), output_loading_info=True, **options
        )
        check_weights("ModelReward: path", self.path, model, info, take="a model that was trained as a reward model")
        self._pads = model.config.get_text_config().pad_token_id is not None
        self._model = model.to(device).eval().requires_grad_(False)

    def _refuse(self, config: Any) -> None:
        """Refuse a model that does not score one completion, or has no such label."""
        classes = list(config.architectures or ())
        own = "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
        wrong = not own and not any(name.endswith("ForSequenceClassification") for name in classes)
        if classes and (wrong or any("pair" in name.lower() for name in classes)):
            raise UserError(
                f"ModelReward: {self.path!r} is a {classes[0]}, which has no score for a single completion: it is no "
                "sequence classifier, or compares two completions of a prompt. Take a …ForSequenceClassification that "
                "scores one, or have a language model judge: JudgeReward."
            )
        labels = [config.id2label[i] for i in range(config.num_labels)]
        if (self.label is None and len(labels) > 1) or self.label not in (None, *labels):
            raise UserError(
                f"ModelReward: label is {self.label!r}, and {self.path!r} has the labels {', '.join(labels)}; set "
                "label to that whose probability is the reward. (Where they say which of two completions is better, "
                "the model has no score for one.)"
            )

    def _encode(self, prompt: Prompt, completion: str) -> tuple[dict[str, list[int]], bool]:
        template = bool(getattr(self._tokenizer, "chat_template", None))
        kind = self.text if self.text != "auto" else "chat" if template else "plain"
        if kind == "chat":
            chat = prompt.messages or ({"role": "user", "content": prompt.text},)
            messages = [*map(dict, chat), {"role": "assistant", "content": completion}]
            texts = (self._tokenizer.apply_chat_template(messages, tokenize=False),)
        else:
            texts = (read_prompt(prompt), completion) if kind == "pair" else (read_prompt(prompt) + completion,)
        options = {"add_special_tokens": kind != "chat"}  # a template writes its own
        row, most = dict(self._tokenizer(*texts, **options)), self._find_max_length()
        if len(row["input_ids"]) <= most:
            return row, False
        if not self._warned:
            self._warned = True
            rank_zero_warn(
                f"{self.name}: a prompt with its completion has {len(row['input_ids'])} tokens, and {self.path!r} "
                f"reads {most}: what is longer is cut off on the left. rewards/{self.name}/truncated shows how often."
            )
        return dict(self._tokenizer(*texts, truncation=True, max_length=most, **options)), True

    def _find_max_length(self) -> int:
        known = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return self.max_length or min(self._tokenizer.model_max_length, known or self._tokenizer.model_max_length)

    @torch.no_grad()
    def _score(self, rows: Sequence[dict[str, list[int]]]) -> list[float]:
        config, out = self._model.config, torch.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))  # those of like length together
        for start in range(0, len(rows), self.batch_size):
            batch = order[start : start + self.batch_size]
            logits = self._model(**self._pad([rows[i] for i in batch])).logits.float().cpu()
            if config.num_labels == 1:
                scores = logits[:, 0]
            else:
                several = config.problem_type == "multi_label_classification"
                scores = (logits.sigmoid() if several else logits.softmax(-1))[:, config.label2id[self.label]]
            out[batch] = scores
        return out.tolist()

    def _pad(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """One batch, padded on the right.

        Decoders read the score at the last token that is not ``pad_token_id``. Where the configuration has none, it
        is set to an id that is in no row, so that the last token of each is read, as alone.
        """
        config = self._model.config.get_text_config()
        if not self._pads:
            used = {token for row in rows for token in row["input_ids"]}
            config.pad_token_id = next(token for token in range(config.vocab_size) if token not in used)
        return {
            name: pad_sequence(
                [torch.tensor(row[name]) for row in rows],
                batch_first=True,
                padding_value=config.pad_token_id * (name == "input_ids"),
            ).to(self._model.device)
            for name in rows[0]
        }
