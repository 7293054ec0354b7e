"""A tabular benchmark: candidates that were trained once and for all, to try samplers on in seconds.

    table = Table.load("benchmarks/table/sst2.jsonl.gz")
    found = Benchmark(table).query(candidate, seed=3)

What was trained answers for itself; of everything else a surrogate says what it is probably worth, and that it does.
"""

from autopeft.benchmark._landscape import Landscape
from autopeft.benchmark._query import Answer, Benchmark
from autopeft.benchmark._surrogate import Surrogate
from autopeft.benchmark._table import Run, Table

__all__ = ["Answer", "Benchmark", "Landscape", "Run", "Surrogate", "Table"]
