"""The environments of the tests are modules, for this process and for the tool servers that verifiers starts."""

import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent / "environments")
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
collect_ignore = ["environments"]
