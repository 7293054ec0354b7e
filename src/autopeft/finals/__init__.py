"""After a search: who is invited to the finals, how they are trained, and what may be said of the winner.

A search chooses by one noisy run an architecture. Here few candidates, and the uniform architectures that anybody would
try, get the same care: the same number of learning rates, the same seeds. The choice is made on the validation part;
the test part says how good it was.
"""

from autopeft.finals.finalists import Band, Finalist, bands, invite
from autopeft.finals.heats import Entry, Heats, Plan
from autopeft.finals.hold import Finals, hold_finals
from autopeft.finals.verdict import Comparison, Verdict, judge

__all__ = [
    "Band",
    "Comparison",
    "Entry",
    "Finalist",
    "Finals",
    "Heats",
    "Plan",
    "Verdict",
    "bands",
    "hold_finals",
    "invite",
    "judge",
]
