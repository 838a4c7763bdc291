from __future__ import annotations

import pytest
from staging_cli import Staging


@pytest.fixture
def stage(tmp_path, capsys) -> Staging:
    return Staging(tmp_path, capsys)
