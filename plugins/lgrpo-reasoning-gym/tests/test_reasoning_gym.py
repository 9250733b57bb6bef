"""Every data set of reasoning-gym gives prompts that its own scorer judges."""

import pytest
from lgrpo_reasoning_gym import ReasoningGymReward, ReasoningGymTasks
from reasoning_gym.factory import DATASETS

from lgrpo_lightning import PromptDataModule
from lgrpo_lightning.testing import (
    check_component,
    check_prompt_source,
    check_reward_model,
    toy_group,
    toy_tree,
)

NAMES = sorted(set(DATASETS) - {"composite"})


def scored(row, texts, **options):
    group = toy_group(texts, columns={"entry": row["entry"]})
    return ReasoningGymReward(**options).score(group, toy_tree(group)).outcome.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set(name):
    """Its rows go through the data module; the right answer gets what the scorer gives, nonsense no more than 1."""
    source = ReasoningGymTasks(name, size=2, seed=3)
    row = check_prompt_source(source)[0]
    right = DATASETS[name][0](DATASETS[name][1]()).score_answer(row["answer"], row["entry"])
    first, other, nothing = scored(row, [f"so <answer>{row['answer']}</answer>", "<answer>\x00 ]](</answer>", "no"])
    assert first == pytest.approx(float(right)) or row["answer"] is None or row["answer"] != str(row["answer"]).strip()
    assert -1 <= other <= 1
    assert nothing == 0
    ReasoningGymReward().check_row(row)
    assert PromptDataModule(train=source, prompts_per_step=2)


def test_difficulty_seed_and_template():
    options = {"config": {"min_terms": 2, "max_terms": 2}, "size": 5, "template": "{expression}="}
    tasks = ReasoningGymTasks("chain_sum", **options)
    rows = tasks.rows()
    assert all(len(row["prompt"].replace("-", "+").split("+")) == 2 for row in rows)
    assert (
        rows
        == ReasoningGymTasks("chain_sum", {"min_terms": 2, "max_terms": 2}, size=5, template="{expression}=").rows()
    )
    assert rows != ReasoningGymTasks("chain_sum", {"min_terms": 2, "max_terms": 2}, size=5, seed=1).rows()


def test_a_mixture():
    specs = [{"name": "chain_sum", "weight": 3, "config": {"max_terms": 2}}, {"name": "leg_counting"}]
    rows = check_prompt_source(ReasoningGymTasks(specs, size=40))
    names = [row["entry"]["metadata"]["source_dataset"] for row in rows]
    assert set(names) == {"chain_sum", "leg_counting"}
    assert names.count("chain_sum") > names.count("leg_counting")


def test_contracts():
    row = ReasoningGymTasks("chain_sum", size=1).rows()[0]
    group = toy_group(["<answer>1</answer>", "2", ""], columns={"entry": row["entry"]})
    check_reward_model(ReasoningGymReward(), group)
    check_component(ReasoningGymReward(missing=-0.5), {"missing": -0.5})
    check_component(ReasoningGymTasks("chain_sum", size=3), {"dataset": "chain_sum", "size": 3})


def test_where_the_answer_stands():
    row = ReasoningGymTasks("chain_sum", size=1).rows()[0]
    answer = row["answer"]
    assert scored(row, [f" {answer}\n", f"#### {answer}"], extract=None)[0] == 1.0
    assert scored(row, [f"#### {answer}", "none"], extract=r"#### (\S+)", missing=-1.0) == [1.0, -1.0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ReasoningGymTasks("chain_sums"), "has no data set 'chain_sums'. Did you mean chain_sum"),
        (lambda: ReasoningGymTasks("chain_sum", {"terms": 3}), "chain_sum refuses its options"),
        (lambda: ReasoningGymTasks("chain_sum", {"min_terms": 0}), "chain_sum refuses its options"),
        (lambda: ReasoningGymTasks("chain_sum", size=0), "size is 0"),
        (
            lambda: ReasoningGymTasks("chain_sum", size=1, template="{sum}").rows(),
            "it may name .*expression",
        ),
        (lambda: ReasoningGymReward("("), "no valid regular expression"),
        (lambda: ReasoningGymReward("a"), "which has no group"),
        (lambda: ReasoningGymReward().check_row({"entry": {"answer": 1}}), "no task of reasoning-gym"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()
