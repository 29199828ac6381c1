"""What the application does not do."""

import pytest

from service.app import create_app


def test_the_frameworks_own_telemetry_is_off_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # It records validation failures and exceptions with their messages, which quote what was sent.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    telemetry = create_app()._telemetry
    assert telemetry
    assert not any(value for name, value in telemetry.items() if isinstance(value, bool)), telemetry
