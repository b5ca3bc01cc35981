"""What a test stands on has to be able to fail."""

from __future__ import annotations

import pytest

from support import check_each


def test_each_case_is_checked_and_each_that_fails_is_named() -> None:
    seen = []

    def check(case: int) -> None:
        seen.append(case)
        assert case % 2

    check_each(check, {"one": 1, "three": 3})
    with pytest.raises(ExceptionGroup, match="2 of 4 cases") as caught:
        check_each(check, {"one": 1, "two": 2, "three": 3, "four": 4})
    assert seen == [1, 3, 1, 2, 3, 4]
    assert [error.__notes__ for error in caught.value.exceptions] == [["case: two"], ["case: four"]]
