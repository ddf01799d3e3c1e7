"""The control plane as a FastAPI app. `asgi.py` puts the hot path of events in front of it."""

from datetime import UTC, datetime
from typing import Any

from fastapi import Depends, FastAPI

from infra.kafka.producer import Producer
from infra.postgres.tenants import ROOT_TENANT_ID, ensure_root_key
from infra.postgres.users import ensure_user
from ingestion_api import access_log, health, openapi, problems
from ingestion_api.auth import bearer_of, secret_sha256
from ingestion_api.context import Context
from ingestion_api.control import (
    addons,
    alerts,
    api_keys,
    cancellation,
    coupons,
    credit_notes,
    customers,
    documents,
    features,
    given_entitlements,
    invoice_actions,
    invoices,
    meter_changes,
    meters,
    one_off,
    parking,
    payment_providers,
    payments,
    plans,
    preview,
    pricing,
    refunds,
    settings,
    subscription_changes,
    subscription_pauses,
    subscriptions,
    tax_rates,
    tenants,
    test_clocks,
    wallet_grants,
    wallets,
    webhook_deliveries,
    webhook_endpoints,
)
from ingestion_api.entitlements import ofrep, stream, top
from ingestion_api.entitlements import routes as entitlements
from ingestion_api.exports import routes as exports
from ingestion_api.health import Readier
from ingestion_api.ingest.publish import Publisher
from ingestion_api.queries import event_changes, event_voids, events, usage
from ingestion_api.reservations import routes as reservations
from ingestion_api.reservations.batches import ReserveBatches
from ingestion_api.reservations.tell import HoldTeller
from ingestion_api.routing import check_names
from ingestion_api.simulation import routes as simulation

ROUTERS = (
    events.router,
    event_voids.router,
    event_changes.router,
    meters.router,
    meter_changes.router,
    usage.router,
    customers.router,
    features.router,
    given_entitlements.router,
    plans.router,
    addons.router,
    coupons.router,
    subscriptions.router,
    subscription_changes.router,
    subscription_pauses.router,
    cancellation.router,
    parking.router,
    preview.router,
    invoices.router,
    one_off.router,
    documents.router,
    invoice_actions.router,
    payments.router,
    payment_providers.router,
    refunds.router,
    credit_notes.router,
    entitlements.router,
    reservations.router,
    stream.router,
    top.router,
    ofrep.router,
    pricing.router,
    simulation.router,
    exports.router,
    settings.router,
    tax_rates.router,
    wallets.router,
    wallet_grants.router,
    test_clocks.router,
    alerts.router,
    webhook_endpoints.router,
    webhook_deliveries.router,
    tenants.router,
    api_keys.router,
    health.router,
)


FIRST_USER = "admin@localhost"


def create_fastapi(context: Context, publisher: Publisher | None = None, balances: Producer | None = None) -> FastAPI:
    """The app over a context. Makes sure that METERLINE_ROOT_KEY, if set, opens tenant `default`.

    Raises Unauthenticated when that key could not be sent as a bearer, and Retry when PostgreSQL is away.
    """
    if context.settings.root_key:
        ensure_root(context, datetime.now(UTC))
    app = build_app()
    app.state.context = context
    app.state.readier = Readier(context.settings)
    app.state.publisher = publisher
    app.state.hold_teller = HoldTeller(context.replica, balances, context.settings.balances_topic)
    app.state.reserve_batches = ReserveBatches(context.database, context.settings, app.state.hold_teller)
    return app


def build_app() -> FastAPI:
    """The routes alone, without anything to serve them from: enough for their description."""
    app = FastAPI(
        title="Meterline",
        version=openapi.API_VERSION,
        summary="Usage metering and billing.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=openapi.PROBLEMS,
        dependencies=[Depends(check_names)],
    )
    app.add_middleware(access_log.AccessLog)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)

    def describe() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or openapi.describe(app)
        return app.openapi_schema

    app.openapi = describe
    return app


def ensure_root(context: Context, now: datetime) -> None:
    """Let METERLINE_ROOT_KEY, and no former one, be the operator key of tenant `default`; with
    METERLINE_ADMIN_PASSWORD set, let its first user sign in with that."""
    settings = context.settings
    bearer = bearer_of(f"Bearer {settings.root_key}")
    with context.database.transaction() as connection:
        ensure_root_key(connection, secret_sha256=secret_sha256(bearer), now=now)
        if settings.admin_password:
            ensure_user(
                connection,
                tenant_id=ROOT_TENANT_ID,
                email=FIRST_USER,
                role="operator",
                password=settings.admin_password,
                now=now,
            )
