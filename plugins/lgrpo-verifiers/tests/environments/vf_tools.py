"""A tool, served by verifiers in a process of its own, and shared by all episodes."""

import verifiers.v1 as vf

__all__ = ["Adding"]


class Calculator(vf.Toolset[vf.SharedToolsetConfig, vf.State]):
    TOOL_PREFIX = "c"

    @vf.tool
    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b


class AddingTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def asked(self, trace: vf.Trace) -> float:
        return float(sum(m.role == "tool" for m in trace.messages))


class Adding(vf.Taskset[AddingTask, vf.TasksetConfig]):
    def load(self):
        yield AddingTask(vf.TaskData(prompt="1+2+4="), self.config.task)

    @classmethod
    def toolsets(cls, config):
        return [Calculator(vf.SharedToolsetConfig())]


if __name__ == "__main__":
    Calculator.run()
