"""A whole number in a body is one however JSON writes it, and nothing else is."""

import json
from typing import Any

import pytest

from service.api.json_body import Members, validated
from service.errors import InvalidFields
from service.schemas.handoff_schemas import HandOffRequest
from service.schemas.key_schemas import RetireRequest


@pytest.mark.parametrize("written", ["60", "60.0", "6e1", "6.0E+1", "600e-1"])
def test_a_number_without_a_fraction_is_whole_however_it_is_written(written: str) -> None:
    sent = Members(json.loads(f'{{"ttl": {written}}}'))
    ttl = validated(HandOffRequest, sent).ttl
    assert (ttl, type(ttl)) == (60, int)
    version = validated(RetireRequest, Members(json.loads(f'{{"below_version": {written}}}'))).below_version
    assert (version, type(version)) == (60, int)


@pytest.mark.parametrize(
    "written",
    ["60.5", "300.0000001", "301.0", "0.0", "-0.0", "-1.0", "1e300", "1e400", "true", '"60"', '"60.0"', "[60]"],
)
def test_what_has_a_fraction_or_is_out_of_bounds_or_no_number_is_refused_by_its_name(written: str) -> None:
    members: dict[str, Any] = json.loads(f'{{"ttl": {written}}}')
    with pytest.raises(InvalidFields) as raised:
        validated(HandOffRequest, Members(members))
    assert [field for field, _ in raised.value.problems] == ["ttl"]


def test_the_document_still_says_a_bounded_integer() -> None:
    ttl = HandOffRequest.model_json_schema()["properties"]["ttl"]["anyOf"]
    assert ttl == [{"type": "integer", "minimum": 1, "maximum": 300}, {"type": "null"}]
    version = RetireRequest.model_json_schema()["properties"]["below_version"]
    assert (version["type"], version["minimum"], version["maximum"]) == ("integer", 1, 2**31 - 1)
