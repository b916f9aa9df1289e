"""Detection of degenerate answers: empty, looping, off-script or cut within their thoughts."""

import unicodedata
import zlib
from collections import Counter
from functools import lru_cache
from typing import Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from heretic.prompts.prompt import Prompt
from heretic.scoring.thoughts import ends_in_thoughts, without_thoughts

# Prose compresses to a half or a third, tables and plans to a fifth, and a loop over a few words to
# far less.
LOOP_RATIO: Final = 0.15
LOOP_MIN_CHARACTERS: Final = 80
# For loops too short for compression: once greedy decoding repeats itself, it does so to the end of
# the answer.
TAIL_MIN_REPEATS: Final = 4
TAIL_MIN_CHARACTERS: Final = 24
TAIL_MIN_SHARE: Final = 0.5
# For loops with variations: few distinct n-grams among many.
N_GRAM: Final = 4
N_GRAM_MIN_WORDS: Final = 40
DISTINCT_N_GRAMS: Final = 0.35

SCRIPT_MIN_LETTERS: Final = 8
SCRIPT_SHARE: Final = 0.5
# Languages of shorter texts cannot be detected reliably.
LANGUAGE_MIN_LETTERS: Final = 60
PROMPT_MIN_LETTERS: Final = 20
PROMPT_MIN_PROBABILITY: Final = 0.5
ANSWER_MIN_PROBABILITY: Final = 0.95
# Single scripts to readers that are several in Unicode.
_SAME_SCRIPT: Final = {
    "HIRAGANA": "CJK",
    "KATAKANA": "CJK",
    "FULLWIDTH": "LATIN",
}


def is_degenerate(prompt: Prompt, answer: str) -> bool:
    """Return whether the answer, without thoughts, is unfinished, empty, looping or off-script."""
    if ends_in_thoughts(answer):
        return True
    text = without_thoughts(answer)
    return is_empty(text) or is_looping(text) or is_off_script(prompt, text)


def is_empty(answer: str) -> bool:
    """Return whether the answer has neither letters nor digits."""
    return not any(map(str.isalnum, answer))


@lru_cache(maxsize=8192)
def is_looping(answer: str) -> bool:
    """Return whether the answer repeats itself."""
    text = answer.strip()
    raw = text.encode()
    if len(raw) >= LOOP_MIN_CHARACTERS and len(zlib.compress(raw, 9)) < LOOP_RATIO * len(raw):
        return True
    if _repeating_tail(text) >= max(TAIL_MIN_CHARACTERS, TAIL_MIN_SHARE * len(text)):
        return True
    words = [word for word in text.casefold().split() if any(map(str.isalpha, word))]
    return _distinct_n_grams(words) < DISTINCT_N_GRAMS


def is_off_script(prompt: Prompt, answer: str) -> bool:
    """Return whether an answer is mostly in a script, or all in a language, foreign to the prompt.

    Requests to translate match too, before and after the edit. Languages are distinguished only in
    longer texts, and only if there is little doubt.
    """
    return _off_script(f"{prompt.text}\n{prompt.system or ''}", answer)


@lru_cache(maxsize=8192)
def _off_script(asked: str, answer: str) -> bool:
    scripts = _letters_by_script(answer)
    letters = scripts.total()
    known = _letters_by_script(asked)
    if not known:
        return False
    foreign = sum(count for script, count in scripts.items() if script not in known)
    if letters >= SCRIPT_MIN_LETTERS and foreign > SCRIPT_SHARE * letters:
        return True
    if letters < LANGUAGE_MIN_LETTERS or known.total() < PROMPT_MIN_LETTERS:
        return False
    (wanted, sure), (given, surer) = _language(asked), _language(answer)
    in_no_doubt = sure >= PROMPT_MIN_PROBABILITY and surer >= ANSWER_MIN_PROBABILITY
    return in_no_doubt and wanted != given


def _letters_by_script(text: str) -> Counter[str]:
    """Count the letters of each script, named by the first word of their Unicode names."""
    names = (unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha())
    return Counter(_SAME_SCRIPT.get(name, name) for name in names if name)


def _language(text: str) -> tuple[str, float]:
    """Return the most likely language of a text and its probability."""
    language, probability = _identifier().classify(text)
    return str(language), float(probability)


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _repeating_tail(text: str) -> int:
    """Return the length of the longest suffix that repeats one piece `TAIL_MIN_REPEATS` times."""
    longest = 0
    for period in range(1, len(text) // TAIL_MIN_REPEATS + 1):
        length = period
        while length < len(text) and text[-1 - length] == text[-1 - length + period]:
            length += 1
        if length >= TAIL_MIN_REPEATS * period:
            longest = max(longest, length)
    return longest


def _distinct_n_grams(words: list[str]) -> float:
    """Return the share of distinct n-grams; 1 for a text that is too short."""
    if len(words) < N_GRAM_MIN_WORDS:
        return 1.0
    grams = [tuple(words[at : at + N_GRAM]) for at in range(len(words) - N_GRAM + 1)]
    return len(set(grams)) / len(grams)
