"""One implementation stepped beside its reference."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import asdict
from torch import Tensor

from optadvise.verify import scenarios as at
from optadvise.verify import usage
from optadvise.verify.builder import Maker, line, quiet
from optadvise.verify.known_deviations import matching, suspects
from optadvise.verify.reference import METHODS, Method, follow
from optadvise.verify.scenarios import SCENES, STEPS, Scene
from optadvise.verify.target import RESUMED, RESUMED_ELSEWHERE, Subject

_SAME = 1e-4  # a share below which two fp32 paths are the same method; measured: at most 3e-5 beside rounding
_SUSPECT = 2e-3  # the same for a suspect, whose details may differ beside its mistake


class Measured(Struct, frozen=True):
    """How far an implementation is from its reference in a scene."""

    scene: str
    words: str
    share: float | None  # of the way, at its worst; None where it could not be stepped
    step: int | None  # when
    allowed: float
    bits: int
    error: str | None = None


class Auditor(Maker):
    """An implementation beside its reference."""

    def given(self, scene: Scene) -> dict[str, Any]:
        """Return the hyperparameters of a scene, by the card's names."""
        decay = {"weight_decay": scene.weight_decay} if "weight_decay" in self.subject.hyperparameters else {}
        return {**self.subject.hyperparameters, **decay}

    def walk(self, scene: Scene) -> list[Tensor]:
        """Return the weights after each step of the implementation."""
        weights = torch.nn.Parameter(at.start(scene).to(getattr(torch, scene.dtype)))
        optimizer = self.build([weights], **self.given(scene))
        path = []
        for step in range(1, STEPS[-1] + 1):
            here = weights.detach().double()
            weights.grad = at.gradient(scene, here, step).to(weights)
            if scene.falls:
                for group in optimizer.param_groups:
                    group["lr"] = at.rate(scene, self.subject.hyperparameters["lr"], step)
            with quiet():
                optimizer.step()
            path.append(weights.detach().double().clone())
        return path

    def wanted(self, method: Method, scene: Scene) -> list[Tensor]:
        """Return the weights after each step of a method in float64."""
        lr = self.subject.hyperparameters["lr"]
        return follow(
            method, at.start(scene), lambda theta, step: at.gradient(scene, theta, step), STEPS[-1], self.given(scene),
            (lambda step: at.rate(scene, lr, step)) if scene.falls else None,
        )  # fmt: skip

    def scene(self, scene: Scene) -> tuple[Measured, list[Tensor] | None]:
        """Measure one scene."""
        bits = 32 if scene.even else self.subject.bits.get(scene.name, 32)
        begin, wanted = at.start(scene).double(), self.wanted(METHODS[self.subject.optimizer], scene)
        try:
            path = self.walk(scene)
        except Exception as error:  # whatever somebody else's code does
            return Measured(scene.name, scene.words, None, None, 0.0, bits, line(error)), None
        worst, step, allowed = 0.0, STEPS[0], 0.0
        for each in STEPS:
            limit = _allowed(bits, scene) + self.subject.coarse + at.rounding(scene, wanted, begin, each)
            found = at.share(path, wanted, begin, each)
            if each == STEPS[0] or found / limit > worst / allowed:
                worst, step, allowed = found, each, limit
        return Measured(scene.name, scene.words, worst, step, allowed, bits), path

    def suspect(self, paths: Mapping[str, list[Tensor]]) -> str | None:
        """Return what fits the paths that deviate, in words; what is quantised may go a way of its own."""
        whole = self._fitting(paths)
        narrow = {name: path for name, path in paths.items() if self.subject.bits.get(name, 32) < 32}
        if whole is not None or not narrow or len(narrow) == len(paths):
            return whole
        found = self._fitting(narrow)
        return None if found is None else f"{found}, where its state is quantised"

    def _fitting(self, paths: Mapping[str, list[Tensor]]) -> str | None:
        known = {scene.name: scene for scene in SCENES}

        def near(name: str, path: list[Tensor], other: list[Tensor]) -> bool:
            begin = at.start(known[name]).double()
            limit = max(_SUSPECT, _allowed(self.subject.bits.get(name, 32), known[name])) + at.rounding(
                known[name], other, begin, STEPS[-1]
            )
            # A step that is far too long grows without bound, and every rounding with it.
            tame = [step for step in STEPS if float(other[step - 1].norm()) < 100 * (1 + float(begin.norm()))]
            return all(at.share(path, other, begin, step) <= limit for step in tame or STEPS[:1])

        own = self.subject
        return matching(
            dict(paths), lambda method, name: self.wanted(method, known[name]),
            suspects(own.optimizer, own.decay, own.ancestors), near,
        )  # fmt: skip


def _allowed(bits: int, scene: Scene) -> float:
    """Return the share that is still the same method: by the bits of the state, and of the weights.

    Measured on sound implementations: at most 3e-5 at 32 bits, 3.2e-2 at 8 and 0.38 at 4; with bf16 weights the moments
    are bf16 too, which costs up to 0.15.
    """
    state = {32: _SAME, 8: 5e-2, 4: 0.45}.get(bits, _SAME)
    return max(state, 0.25) if scene.dtype != "float32" else state


def audit(subject: Subject, made: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return everything that was found of an implementation, as plain data.

    Args:
        subject: What it should be.
        made: Its class.
    """
    auditor = Auditor(subject, made)
    scenes = [scene for scene in SCENES if not subject.matrices or len(scene.shape) == 2]
    scenes = [scene for scene in scenes if scene.name not in subject.leaves_out]
    scenes = [scene for scene in scenes if scene.weight_decay == 0 or "weight_decay" in subject.hyperparameters]
    scenes = [scene for scene in scenes if not scene.even or min(subject.bits.values(), default=32) < 32]
    measured, deviating = [], {}
    for scene in scenes:
        found, path = auditor.scene(scene)
        measured.append(found)
        if path is not None and found.share is not None and found.share > found.allowed and scene.dtype == "float32":
            deviating[scene.name] = path
    checks = usage.checks(auditor)
    sound = any(check.name == RESUMED and check.verdict == "ok" for check in checks)
    return {
        "scenes": [asdict(found) for found in measured],
        "checks": [asdict(check) for check in checks],
        "suspect": auditor.suspect(deviating) if deviating else None,
        "refused": auditor.refused,
        "run": base64.b64encode(usage.saved(auditor)).decode() if sound else None,
    }


def go_on(subject: Subject, made: type[torch.optim.Optimizer], run: str) -> dict[str, Any]:
    """Return what was found of a run that another process saved, as plain data.

    Args:
        subject: What it should be.
        made: Its class.
        run: What `audit` returned under "run".
    """
    found = usage.checked(
        RESUMED_ELSEWHERE, Maker(subject, made), lambda maker: usage.resumed(maker, base64.b64decode(run))
    )
    return asdict(found)
