"""Every built-in component passes the checks that plug-in authors have."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from lgrpo_lightning.registry.hookspecs import PROJECT
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.testing import (
    check_component,
    check_environment,
    check_estimator,
    check_loss,
    check_prompt_source,
    check_reward_model,
    check_sampler,
    check_segmenter,
    toy_group,
)
from tests.docs.markdown import ROOT
from tests.rewards.test_teacher_logprobs import known_ids
from tests.segmenters.test_more_segmenters import with_entropies

BUILT_IN = {name: c for name, c in components().items() if c.package == PROJECT}
OPTIONS: dict[str, dict[str, Any]] = {
    "RewardFunction": {"function": "tests.rewards.sample_functions.only_completions"},
    "StepRewardFunction": {"function": "tests.rewards.test_step_reward_function.right_line"},
    "FormatMatch": {"pattern": r"\d"},
    "TeacherLogprobs": {"path": "lgrpo:arithmetic"},
    "OverlongPenalty": {"max_length": 8, "buffer": 4},
    "PromptFile": {
        "path": str(ROOT / "tests" / "golden" / "quickstart_metrics.csv"),
        "prompt_column": "reward",
    },
    "ForkingSampler": {"share": 0.5},
    "EnvironmentSampler": {"tools": ["tests.environments.partners.multiply"]},
}
"""What a component needs to be made; nothing for the others."""
ELSEWHERE = {
    "VLLMSampler": "in an environment with vLLM: tests/samplers/vllm",
    "EnvironmentSampler": "with environments: tests/environments",
    "EnvironmentReward": "with environments: tests/environments",
}
NOT_ALONE = {"RewardFunction", "StepRewardFunction"}  # what they score is up to their function


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_pickles_and_comes_back_from_yaml(name: str) -> None:
    options = OPTIONS.get(name, {})
    check_component(BUILT_IN[name].cls(**options), options)


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_keeps_its_contract(name: str) -> None:
    if name in ELSEWHERE:
        pytest.skip(ELSEWHERE[name])
    made = BUILT_IN[name].cls(**OPTIONS.get(name, {}))
    kind = BUILT_IN[name].kind
    if name == "TeacherLogprobs":
        check_reward_model(made, known_ids())
    elif kind == "reward_model":
        columns = {"answer": "2", "target": "LRRL"}
        check_reward_model(made, toy_group(["2", "LRRL", "so 2", ""], columns=columns))
    elif name == "EntropySegmenter":
        check_segmenter(made, with_entropies([[1, 2], [1, 3], [1, 2]], [[0.1, 2.0], [0.1, 1.0], [0.1, 2.0]]))
    elif kind == "segmenter":
        check_segmenter(made)
    elif kind == "advantage_estimator":
        check_estimator(made)
    elif kind == "loss":
        check_loss(made)
    elif kind == "sampler":
        check_sampler(made)
    elif kind == "environment":
        check_environment(made)
    elif name == "PromptFile":
        assert list(made.rows())
    else:
        check_prompt_source(made)


@pytest.mark.parametrize("normalizer", ["token", "sequence", "constant", "completion"])
@pytest.mark.parametrize("options", [{}, {"token": True}])
def test_losses_keep_it_with_other_options(normalizer: str, options: dict[str, bool]) -> None:
    for built_in in (c for c in BUILT_IN.values() if c.kind == "loss"):
        if not options or "token" in inspect.signature(built_in.cls).parameters:
            check_loss(built_in.cls(normalizer=normalizer, **options))
