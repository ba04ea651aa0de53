"""What Python 3.15 removed and a pinned typing-extensions passes on is put back, and nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
import typing
import warnings
from typing import Any

import pytest

from gestalt_cas.system import removed_names

NAME = "no_type_check_decorator"


def marked(decorator: Any) -> Any:
    """What a function is like that a decorator made of `decorator` by typing's name was used on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.13 and 3.14 warn of their own
        unchecked = getattr(typing, NAME)(decorator)

    @unchecked(3)
    def found(number: int) -> int:
        return number

    return unchecked.__name__, found(4), getattr(found, "__no_type_check__", False)


def times(factor: int) -> Any:
    def decorator(function: Any) -> Any:
        return lambda number: factor * function(number)

    return decorator


def test_a_name_that_is_there_stays_what_it_is() -> None:
    before = getattr(typing, NAME)  # from Python 3.15 on it is there since the package was imported
    removed_names.put_back()
    assert getattr(typing, NAME) is before


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="typing has nothing to compare it with")
def test_it_does_what_the_removed_one_did(monkeypatch: pytest.MonkeyPatch) -> None:
    removed = marked(times)
    monkeypatch.delattr(typing, NAME)
    removed_names.put_back()
    assert getattr(typing, NAME) is not None
    assert marked(times) == removed


def test_the_package_comes_before_what_needs_it() -> None:
    """A fresh interpreter, to the package one of 3.15: typing-extensions can be imported after it."""
    code = f"""
import sys, typing
vars(typing).pop({NAME!r}, None)
real = sys.version_info
sys.version_info = max(real, (3, 15))
import gestalt_cas
sys.version_info = real
import typing_extensions
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
