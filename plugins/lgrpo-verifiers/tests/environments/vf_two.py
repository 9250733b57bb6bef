"""Two agents, both of whom ask the policy."""

import verifiers.v1 as vf
from vf_sums import Sums

__all__ = ["Sums", "TwoEnv"]


class TwoEnvConfig(vf.EnvConfig):
    one: vf.AgentConfig = vf.AgentConfig()
    other: vf.AgentConfig = vf.AgentConfig()


class TwoEnv(vf.Env[TwoEnvConfig]):
    async def run(self, task, agents):
        await agents.one.run(task)
        await agents.other.run(task)
