"""The few words of a document, by language; a language that is not here gets English words with its own formats."""

from collections.abc import Mapping

ENGLISH = {
    "invoice": "Invoice",
    "bill_to": "Bill to",
    "number": "Number",
    "issued": "Date",
    "due": "Due",
    "period": "Period",
    "customer": "Customer",
    "subscription": "Subscription",
    "tax_id": "Tax ID",
    "company_id": "Company no.",
    "description": "Description",
    "quantity": "Quantity",
    "unit_price": "Unit price",
    "amount": "Amount",
    "subtotal": "Subtotal",
    "discount": "Discount",
    "included": "included",
    "total": "Total",
    "credit": "Paid from credit",
    "to_pay": "Amount due",
}
GERMAN = {
    "invoice": "Rechnung",
    "bill_to": "An",
    "number": "Nummer",
    "issued": "Datum",
    "due": "Fällig",
    "period": "Zeitraum",
    "customer": "Kunde",
    "subscription": "Abonnement",
    "tax_id": "USt-IdNr.",
    "company_id": "Registernummer",
    "description": "Beschreibung",
    "quantity": "Menge",
    "unit_price": "Einzelpreis",
    "amount": "Betrag",
    "subtotal": "Zwischensumme",
    "discount": "Rabatt",
    "included": "enthalten",
    "total": "Gesamtbetrag",
    "credit": "Aus Guthaben bezahlt",
    "to_pay": "Zu zahlen",
}
FRENCH = {
    "invoice": "Facture",
    "bill_to": "Facturé à",
    "number": "Numéro",
    "issued": "Date",
    "due": "Échéance",
    "period": "Période",
    "customer": "Client",
    "subscription": "Abonnement",
    "tax_id": "N° TVA",
    "company_id": "N° d’immatriculation",
    "description": "Désignation",
    "quantity": "Quantité",
    "unit_price": "Prix unitaire",
    "amount": "Montant",
    "subtotal": "Sous-total",
    "discount": "Remise",
    "included": "incluse",
    "total": "Total",
    "credit": "Réglé par avoir",
    "to_pay": "À payer",
}
_LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH}


def words_of(language: str) -> Mapping[str, str]:
    """The words of a language such as `de`."""
    return _LANGUAGES.get(language, ENGLISH)
