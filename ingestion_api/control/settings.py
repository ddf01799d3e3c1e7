"""A tenant's settings: how it invoices, and who it is on its invoices."""

from typing import Annotated, Any, Literal, Self

import msgspec
from babel import Locale, UnknownLocaleError
from pydantic import AfterValidator, Field, model_validator
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import outbox
from infra.postgres.billing_settings import change_settings, load_settings
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.fields import Body, Name
from ingestion_api.routing import house_router
from schemas.invoicing import (
    DEFAULT_FINAL_DAYS,
    MAX_DRAFT_HOURS,
    MAX_DUNNING_DAYS,
    MAX_DUNNING_STEPS,
    MAX_NET_DAYS,
    BillingSettings,
    FinalStep,
    Invoicing,
)
from schemas.topics import SystemEvent

MAX_LINE_LENGTH = 200
NO_COUNTRIES = frozenset({"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"})  # that have a code beside those of countries
MAX_FOOTER_LENGTH = 2_000
MAX_LOCALE_LENGTH = 35

router = house_router("settings")


def check_locale(name: str) -> str:
    """A locale whose formats are known, e.g. `de`, `en-GB`. Raises ValueError."""
    try:
        Locale.parse(name.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError):
        raise ValueError("must be a locale such as en, de or pt-BR") from None
    return name


def check_country(code: str) -> str:
    """An ISO 3166 code of a country. Raises ValueError."""
    if code in NO_COUNTRIES or code not in Locale("en").territories:
        raise ValueError("must be a country of ISO 3166 such as DE")
    return code


LocaleName = Annotated[str, Field(max_length=MAX_LOCALE_LENGTH), AfterValidator(check_locale)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$"), AfterValidator(check_country)]
Line = Annotated[str, Field(min_length=1, max_length=MAX_LINE_LENGTH)]
NumberPrefix = Annotated[str, Field(pattern=r"^[A-Z0-9]{1,12}$", description="Of numbers: `INV` gives INV-000001.")]


class AddressBody(Body):
    """A postal address; `country` is an ISO 3166 code of two letters."""

    line1: Line | None = None
    line2: Line | None = None
    postal_code: Line | None = None
    city: Line | None = None
    state: Line | None = None
    country: Country | None = None


class SellerBody(Body):
    """Who issues the invoices. `tax_id` is a VAT number, `legal_id` that of the company in its register."""

    name: Name | None = None
    email: Line | None = None
    tax_id: Line | None = None
    legal_id: Line | None = None
    address: AddressBody | None = None


Day = Annotated[int, Field(ge=1, le=MAX_DUNNING_DAYS)]
Days = Annotated[list[Day], Field(default_factory=list, max_length=MAX_DUNNING_STEPS)]


class DunningBody(Body):
    """What is done about overdue invoices. All days count from `due_at` and rise. `final_days` comes after all of
    them; it says nothing when the `final` step is `keep`."""

    retry_days: Days
    reminder_days: Days
    block_days: Day | None = None
    final: Annotated[FinalStep, Field(strict=False)] = FinalStep.KEEP
    final_days: Day = DEFAULT_FINAL_DAYS

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name in ("retry_days", "reminder_days"):
            days: list[int] = getattr(self, name)
            if days != sorted(set(days)):
                raise ValueError(f"{name} must rise")
        if self.final is not FinalStep.KEEP and self.final_days <= max([*self.retry_days, *self.reminder_days, 1]):
            raise ValueError("final_days must come after day 1 and the last of retry_days and reminder_days")
        return self


class SettingsChange(Body):
    """What is absent stays as it is; null goes back to the default. `seller` and `dunning` are replaced as a whole."""

    invoicing: Annotated[Invoicing, Field(strict=False)] | None = None
    draft_hours: Annotated[int, Field(ge=0, le=MAX_DRAFT_HOURS)] | None = None
    net_days: Annotated[int, Field(ge=0, le=MAX_NET_DAYS)] | None = None
    invoice_prefix: NumberPrefix | None = None
    credit_note_prefix: NumberPrefix | None = None
    locale: LocaleName | None = None
    seller: SellerBody | None = None
    footer: Annotated[str, Field(max_length=MAX_FOOTER_LENGTH)] | None = None
    dunning: DunningBody | None = None


class DunningSettingsView(TypedDict):
    """Days after `due_at`: when the payer is charged once more, is reminded, from when on the subscription's features
    are refused (null: they are not), and when the `final` step is taken."""

    retry_days: list[int]
    reminder_days: list[int]
    block_days: int | None
    final: FinalStep
    final_days: int


class SettingsView(TypedDict):
    """`invoicing`: whether a payer gets an invoice a subscription, or one of all that is due at one instant, unless
    it says so itself. `draft_hours`: how long an invoice stands as a draft; 0: it is finalized at once. `net_days`:
    from finalization to `due_at`. `locale` and `footer` are of documents. `dunning` null: overdue invoices are told
    of, nothing else."""

    object: Literal["settings"]
    invoicing: Invoicing
    draft_hours: int
    net_days: int
    invoice_prefix: str
    credit_note_prefix: str
    locale: str
    seller: dict[str, Any]
    footer: str | None
    dunning: DunningSettingsView | None


def to_view(settings: BillingSettings) -> SettingsView:
    return {
        "object": "settings",
        "invoicing": settings.invoicing,
        "draft_hours": settings.draft_hours,
        "net_days": settings.net_days,
        "invoice_prefix": settings.invoice_prefix,
        "credit_note_prefix": settings.credit_note_prefix,
        "locale": settings.locale,
        "seller": msgspec.to_builtins(settings.seller),
        "footer": settings.footer,
        "dunning": msgspec.to_builtins(settings.dunning),
    }


@router.get("/v1/settings", response_model=SettingsView, operation_id="get_settings")
def get_settings(principal: Reader, context: FromContext) -> Response:
    """The tenant's settings, with their defaults."""
    with context.database.transaction() as connection:
        return answer(to_view(load_settings(connection, [principal.tenant_id])[principal.tenant_id]))


@router.patch("/v1/settings", response_model=SettingsView, operation_id="update_settings")
def update_settings(body: SettingsChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change settings for invoices to come: a final invoice stays as it is, and a draft keeps its `draft_until`."""
    changes: dict[str, Any] = body.model_dump(include=body.model_fields_set, exclude_none=False)
    if body.seller is not None:
        changes["seller"] = body.seller.model_dump(exclude_none=True)
    if body.dunning is not None:
        changes["dunning"] = body.dunning.model_dump(mode="json")
    with context.database.transaction() as connection:
        view = to_view(change_settings(connection, tenant_id=principal.tenant_id, changes=changes))
        outbox.append(
            connection,
            tenant_id=principal.tenant_id,
            event=SystemEvent.SETTINGS_UPDATED,
            object_id=principal.tenant_id,
            data={**view},
            now=now,
        )
    return answer(view)
