"""Fails in the way that the task names, for about a third of the members."""

import asyncio
import sys
import time

import verifiers.v1 as vf

__all__ = ["Faulty", "FaultyEnv"]


class FaultyConfig(vf.TasksetConfig):
    how: str = "raises"


class FaultyTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def paid(self, trace: vf.Trace) -> float:
        if self.data.name == "reward":
            await go_wrong("raises", trace.messages[1].content or "")
        return 1.0


class Faulty(vf.Taskset[FaultyTask, FaultyConfig]):
    def load(self):
        for n in range(2):
            yield FaultyTask(vf.TaskData(prompt=f"{n}+1=", name=self.config.how), self.config.task)


class FaultyEnvConfig(vf.EnvConfig):
    agent: vf.AgentConfig = vf.AgentConfig()


class FaultyEnv(vf.Env[FaultyEnvConfig]):
    async def run(self, task, agents):
        if task.data.name == "never asks":
            return
        async with agents.agent.interaction(task) as game:
            said = await game.turn()
            if task.data.name != "reward":
                await go_wrong(task.data.name, said.last_reply)
            await game.turn("9+9=")


async def go_wrong(how: str, said: str) -> None:
    if sum(map(ord, said)) % 3:
        return
    if how == "raises":
        raise KeyError("nothing of that name")
    if how == "hangs":
        await asyncio.sleep(1000)
    if how == "blocks":
        time.sleep(30)
    if how == "exits":
        sys.exit(3)
