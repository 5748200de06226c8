"""What a model and its data are worth beyond one figure: one page, one JSON and one table for each kind of audit."""

from honne.audit.auditing import audit

__all__ = ["audit"]
