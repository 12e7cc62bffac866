"""Names of masks, which are to be unique in a dataset."""

import re

_BEHIND_IMAGE = re.compile(r"/\d+/\d+")  # round and number


def is_own_name(mask_id: str, image_id: str) -> bool:
    """Whether a name is one of those that we give, which begin with the image's id: no other image's mask has it."""
    return mask_id.startswith(image_id) and _BEHIND_IMAGE.fullmatch(mask_id, len(image_id)) is not None
