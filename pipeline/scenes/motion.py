"""How things move in a clip: smooth periodic paths, evaluated at any frame."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Wave:
    """middle + reach · sin(2π · (frame / period + phase)), and `rate` more each frame."""

    middle: float
    reach: float = 0.0
    period: float = 1.0  # frames
    phase: float = 0.0
    rate: float = 0.0

    def at(self, frame: int) -> float:
        return (
            self.middle
            + self.rate * frame
            + self.reach * float(np.sin(2.0 * np.pi * (frame / self.period + self.phase)))
        )


@dataclass(frozen=True)
class Motion:
    """A similarity with some squash, moving with time: where a point of an object (or of the world) is in a frame."""

    x: Wave
    y: Wave
    angle: Wave  # radians
    log_size: Wave
    log_squash: Wave  # height over width

    def matrix(self, frame: int, origin: tuple[float, float]) -> np.ndarray:
        """(3, 3): takes `origin` to (x, y) and turns and scales around it."""
        cos, sin = np.cos(self.angle.at(frame)), np.sin(self.angle.at(frame))
        size, squash = np.exp(self.log_size.at(frame)), np.exp(0.5 * self.log_squash.at(frame))
        turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([size / squash, size * squash])
        out = np.eye(3)
        out[:2, :2] = turn
        out[:2, 2] = (self.x.at(frame), self.y.at(frame)) - turn @ origin
        return out


def sample_motion(rng: np.random.Generator, width: int, height: int) -> Motion:
    """A moving object's path over a world of (width, height) pixels; one in two goes out of sight and comes back."""
    wide = rng.random() < 0.5
    reach = rng.uniform(0.35, 0.6) if wide else rng.uniform(0.02, 0.3)
    along = rng.uniform(0.0, 2.0 * np.pi)
    swing = rng.uniform(0.0, 0.5)
    return Motion(
        x=_wave(rng, rng.uniform(0.25, 0.75) * width, reach * width * abs(np.cos(along))),
        y=_wave(rng, rng.uniform(0.25, 0.75) * height, reach * height * abs(np.sin(along))),
        angle=_wave(rng, rng.uniform(-0.4, 0.4), swing, rate=rng.normal(0.0, 0.05) if rng.random() < 0.25 else 0.0),
        log_size=_wave(rng, 0.0, rng.uniform(0.0, 0.25)),
        log_squash=_wave(rng, 0.0, rng.uniform(0.0, 0.2) if rng.random() < 0.5 else 0.0),
    )


def sample_camera_motion(rng: np.random.Generator, width: int, height: int, margin: float) -> Motion:
    """How the world's middle moves in a frame of (width, height) pixels, so that a margin of that share is enough."""
    still = rng.random() < 0.3
    pan = 0.0 if still else rng.uniform(0.1, 0.7) * margin
    return Motion(
        x=_wave(rng, 0.5 * width, pan * width),
        y=_wave(rng, 0.5 * height, 0.5 * pan * height),
        angle=_wave(rng, 0.0, 0.0 if still else 0.1 * margin),
        log_size=_wave(rng, 0.0, 0.0 if still else 0.2 * margin),
        log_squash=Wave(0.0),
    )


def _wave(rng: np.random.Generator, middle: float, reach: float, rate: float = 0.0) -> Wave:
    period = float(np.exp(rng.uniform(np.log(30.0), np.log(120.0))))
    return Wave(float(middle), float(reach), period, float(rng.random()), float(rate))
