"""Read and decode images: bytes to upright 8-bit RGB pixels, or a failed row that says why not."""

import hashlib
import time
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from models.url_credentials import redact
from stages.allowed_places import NOWHERE, AllowedPlaces
from stages.attempts import Attempts, time_limit
from stages.decode_pixels import DecodeSettings, decode_image
from stages.near_duplicates import NearDuplicates
from stages.read_source import read_source, source_etag
from stages.record import SCHEMA, set_columns

MAX_ATTEMPTS = 2  # of an image at which a worker died or hung


def perceptual_hash(pixels: np.ndarray) -> str:
    """64-bit pHash (Zauner 2010) as 16 hex digits: the signs of the lowest 8×8 cosine coefficients of the grey image at
    32×32 against their median; near-duplicates differ in few bits."""
    grey = cv2.cvtColor(cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    low = cv2.dct(grey.astype(np.float32))[:8, :8].reshape(-1)
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


class DecodeImages:
    """Stage: rows of a listing gain the image's columns and `pixels` (raw RGB bytes).

    Reading and decoding together have `timeout` seconds an image, then the worker's process ends, as nothing else ends
    a hang in native code; an image at which MAX_ATTEMPTS workers ended, by that or by a crash, has failed. With
    `duplicates` an image that nearly repeats another says so in `duplicate_of`, and with `skip_duplicates` it goes no
    further (`status` is `skipped`). An image outside of `places` has failed, and nobody is asked for it.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        attempts: Attempts,
        timeout: float | None,
        duplicates: NearDuplicates | None = None,
        skip_duplicates: bool = False,
        places: AllowedPlaces = NOWHERE,
    ) -> None:
        self.settings = settings
        self.attempts = attempts
        self.timeout = timeout
        self.duplicates = duplicates
        self.skip_duplicates = skip_duplicates
        self.places = places

    def __call__(self, batch: pa.Table) -> pa.Table:
        sources = batch.select(["image_id", "uri", "source_etag", "offset", "size"])
        rows = [self._row(source) for source in sources.to_pylist()]
        names = (
            "source_etag",
            "content_sha256",
            "phash",
            "duplicate_of",
            "width",
            "height",
            "status",
            "error",
            "decode",
        )
        columns = {name: pa.array([row.get(name) for row in rows], SCHEMA.field(name).type) for name in names}
        columns["pixels"] = pa.array([row.get("pixels") for row in rows], pa.large_binary())
        columns["decode_seconds"] = pa.array([row["decode_seconds"] for row in rows], pa.float64())
        return set_columns(batch, columns)

    def _row(self, source: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        row: dict[str, Any] = {"source_etag": source["source_etag"]}
        key = f"decode {source['image_id']}"
        try:
            if self.attempts.begin([key])[0] > MAX_ATTEMPTS:
                raise RuntimeError(f"the worker died or hung at each of {MAX_ATTEMPTS} attempts")
            with time_limit(self.timeout):
                self._read(source, row)
        except Exception as error:  # any file may be broken in any way: the reason is kept in its row
            row |= {"status": "failed", "error": f"decode: {describe(error)}"}
        self.attempts.done([key])
        row["decode_seconds"] = time.perf_counter() - started
        return row

    def _read(self, source: dict[str, Any], row: dict[str, Any]) -> None:
        self.places.check(source["uri"])
        if row["source_etag"] is None:
            row["source_etag"] = source_etag(source["uri"])
        data = read_source(source["uri"], source["offset"], source["size"], self.settings.max_bytes)
        row["content_sha256"] = hashlib.sha256(data).hexdigest()
        image = decode_image(data, self.settings)
        height, width = image.pixels.shape[:2]
        row |= {
            "status": "ok",
            "width": width,
            "height": height,
            "phash": perceptual_hash(image.pixels),
            "decode": image.record(),
            "pixels": image.pixels.tobytes(),
        }
        if self.duplicates is not None:
            row["duplicate_of"] = self.duplicates.original(source["image_id"], row["phash"])
            if self.skip_duplicates and row["duplicate_of"] is not None:
                row |= {"status": "skipped", "error": "dedup: near-duplicate", "pixels": None}


def describe(error: Exception) -> str:
    """One line for a row's `error`: the kind of error and its message, without the addresses of objects in it and the
    credentials in those of stores."""
    message = redact(" ".join(str(error).split()).split(" <_io.", 1)[0])[:300]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
