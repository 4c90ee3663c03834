from __future__ import annotations

import getpass
import os

import pytest

from deploy.user_name import user_name


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_is_told_by_its_number(monkeypatch, error) -> None:
    assert user_name() == getpass.getuser()

    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert user_name() == f"uid {os.getuid()}"
