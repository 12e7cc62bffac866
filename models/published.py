"""Weights that their authors publish: where they are and which bytes they are. Fetched by `models.weights`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedWeights:
    """One file; `family` says which kind of model it holds."""

    name: str
    family: str
    url: str
    sha256: str
    num_bytes: int

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[1]


_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"

PUBLISHED: dict[str, PublishedWeights] = {
    weights.name: weights
    for weights in (
        PublishedWeights(
            "sam_vit_h",
            "sam",
            f"{_SAM_URL}/sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
        ),
        PublishedWeights(
            "sam_vit_l",
            "sam",
            f"{_SAM_URL}/sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
        ),
        PublishedWeights(
            "sam_vit_b",
            "sam",
            f"{_SAM_URL}/sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
        ),
    )
}
