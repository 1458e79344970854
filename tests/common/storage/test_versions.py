"""What a run folder records about its run."""

import json

from common.storage.versions import PACKAGES, versions, write_run


def test_a_run_folder_holds_settings_and_versions_of_its_last_run(tmp_path):
    write_run(tmp_path, {"images": 2})
    write_run(tmp_path, {"images": 3, "seeds": (0, 1)})
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "settings": {"images": 3, "seeds": [0, 1]},
        "versions": versions(),
    }
    assert {"commit", "python", *PACKAGES} == set(versions())
