"""Churn and gate as tables for a person."""

from typing import Any

from rich.table import Column, Table


def churn_table(churn: dict[str, Any]) -> Table:
    """What a refresh changed: masks by what became of them, as shares of those before."""
    before = churn["kept"] + churn["changed"] + churn["gone"]
    table = Table("masks", Column("number", justify="right"), Column("of those before", justify="right"))
    for name, label in (
        ("kept", "kept (IoU ≥ .9)"),
        ("changed", "changed (IoU ≥ .5)"),
        ("gone", "gone"),
        ("new", "new"),
    ):
        table.add_row(label, f"{churn[name]:,}", f"{churn[name] / before:.1%}" if before else "–")
    table.add_row("mean IoU of matches", figure(churn["mean_iou"]), "")
    table.add_row("people's masks, carried over", f"{churn['human']:,}", "")
    table.add_row("of these beside a mask of the model", f"{churn['human_matched']:,}", figure(churn["mean_human_iou"]))
    return table


def gate_table(gate: dict[str, Any]) -> Table:
    """The measures before and after."""
    right = [Column(name, justify="right") for name in ("before", "after", "")]
    table = Table("held out", *right)
    for name, after in gate["after"].items():
        before = gate["before"][name] if gate["before"] else None
        table.add_row(name, figure(before), figure(after), "fell" if name in gate["fell"] else "")
    return table


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def rounds_table(rounds: list[dict[str, Any]]) -> Table:
    """A loop's rounds: figures on the held-out set, and how many masks changed."""
    names = list(next((one["figures"] for one in rounds if one["figures"]), {}))
    headers = [*names, "kept", "changed", "new", "gone"]
    table = Table("round", *(Column(name, justify="right") for name in headers))
    for one in rounds:
        figures = [figure((one["figures"] or {}).get(name)) for name in names]
        churn = one["churn"] or {}
        counts = [f"{churn[name]:,}" if name in churn else "–" for name in ("kept", "changed", "new", "gone")]
        table.add_row("–" if one["round"] is None else str(one["round"]), *figures, *counts)
    return table
