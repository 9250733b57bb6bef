"""Reward functions as people write them for TRL."""

import asyncio

seen = []


def records(prompts, completions, **kwargs):
    seen.append({"prompts": prompts, "completions": completions, **kwargs})
    return [float(i) for i in range(len(completions))]


def exact(completions, answer, **kwargs):
    return [1.0 if c == a else None for c, a in zip(completions, answer, strict=True)]


def only_completions(completions):
    return [len(c) for c in completions]


def chat_length(completions, **kwargs):
    return [float(len(c[0]["content"])) for c in completions]


async def slow_length(completions, **kwargs):
    await asyncio.sleep(0.01)
    return [float(len(c)) for c in completions]


def logs(completions, log_extra, log_metric, trainer_state, **kwargs):
    log_extra("upper", [c.upper() for c in completions])
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    log_metric("mean_length", 0.0)
    return [float(trainer_state.global_step)] * len(completions)


class Judge:
    async def __call__(self, completions, threshold=3, **kwargs):
        return [float(len(c) >= threshold) for c in completions]


judge = Judge()
