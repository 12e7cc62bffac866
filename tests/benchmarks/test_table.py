from benchmarks.table import markdown_table


def test_a_table_is_padded_and_aligned() -> None:
    assert markdown_table(["name", "n"], [["a", "10"], ["total", "7"]]).splitlines() == [
        "| name  |  n |",
        "|-------|---:|",
        "| a     | 10 |",
        "| total |  7 |",
    ]
