"""One HTML page about a dataset of masklets: figures, and of each video a filmstrip with its masklets drawn in."""

import base64
import html
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from models.masks.rle import bounding_boxes
from pipeline.overlay import draw_mask
from pipeline.sources.places import dataset_places
from pipeline.store.storage import Folder, split_file
from pipeline.video.masklets import Masklets
from stages.read_video import VideoFrames
from stages.video_settings import VideoSettings

PAGE = "report/index.html"
FRAMES_PER_STRIP = 6
_WIDTH = 320  # pixels of a picture
_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:130em}figure{margin:1.5em 0}figcaption{color:#555}"
    "img{max-width:100%}td,th{padding:.2em 1em .2em 0;text-align:left}"
)


@dataclass(frozen=True)
class VideoReportSummary:
    """The page that was written."""

    output: str
    videos: int
    failed: int
    masklets: int
    strips: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def write_video_report(masklets: Masklets, output: str | None = None, num_strips: int = 24) -> VideoReportSummary:
    """Write the page to the file `output`, or to `report/index.html` in the dataset."""
    videos = masklets.query("SELECT * FROM videos ORDER BY video_id").to_pylist()
    recipe = (masklets.record() or {}).get("recipe", {})
    failed = [row for row in videos if row["status"] == "failed"]
    figures = {
        "videos": len(videos),
        "failed": len(failed),
        "frames": sum(row["num_frames"] or 0 for row in videos),
        "masklets": sum(row["num_masklets"] for row in videos),
    }
    parts = [f"<tr><th>{name}</th><td>{value:,}</td></tr>" for name, value in figures.items()]
    body = [f"<h1>{html.escape(masklets.uri)}</h1><table>{''.join(parts)}</table>"]
    body += [f"<p>{html.escape(row['video_id'])}: {html.escape(row['error'])}</p>" for row in failed]
    num = 0
    places = dataset_places(masklets.uri, masklets.allow)
    for rows in masklets.videos():
        if num == num_strips:
            break
        try:
            places.check(rows[0]["uri"])
            strip = filmstrip(rows, VideoSettings.model_validate(recipe.get("video", {})))
        except Exception as error:  # the video may be gone since; the page says so
            body.append(f"<p>{html.escape(rows[0]['video_id'])}: not shown ({html.escape(str(error))})</p>")
            continue
        num += 1
        done, data = cv2.imencode(".jpg", strip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
        assert done, "JPEG encoding of a valid image cannot fail"
        picture = base64.b64encode(data.tobytes()).decode("ascii")
        caption = f"{html.escape(rows[0]['video_id'])}: {len(rows)} masklets on {rows[0]['num_frames']} frames"
        body.append(f'<figure><img src="data:image/jpeg;base64,{picture}"><figcaption>{caption}</figcaption></figure>')
    page = f"<!doctype html><meta charset=utf-8><title>Masklets</title><style>{_STYLE}</style>{''.join(body)}"
    target, name = (Folder(masklets.uri), PAGE) if output is None else split_file(output)
    target.write(name, page.encode())
    where = f"{masklets.uri.rstrip('/')}/{PAGE}" if output is None else output
    return VideoReportSummary(where, len(videos), len(failed), figures["masklets"], num)


def filmstrip(rows: list[dict[str, Any]], settings: VideoSettings) -> np.ndarray:
    """Frames from the first to the last, side by side, with the masklets of one video; (h, w, 3) uint8 RGB."""
    first = rows[0]
    chosen = np.unique(np.linspace(0, first["num_frames"] - 1, FRAMES_PER_STRIP).round().astype(int)).tolist()
    pictures = []
    with VideoFrames(first["uri"], settings) as frames:
        for frame in chosen:
            image = draw_frame(frames[frame], rows, frame)
            height = max(1, round(_WIDTH * image.shape[0] / image.shape[1]))
            pictures.append(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA))
    return np.hstack(pictures)


def draw_frame(image: np.ndarray, rows: list[dict[str, Any]], frame: int) -> np.ndarray:
    """`image` (H, W, 3) uint8 with what each masklet of its video is on `frame`, always in the masklet's own colour."""
    drawn = image.copy()
    seen = [row for row in rows if frame >= row["key_frame"] and row["areas"][frame - row["key_frame"]]]
    for row in sorted(seen, key=lambda row: -max(row["areas"])):
        rle = row["rles"][frame - row["key_frame"]]
        draw_mask(drawn, rle, bounding_boxes([rle], row["height"])[0].tolist(), row["object_id"])
    return drawn
