"""The tool server of the guide, as a file of its own."""

import re
import sys
from pathlib import Path

import pytest

from agent.tools.running import run_tool
from agent.tools.served.client import open_tool_servers
from agent.types import Evidence
from tests.agent.tools.tool_case import case_of, group_of

pytestmark = pytest.mark.slow  # processes of their own

GUIDE = Path(__file__).parents[4] / "docs/guides/mcp.md"


def test_the_server_of_the_guide_measures(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "MCPServer(" in block]
    (tmp_path / "my_tools.py").write_text(code)
    with open_tool_servers([f"{sys.executable} {tmp_path / 'my_tools.py'} serve"]) as (tool,):
        found = run_tool(tool, case_of(group_of()))
    assert isinstance(found, Evidence)
    assert (tool.name, found.metric) == ("served_wrist_height", "served_wrist_height_mm")
    assert found.sentences[0] == (
        f"The right wrist is {found.values[0]:.0f} mm off the height of the camera."
    )
