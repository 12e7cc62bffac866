"""SAM 2's finer features, which are added while masks are upscaled (Ravi et al. 2024, arXiv:2408.00714, section 4)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Skips:
    """Of G images, channels last, in the order in which `MaskDecoder.upscale_cells` makes pixels: cell by cell."""

    fine: Tensor  # (G, n*2*2*2*2, C/8), a cell's y and x twice
    middle: Tensor  # (G, n*2*2, C/4)

    @classmethod
    def of(cls, fine: Tensor, middle: Tensor) -> "Skips":
        """From feature maps (G, C/8, 4E, 4E) and (G, C/4, 2E, 2E)."""
        cells = fine.shape[-1] // 4
        fine = fine.unflatten(3, (cells, 2, 2)).unflatten(2, (cells, 2, 2))  # (G, C/8, E, y, y, E, x, x)
        middle = middle.unflatten(3, (cells, 2)).unflatten(2, (cells, 2))  # (G, C/4, E, y, E, x)
        return cls(
            fine.permute(0, 2, 5, 3, 6, 4, 7, 1).flatten(1, 6),
            middle.permute(0, 2, 4, 3, 5, 1).flatten(1, 4),
        )

    def split(self) -> "list[Skips]":
        """Image by image, each with G 1."""
        return [Skips(fine, middle) for fine, middle in zip(self.fine.split(1), self.middle.split(1), strict=True)]

    def of_prompts(self, chosen: Tensor, num_prompts: int) -> "Skips":
        """Those of the images of some (P,) of all prompts; one image stays one, as it serves them all."""
        if len(self.fine) == 1:
            return self
        images = chosen // (num_prompts // len(self.fine))
        return Skips(self.fine[images], self.middle[images])

    def of_cells(self, start: int, count: int) -> "Skips":
        """Those of `count` cells in a row."""
        return Skips(self.fine[:, 16 * start : 16 * (start + count)], self.middle[:, 4 * start : 4 * (start + count)])
