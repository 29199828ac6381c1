"""What the application does not do."""

import pytest

from service.app import create_app
from service.errors import ConfigurationError
from tests.unit.fake_runtime import Part, client_of, settings


def test_the_frameworks_own_telemetry_is_off_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # It records validation failures and exceptions with their messages, which quote what was sent.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    telemetry = create_app()._telemetry
    assert telemetry
    assert not any(value for name, value in telemetry.items() if isinstance(value, bool)), telemetry


async def test_a_service_without_a_token_issuer_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"^CREDENTIALS_OIDC_ISSUER: is not set"):
        create_app(settings())
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere")
    monkeypatch.setenv("VAULT_ADDR", "https://nowhere")
    app = create_app()
    with pytest.raises(ConfigurationError, match=r"^CREDENTIALS_OIDC_ISSUER: is not set"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_may_be_asked_with_head(path: str) -> None:
    part = Part()
    part.result = []
    async with client_of(part) as client:
        asked = await client.head(path)
        refused = await client.put(path)
    assert asked.status_code == 200
    assert refused.headers["allow"] == "GET, HEAD"
