from __future__ import annotations

import pytest

from pas_trainer.whole_files import whole_file


def test_a_file_is_replaced_at_the_end_or_stays(tmp_path):
    path = tmp_path / "new" / "file.json"
    with whole_file(path) as draft:
        draft.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(ZeroDivisionError), whole_file(path) as draft:
        draft.write_text(f"half{1 // 0}")
    assert path.read_text() == "first"
    with whole_file(path) as draft:
        draft.write_text("second")
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]
    assert path.read_text() == "second"
