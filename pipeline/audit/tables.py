"""An audit's result for a person."""

from rich.table import Table

from pipeline.audit.measure import AuditResult, Share


def audit_table(result: AuditResult) -> Table:
    """Shares of all pairs, with the interval that holds the true ones, and by size."""
    table = Table("masks", "pairs", "IoU above .90", "IoU above .75", title="Model's masks against people's")
    intervals = [_interval(result.interval_90), _interval(result.interval_75)]
    shares = {"all": result.all, **result.by_size}
    for name, share in shares.items():
        notes = intervals if name == "all" else ["", ""]
        table.add_row(name, f"{share.pairs:,}", *(one + note for one, note in zip(_texts(share), notes, strict=True)))
    return table


def _texts(share: Share) -> list[str]:
    return ["–" if one is None else f"{one:.1%}" for one in (share.above_90, share.above_75)]


def _interval(borders: tuple[float, float] | None) -> str:
    return "" if borders is None else f" ({borders[0]:.1%} to {borders[1]:.1%})"
