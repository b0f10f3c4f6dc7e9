"""Every public failure: what was given, where, and how to fix it; each class carries its exit code."""

from __future__ import annotations

from pathlib import Path


class RankwrightError(Exception):
    """Base of all public failures.

    Args:
        what: one sentence: what is wrong, with the offending value.
        where: ``file:line``, recipe path or artefact path.
        fix: what the reader should do next.
    """

    code = 1
    kind = "error"

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[RankwrightError], what: str, where: str | None, fix: str | None) -> RankwrightError:
    return cls(what, where=where, fix=fix)


class UsageError(RankwrightError):
    """The command line or a Python argument does not fit."""

    code, kind = 2, "usage error"


class RecipeError(UsageError):
    """A recipe does not say something that can be run."""

    kind = "recipe error"


class DriftError(UsageError):
    """A run is resumed under other data, code, recipe or threads than it began with."""

    kind = "drift error"


class DataError(RankwrightError):
    """An input file holds something that its format does not allow."""

    code, kind = 3, "data error"


class ArtefactError(RankwrightError):
    """Something we wrote is missing, damaged or of another version."""

    code, kind = 4, "artefact error"


class ResourceError(RankwrightError):
    """Disk or memory ran out, or a lock is held by somebody else."""

    code, kind = 5, "resource error"


class RemoteError(RankwrightError):
    """A hub or an endpoint could not be reached, or answered with nonsense."""

    code, kind = 6, "remote error"


class NonFiniteError(RankwrightError):
    """NaN or infinity reached a gate more often than the policy allows."""

    code, kind = 7, "non-finite value"


class Stopped(RankwrightError):
    """A signal ended the work at a point from which the same command resumes."""

    code, kind = 75, "stopped"


def missing_extra(package: str, extra: str, purpose: str) -> UsageError:
    """The error for an optional package that is not installed."""
    return UsageError(f"{purpose} needs the package '{package}'", fix=f"pip install 'rankwright[{extra}]'")
