"""docs/vllm.md names every option with its default."""

from pathlib import Path

import pytest

from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
from tests.docs.markdown import section
from tests.docs.test_complete import assert_options

PAGE = Path(__file__).parents[3] / "docs" / "vllm.md"


@pytest.mark.parametrize(("options", "heading"), [(EngineOptions, "The engine"), (ServerOptions, "Servers")])
def test_options(options: type, heading: str) -> None:
    assert_options(options, section(PAGE, heading))
