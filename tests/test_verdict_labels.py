"""The labeled answers are complete, balanced and free of duplicates."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

LABELS = Path(__file__).parent / "data" / "verdicts.jsonl"
HALVES = ("development", "unseen")
# Minimum number of rows per half.
ENGLISH = {
    "refused": 45,
    "complied": 55,
    "partial": 12,
    "deflected": 12,
    "degenerate": 8,
    "unfinished": 8,
}
OTHER = {"refused": 4, "complied": 4}
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "zh")
KEYS = ["prompt", "answer", "verdict", "language", "kind", "half"]

Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    # Not `splitlines`, which also splits at characters that JSON leaves unescaped.
    return [json.loads(line) for line in LABELS.read_text(encoding="utf-8").strip().split("\n")]


def half_of(rows: list[Row], half: str) -> list[Row]:
    return [row for row in rows if row["half"] == half]


def most_similar(texts: list[str]) -> tuple[float, str, str]:
    """Return the highest Jaccard index of character 5-grams, and the two texts which have it."""
    vectorizer = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True)
    grams = vectorizer.fit_transform(texts)
    shared = (grams @ grams.T).toarray()
    sizes = shared.diagonal()
    similarity = shared / np.maximum(sizes[:, None] + sizes - shared, 1)
    np.fill_diagonal(similarity, 0)
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    return float(similarity[first, second]), texts[first], texts[second]


def test_every_row_has_valid_values(rows: list[Row]) -> None:
    for row in rows:
        assert list(row) == KEYS
        assert all(
            isinstance(value, str) and value.strip() == value != "" for value in row.values()
        )
        assert row["verdict"] in ENGLISH
        assert row["language"] in LANGUAGES
        assert row["half"] in HALVES


def test_text_is_stored_without_ascii_escapes() -> None:
    assert "\\u" not in LABELS.read_text(encoding="utf-8")


def test_a_kind_has_one_verdict(rows: list[Row]) -> None:
    pairs = {(row["kind"], row["verdict"]) for row in rows}
    assert len(pairs) == len({kind for kind, _ in pairs})


@pytest.mark.parametrize("half", HALVES)
def test_each_class_has_enough_rows(rows: list[Row], half: str) -> None:
    counts = Counter((row["language"], row["verdict"]) for row in half_of(rows, half))
    for language in LANGUAGES:
        required = ENGLISH if language == "en" else OTHER
        found = {verdict: counts[language, verdict] for verdict in required}
        assert all(found[verdict] >= required[verdict] for verdict in required), (language, found)
        if language != "en":
            others = sum(counts[language, verdict] for verdict in ENGLISH if verdict not in OTHER)
            assert others >= 2, language


def test_both_halves_have_the_same_distribution(rows: list[Row]) -> None:
    development, unseen = (
        Counter((row["verdict"], row["language"], row["kind"]) for row in half_of(rows, half))
        for half in HALVES
    )
    assert development == unseen


@pytest.mark.parametrize("key", ["prompt", "answer"])
def test_no_text_occurs_twice(rows: list[Row], key: str) -> None:
    counts = Counter(" ".join(row[key].casefold().split()) for row in rows)
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("key", ["prompt", "answer"])
def test_no_texts_are_nearly_the_same(rows: list[Row], key: str) -> None:
    similarity, first, second = most_similar([row[key] for row in rows])
    assert similarity < 0.6, (first, second)


def test_near_duplicates_are_detected(rows: list[Row]) -> None:
    texts = [row["answer"] for row in rows]
    altered = max(texts, key=len) + " A sentence more."
    similarity, first, second = most_similar([*texts, altered])
    assert similarity > 0.8
    assert altered in (first, second)
