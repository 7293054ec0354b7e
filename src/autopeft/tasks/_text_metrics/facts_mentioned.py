"""``facts_mentioned``: of the facts that E2E's prompts give, the share that stands in what was written.

Texts are compared in lower case, without accents, punctuation and articles; numbers up to five, twenty and thirty may
be words, and "center" is "centre". A name, what it is near, its food, area and kind are mentioned where exactly these
words stand one after the other. A price range or a rating is mentioned where one of the wordings of its row in
`_WORDINGS` stands; "cheap" is not taken for "less than £20". Whether it is for families is told by a word for families,
children or adults and whether a negation stands near: that is coarse, as a sentence can negate it in many ways.

Only what is said is looked for: a wrong fact beside a right one costs nothing here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from autopeft.tasks._examples import Examples
from autopeft.tasks._text_metrics._text_metric import TextMetric

_SLOT = re.compile(r"([^,\[\]]+)\[([^\[\]]*)\]")

_AS_DIGITS = MappingProxyType(
    {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "twenty": "20", "thirty": "30", "center": "centre"}
)
_ARTICLES = frozenset({"a", "an", "the"})

_PRICE = r"(?:pric\w*|cost\w*)"
_RATING = r"(?:rat\w*|review\w*|scor\w*|rank\w*)"


def _beside(one: str, other: str, between: int = 3) -> str:
    """A pattern of two words in either order, with at most so many others between them."""
    gap = rf" (?:\w+ ){{0,{between}}}"
    return f"{one}{gap}{other}|{other}{gap}{one}"


_WORDINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "priceRange": {
            "cheap": rf"cheap\w*|inexpensive\w*|{_beside('low', _PRICE)}",
            "less than £20": r"(?:less than|under|below) 20",
            "moderate": rf"moderate\w*|mid range|{_beside('(?:mid|medium|average|reasonabl[ey])', _PRICE)}",
            "£20-25": r"20 (?:to |and )?(?:25|20 5)",
            "high": rf"expensive\w*|pricey|{_beside('high(?:ly)?', _PRICE)}",
            "more than £30": r"(?:more than|over|above) 30",
        },
        "customer rating": {
            "low": _beside("(?:low|poor|poorly|bad|badly)", _RATING),
            "average": _beside("average", _RATING),
            "high": _beside("(?:high|highly|well|good|great|excellent)", _RATING),
            **{f"{stars} out of 5": rf"{stars} (?:out )?(?:of )?5|{stars} stars?" for stars in (1, 3, 5)},
        },
    }
)
"""What is taken for a value that people seldom repeat word for word, as patterns over the words of a text."""

_FAMILY = r"(?:famil\w*|kids?|child\w*)"
_NO = r"(?:no|not|non|never|cannot|isn t|isnt|doesn t|don t|aren t|unfriendly|unsuitable|inappropriate|without)"
_FOR_FAMILIES = re.compile(rf"\b{_FAMILY}\b")
_NOT_FOR_FAMILIES = re.compile(rf"\b(?:{_NO} (?:\w+ ){{0,4}}{_FAMILY}|{_FAMILY} (?:\w+ ){{0,3}}{_NO}|adults?)\b")


def words_of(text: str) -> str:
    """The words that are compared, one space between them; see the head of this file."""
    bare = "".join(sign for sign in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(sign))
    words = (_AS_DIGITS.get(word, word) for word in re.findall(r"[^\W_]+", bare))
    return " ".join(word for word in words if word not in _ARTICLES)


def facts_of(prompt: str) -> dict[str, str]:
    """Slots and values of a meaning such as ``name[Clowns], food[English]``; nothing where a text has no such form."""
    return {slot.strip(): value.strip() for slot, value in _SLOT.findall(prompt)}


def is_mentioned(slot: str, value: str, text: str) -> bool:
    """Whether a fact stands in a text."""
    words = words_of(text)
    if slot == "familyFriendly":
        is_not = bool(_NOT_FOR_FAMILIES.search(words))
        # Who says nothing of families has not said that they are unwelcome.
        return is_not if value == "no" else bool(_FOR_FAMILIES.search(words)) and not is_not
    wording = _WORDINGS.get(slot, {}).get(value)
    if wording is not None:
        return bool(re.search(rf"\b(?:{wording})\b", words))
    return f" {words_of(value)} " in f" {words} "


def facts_mentioned(said: Sequence[str], examples: Examples) -> float:
    """The share of all facts of all examples that are mentioned; NaN where the prompts give none."""
    found = [
        is_mentioned(slot, value, text)
        for text, (prompt, *_) in zip(said, examples.texts, strict=True)
        for slot, value in facts_of(prompt).items()
    ]
    return sum(found) / len(found) if found else math.nan


MEMBERS: Mapping[str, TextMetric] = {"facts_mentioned": TextMetric(facts_mentioned, is_general=False)}
