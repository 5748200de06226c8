"""The one error that users see as a sentence instead of a traceback."""

from __future__ import annotations


class HonneError(Exception):
    """Something the user can mend.

    Args:
        what: one sentence: what is wrong and where (file, row, column, frame).
        hint: one sentence: what to do about it.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n       {self.hint}" if self.hint else self.what


class WrongCall(HonneError):
    """The command or function was called wrongly (exit status 2)."""
