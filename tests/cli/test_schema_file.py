"""`autopeft schema --out` replaces what it wrote itself, and nothing else."""

from __future__ import annotations

from pathlib import Path

from small_case import call


def test_a_schema_is_written_over_a_schema_and_over_nothing_else(tmp_path: Path) -> None:
    schema, config = tmp_path / "settings.schema.json", tmp_path / "config.json"
    assert [call("schema", "--out", schema).code for _ in range(2)] == [0, 0]
    config.write_text('{"model_type": "bert"}')
    found = call("schema", "--out", config)
    assert (found.code, "it is not replaced" in found.err) == (2, True)
    assert config.read_text() == '{"model_type": "bert"}'
