"""Keys and values that configuration files and flags cannot have."""

from __future__ import annotations

from tests.integration.mistakes.case import BadInput, component

KEYS = {
    "key of the module": BadInput(
        says=("run.yaml, line", "model has no option 'group_sise'", "Did you mean 'group_size'"),
        did="`model.group_sise: 8`",
        config={"model.group_sise": 8},
    ),
    "key of the module, flag": BadInput(
        says=("command line", "'group_sise'", "Did you mean 'group_size'"),
        did="`--model.group_sise=8`",
        flags=("--model.group_sise=8",),
    ),
    "key inside options": BadInput(
        says=("run.yaml, line", "model.sampling", "Did you mean 'temperature'", "top_p"),
        did="`model.sampling.temprature: 0.7`",
        config={"model.sampling.temprature": 0.7},
    ),
    "key of a component": BadInput(
        says=(
            "run.yaml, line",
            "ExactMatch (model.reward_model) has no option 'colum'",
            "Did you mean 'column'",
            "extract",
        ),
        did="`init_args: {colum: answer}` of `ExactMatch`",
        config={"model.reward_model": component("ExactMatch", colum="answer")},
    ),
    "key of a component in a list": BadInput(
        says=("run.yaml, line", "ExactMatch (model.reward_model[0])", "Did you mean 'column'"),
        did="the same in a list of reward models",
        config={"model.reward_model": [component("ExactMatch", colum="answer")]},
    ),
    "key of a component, flag": BadInput(
        says=("command line", "ExactMatch", "Did you mean 'column'"),
        did="`--model.reward_model.colum=answer`",
        flags=("--model.reward_model.colum=answer",),
    ),
    "key of the data": BadInput(
        says=("run.yaml, line", "data has no option", "Did you mean 'prompts_per_step'"),
        did="`data.prompt_per_step: 4`",
        config={"data.prompt_per_step": 4},
    ),
    "key of a prompt source": BadInput(
        says=("run.yaml, line", "ArithmeticTasks (data.train)", "Did you mean 'count'"),
        did="`init_args: {cuont: 10}` of `ArithmeticTasks`",
        config={"data.train": component("ArithmeticTasks", cuont=10)},
    ),
    "key of the trainer": BadInput(
        says=("run.yaml, line", "trainer has no option 'max_step'", "Did you mean 'max_steps'"),
        did="`trainer.max_step: 10`",
        config={"trainer.max_step": 10},
    ),
    "key at the top": BadInput(
        says=("run.yaml, line", "'modle.group_size'", "Did you mean 'model.group_size'"),
        did="`modle: …` at the top of the file",
        config={"modle": {"group_size": 8}},
    ),
    "key of the optimizer": BadInput(
        ours=False,
        says=("run.yaml, line", "AdamW (model.optimizer)", "'learning_rate'", "lr, betas"),
        did="`model.optimizer.init_args.learning_rate: 1e-5`",
        config={"model.optimizer": component("torch.optim.AdamW", learning_rate=1e-5)},
    ),
    "wrong type": BadInput(
        says=("run.yaml, line", "model.group_size is 'eight'", "it must be int"),
        did="`model.group_size: eight`",
        config={"model.group_size": "eight"},
    ),
    "wrong type of a component's argument": BadInput(
        says=("run.yaml, line", "correct of ExactMatch", "'right'", "it must be float"),
        did="`init_args: {correct: right}` of `ExactMatch`",
        config={"model.reward_model": component("ExactMatch", correct="right")},
    ),
    "not one of the choices": BadInput(
        says=(
            "run.yaml, line",
            "normalizer of ClippedSurrogate",
            "'sequence', 'constant'",
            "Did you mean 'token'",
        ),
        did="`model.loss.normalizer: tokens`",
        config={"model.loss.normalizer": "tokens"},
    ),
    "KL penalty where the loss is": BadInput(
        says=("run.yaml, line", "no option 'kl_coef'", "Did you mean 'model.objective.kl_coef'"),
        did="`model.loss: {kl_coef: 0.04}`",
        config={"model.loss": {"kl_coef": 0.04}},
    ),
    "KL penalty where the loss is, as a flag": BadInput(
        says=("command line", "no option 'kl_coef'", "Did you mean 'model.objective.kl_coef'"),
        did="`--model.loss.kl_coef=0.04`",
        flags=("--model.loss.kl_coef=0.04",),
    ),
    "importance correction where the loss is": BadInput(
        says=("command line", "GSPO (model.loss)", "Did you mean 'model.objective.importance'"),
        did="`--model.loss=GSPO --model.loss.importance=none`",
        flags=("--model.loss=GSPO", "--model.loss.importance=none"),
    ),
    "wrong type of nested options": BadInput(
        says=("run.yaml, line", "model.sampling.temperature is 'warm'", "it must be float"),
        did="`model.sampling.temperature: warm`",
        config={"model.sampling.temperature": "warm"},
    ),
    "no such file": BadInput(
        says=("confgs/mine.yaml", "no folder confgs"),
        did="`--config=confgs/mine.yaml`, which is not there",
        flags=("--config=confgs/mine.yaml",),
    ),
    "malformed YAML": BadInput(
        says=("run.yaml, line 3", "not valid YAML", "indentation"),
        did="YAML with a wrong indentation",
        yaml="model:\n  group_size: 8\n   sampling: {}\n",
    ),
    "no YAML": BadInput(says=("run.yaml is empty", "trainer, model and data"), did="an empty YAML file", yaml=""),
}
