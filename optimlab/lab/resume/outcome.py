"""What the prover answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Offender:
    """The first step after which not everything has the same bits.

    Attributes:
        step: the step, counted from 1; that of the checkpoint means right after loading.
        name: the first tensor that differs, in the order of ``tensors()``.
        what: what is known about it.
        also: the other names that differ after the same step.
    """

    step: int
    name: str
    what: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """What the resumed run lacks.

    Attributes:
        kind: ``"random numbers"``, ``"scheduler"``, ``"optimizer state"``, ``"model"``,
            ``"gradient scaler"``, ``"data order or progress"`` or ``"dtype loss"``.
        where: the attribute of the run, the generator or the tensor.
    """

    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


@dataclass(frozen=True)
class Resumption:
    """Whether a run goes on to the same bits; prints itself.

    Attributes:
        steps: how many steps the whole run has.
        at: after which one it was interrupted.
        names: how many tensors and values were compared after each step.
        compared: how many elements in all.
        offender: the first difference, ``None`` if there is none.
        repeatable: whether two runs in one process agree up to the interruption. If not, the run
            itself gives other bits each time, and no checkpoint could change that.
        causes: what, put back from the uninterrupted run, makes the resumed one equal. Each of them
            alone, or all of them together: see ``together``.
        together: whether all causes have to be put back.
        losses: tensors that came back from the checkpoint with fewer bits.
        out_of_reach: parts that could not be put back to try.
    """

    steps: int
    at: int
    names: int
    compared: int
    offender: Offender | None = None
    repeatable: bool = True
    causes: tuple[Cause, ...] = ()
    together: bool = False
    losses: tuple[Cause, ...] = ()
    out_of_reach: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the resumed run has the same bits after every step."""
        return self.offender is None

    def __str__(self) -> str:
        run = f"{self.at} steps, saved, loaded in a new process, {self.steps - self.at} steps"
        if self.offender is None:
            return (
                f"proved: {run}: the same bits as {self.steps} steps at a stretch, after each "
                f"step, in {self.names} tensors and values ({self.compared} elements in all)"
            )
        lines = [self._found(run, self.offender)]
        if self.offender.also:
            more = len(self.offender.also) - 4
            shown = ", ".join(self.offender.also[:4]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"  with it: {shown}")
        return "\n".join([*lines, *self._explained()])

    def _found(self, run: str, offender: Offender) -> str:
        if not self.repeatable:
            return (
                f"not repeatable: two runs in one process differ after step {offender.step}, "
                f"before anything is saved: {offender.name}: {offender.what}"
            )
        when = "right after loading" if offender.step == self.at else f"after step {offender.step}"
        return f"not resumable: {run}: first difference {when}: {offender.name}: {offender.what}"

    def _explained(self) -> list[str]:
        if not self.repeatable:
            return ["  seed its generators, and ask torch for deterministic algorithms"]
        lost = [f"  {loss}" for loss in self.losses[:4]]
        if len(self.losses) > 4:
            lost.append(f"  dtype loss in {len(self.losses) - 4} more")
        return lost + self._not_restored()

    def _not_restored(self) -> list[str]:
        if not self.causes:
            beyond = ", ".join(self.out_of_reach) or "nothing that was an attribute of the run"
            return [f"  cause not found: putting parts back did not help; out of reach: {beyond}"]
        causes = [str(cause) for cause in self.causes]
        if len(causes) == 1:
            return [f"  not restored: {causes[0]}"]
        what = "all of them have" if self.together else "each of them alone, put back,"
        ending = "to be restored" if self.together else "makes the bits equal"
        return ["  not restored:", *(f"    {cause}" for cause in causes), f"  {what} {ending}"]
