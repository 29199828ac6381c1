"""The benchmarks' SQL, loaded as the service loads its own."""

from importlib.resources import files

from service.postgres.queries import load

QUERIES = load((files("benchmarks") / "queries.sql").read_text())
USUAL = load((files("benchmarks") / "alternatives.sql").read_text())
