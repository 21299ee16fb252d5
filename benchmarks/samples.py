"""Moments of a made-up full fine-tune, for what draws and streams them: five bands, with noise."""

from __future__ import annotations

import random

from memwb.engine.protocol import Categories, Sample

MIB = 2**20
FORWARD, BACKWARD = 0.4, 0.88
"""The shares of a step after which each of the two is over."""
WEIGHTS, STATE, KEPT = 2880 * MIB, 5760 * MIB, 4200 * MIB


def sample(when: float, step: int, part: float, noise: random.Random) -> Sample:
    """What is held ``when`` seconds after the start, with ``part`` of the step over."""
    phase, kept, gradients = "optimizer", 0.0, 1.0
    if part < FORWARD:
        phase, kept, gradients = "forward", part / FORWARD, 0.0
    elif part < BACKWARD:
        phase, gradients = "backward", (part - FORWARD) / (BACKWARD - FORWARD)
        kept = 1 - gradients
    made = 1.0 if step > 1 else max(0.0, (part - BACKWARD) / (1 - BACKWARD))
    held = Categories(
        WEIGHTS,
        int(WEIGHTS * gradients),
        int(STATE * made),
        int(KEPT * kept),
        noise.randrange(20 * MIB, 500 * MIB),
    )
    total = held.total
    return Sample(when, step, phase, total, total + 300 * MIB, total + 900 * MIB, held)


def burst(points: int, steps: int, seed: int = 0) -> list[Sample]:
    """All of it at once, a sample a millisecond."""
    noise = random.Random(seed)
    each = points // steps
    return [
        sample(at * 1e-3, at // each + 1, at % each / each, noise) for at in range(each * steps)
    ]
