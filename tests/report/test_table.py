"""The before/after table: values as people read them, and in a terminal."""

from typing import Any

import pytest

from heretic.evaluation.number_format import nats, p_value, percent, short
from heretic.evaluation.summary import category_tables, paired_rows, summarize_evaluation
from heretic.report import summary_table


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "0%"), (1, "100%"), (2 / 128, "1.6%"), (0.1, "10%"), (1e-5, "<0.1%"), (0.99999, ">99.9%")],
)
def test_percentages_never_round_to_all_or_nothing(rate: float, shown: str) -> None:
    assert percent(rate) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.02534, "0.0253"), (0.5, "0.500"), (12.34, "12.3"), (3e-7, "3e-07")],
)
def test_divergences_keep_small_values(value: float, shown: str) -> None:
    assert nats(value) == shown


def test_parameters_are_short() -> None:
    assert (short("1.2345678"), short("per_layer"), short(3)) == ("1.235", "per_layer", "3")


def test_table_fits_a_hundred_columns_and_cuts_nothing(evaluation: dict[str, Any]) -> None:
    text = summary_table(evaluation)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    summary = summarize_evaluation(evaluation)
    for row in summary.rows:
        for cell in row.cells:
            assert cell.value in text
            assert cell.count in text
    assert "0.0202-0.0329" in text
    assert all(
        word in text for heading in summary.headings for word in heading.lower().split()
    ) or (all(word.lower() in text.lower() for h in summary.headings for word in h.split()))


def test_rows_stand_in_order_with_every_control(evaluation: dict[str, Any]) -> None:
    evaluation["controls"]["another_one"] = evaluation["controls"]["noop"]
    assert [row.label for row in summarize_evaluation(evaluation).rows] == [
        "Original",
        "Edited",
        "Control: no-op",
        "Control: random direction",
        "Control: shuffled labels",
        "Control: another one",
    ]
    text = summary_table(evaluation)
    assert text.index("shuffled") > text.index("random")


def test_a_measure_that_only_some_models_have_is_marked(evaluation: dict[str, Any]) -> None:
    del evaluation["original"]["kept"]
    evaluation["controls"]["noop"] = evaluation["original"]
    summary = summarize_evaluation(evaluation)
    column = summary.keys.index("kept")
    assert [row.cells[column].value for row in summary.rows] == [
        *("n/a", "91.4%", "n/a", "90.6%", "89.8%")
    ]
    controls = [evaluation["controls"][name] for name in ("random_direction", "shuffled_labels")]
    for part in (evaluation["edited"], *controls):
        del part["kept"]
    assert "kept" not in summarize_evaluation(evaluation).keys


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1"), (0.9996, "1.000"), (0.0312, "0.031"), (0.0009, "<0.001")]
)
def test_probabilities_are_no_more_exact_than_they_need_be(value: float, shown: str) -> None:
    assert p_value(value) == shown


def test_paired_tests_stand_in_the_order_of_the_table(evaluation: dict[str, Any]) -> None:
    evaluation["paired"] = dict(reversed(evaluation["paired"].items()))
    rows = [(r.label, r.only_original, r.only_edited, r.p_value) for r in paired_rows(evaluation)]
    assert rows == [("Refusals", 126, 0, "<0.001"), ("Kept", 3, 2, "1")]
    del evaluation["paired"]
    assert paired_rows(evaluation) == ()


def test_categories_have_a_row_each_with_both_models(evaluation: dict[str, Any]) -> None:
    (name, table), *more = category_tables(evaluation).items()
    assert (name, more) == ("bad_holdout_prompts", [])
    assert table.headings == (
        "Refusals, original", "Refusals, edited", "Recovered, original", "Recovered, edited",
    )  # fmt: skip
    assert [[cell.count or cell.value for cell in row.cells] for row in table.rows] == [
        ["60/60", "2/60", "0/60", "57/60"],
        ["68/68", "0/68", "n/a", "n/a"],
    ]


def test_columns_that_do_not_fit_stand_below(evaluation: dict[str, Any]) -> None:
    for part in (evaluation["original"], evaluation["edited"], *evaluation["controls"].values()):
        part["scores"] = {
            f"score_number_{n}": {"value": 1234.5 + n, "interval": [1000.5, 2000.5]}
            for n in range(4)
        }
    text = summary_table(evaluation)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"{1234.5 + n:.4g}" in text for n in range(4))
    assert text.count("Edited") == 2
    assert text.count("Held-out prompts") == 1
