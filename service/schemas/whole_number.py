"""A whole number as JSON has it: `60`, and also `60.0` or `6e1`, which JSON Schema takes for the same integer.

Bodies are validated strictly, and strictly pydantic takes no `float` for an `int`. But JSON knows only numbers (RFC
8259, section 6), some libraries write each of them with a fraction, and the OpenAPI document says `integer`
(https://json-schema.org/draft/2020-12/json-schema-validation#section-6.1.1).
"""

from pydantic import BeforeValidator


def _without_fraction(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_without_fraction)
"""To annotate an `int` with, behind its bounds, which the document would not have otherwise."""
