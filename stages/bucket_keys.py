"""S3 keys taken as they are."""

from typing import Any

from s3fs import S3FileSystem

VERSION_MARK = "?versionId="


class LiteralKeys(S3FileSystem):
    """s3fs takes `?versionId=` for no part of a key, though a key may hold any text; here it is one."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        bucket, key, _ = super().split_path(path.partition(VERSION_MARK)[0])
        _, mark, rest = path.partition(VERSION_MARK)
        return bucket, f"{key}{mark}{rest}", None

    @staticmethod
    def _get_kwargs_from_urls(urlpath: str) -> dict[str, Any]:
        return {}
