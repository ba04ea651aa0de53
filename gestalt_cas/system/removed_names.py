"""Names that Python has removed and that a release pinned beside this package still asks for.

Every published gestalt-sdk pins typing-extensions 4.12.2, which passes `typing.no_type_check_decorator` on. Python 3.15
has removed that one, so the import of typing_extensions fails there, and with it SQLAlchemy's and OpenTelemetry's. What
is put back is what it was: a decorator of decorators, whose results no type checker is to look at.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any


def _no_type_check_decorator(decorator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(decorator)
    def unchecked(*args: Any, **kwargs: Any) -> Any:
        return typing.no_type_check(decorator(*args, **kwargs))

    return unchecked


def put_back() -> None:
    """Put back what is missing; on a Python that has it nothing changes."""
    if not hasattr(typing, "no_type_check_decorator"):
        setattr(typing, "no_type_check_decorator", _no_type_check_decorator)  # noqa: B010 - mypy knows no such name
