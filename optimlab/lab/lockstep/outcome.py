"""The three answers of a comparison: equal, the same error on both sides, or a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from optimlab import renamed
from optimlab.lab.compare.bits import Distance, Mismatch
from optimlab.lab.compare.diff import Compared, Differences, Path, path_name


@dataclass(frozen=True)
class Equal:
    """Everything was equal to the last bit, through all steps.

    Attributes:
        compared: how much that was.
        changed: the share of parameter elements that the steps changed.
        finite: the share of parameter elements that are finite at the end.
    """

    equal: ClassVar[bool] = True

    compared: Compared
    changed: float
    finite: float

    def __str__(self) -> str:
        return f"equal: {self.compared}"


@dataclass(frozen=True)
class EqualError:
    """Both sides raised the same error at the same point, and were equal until then.

    Attributes:
        compared: how much was compared before.
        step: in which step it was raised, 0 for the constructor.
        during: what was going on, such as ``"step()"``.
        error: type and message.
    """

    equal: ClassVar[bool] = True

    compared: Compared
    step: int
    during: str
    error: str

    def __str__(self) -> str:
        return f"equal error in {self.during}, step {self.step}: {self.error}"


@dataclass(frozen=True)
class Difference:
    """The first difference.

    Attributes:
        compared: how much was compared up to it.
        step: after which step it was seen, 0 for after construction.
        during: what had just been done, such as ``"step()"``.
        path: where: keys and indices into what ``snapshot`` returns.
        mismatch: what differs there, both values, the first element and all their distances.
        names: names of the parameters, if they have any.
        also: other places that differ at the same time.
        final: how far apart all parameters are after the last step, if it was reached.
    """

    equal: ClassVar[bool] = False

    compared: Compared
    step: int
    during: str
    path: Path
    mismatch: Mismatch
    names: tuple[str, ...] = ()
    also: tuple[Path, ...] = ()
    final: Distance | None = None

    place = renamed.attribute("place", "path")

    @classmethod
    def first_of(
        cls,
        found: Differences,
        compared: Compared,
        step: int,
        during: str,
        names: tuple[str, ...] = (),
    ) -> Difference:
        """Make one of all places that differ at the same time, the first of which is told."""
        (path, mismatch), *others = found
        return cls(compared, step, during, path, mismatch, names, tuple(p for p, _ in others))

    @property
    def where(self) -> str:
        """The path in words, such as ``state 'exp_avg' of parameter 3``."""
        return path_name(self.path, self.names)

    def __str__(self) -> str:
        lines = [f"step {self.step}, after {self.during}: {self.where}: {self.mismatch}"]
        if self.mismatch.distance is not None:
            lines.append(f"there, {self.mismatch.distance}")
        if self.also:
            shown = ", ".join(path_name(path, self.names) for path in self.also[:4])
            more = f" and {len(self.also) - 4} more" if len(self.also) > 4 else ""
            lines.append(f"also different: {shown}{more}")
        if self.final is not None:
            lines.append(f"after the last step, of all parameters {self.final}")
        return "\n  ".join(lines)


Outcome: TypeAlias = Equal | EqualError | Difference
