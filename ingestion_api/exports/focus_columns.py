"""The columns of FOCUS 1.2 that Meterline has something to say in, by the specification's names and nullability.

Left out are those that are for what Meterline does not sell: regions and zones, commitment discounts, capacity
reservations, and prices in another currency than the invoice's. Those of our own begin with `x_`, as it wants.
"""

from ingestion_api.exports.tables import Column, Kind

FOCUS_COLUMNS = (
    Column("BilledCost", Kind.AMOUNT, is_required=True),
    Column("BillingAccountId", Kind.TEXT, is_required=True),
    Column("BillingAccountName", Kind.TEXT),
    Column("BillingCurrency", Kind.TEXT, is_required=True),
    Column("BillingPeriodEnd", Kind.INSTANT, is_required=True),
    Column("BillingPeriodStart", Kind.INSTANT, is_required=True),
    Column("ChargeCategory", Kind.TEXT, is_required=True),
    Column("ChargeClass", Kind.TEXT),
    Column("ChargeDescription", Kind.TEXT),
    Column("ChargeFrequency", Kind.TEXT, is_required=True),
    Column("ChargePeriodEnd", Kind.INSTANT, is_required=True),
    Column("ChargePeriodStart", Kind.INSTANT, is_required=True),
    Column("ConsumedQuantity", Kind.NUMBER),
    Column("ConsumedUnit", Kind.TEXT),
    Column("ContractedCost", Kind.NUMBER, is_required=True),
    Column("ContractedUnitPrice", Kind.NUMBER),
    Column("EffectiveCost", Kind.AMOUNT, is_required=True),
    Column("InvoiceId", Kind.TEXT),
    Column("InvoiceIssuerName", Kind.TEXT, is_required=True),
    Column("ListCost", Kind.NUMBER, is_required=True),
    Column("ListUnitPrice", Kind.NUMBER),
    Column("PricingCategory", Kind.TEXT),
    Column("PricingQuantity", Kind.NUMBER),
    Column("PricingUnit", Kind.TEXT),
    Column("ProviderName", Kind.TEXT, is_required=True),
    Column("PublisherName", Kind.TEXT, is_required=True),
    Column("ResourceId", Kind.TEXT),
    Column("ResourceName", Kind.TEXT),
    Column("ResourceType", Kind.TEXT),
    Column("ServiceCategory", Kind.TEXT, is_required=True),
    Column("ServiceName", Kind.TEXT, is_required=True),
    Column("ServiceSubcategory", Kind.TEXT),
    Column("SkuId", Kind.TEXT),
    Column("SkuMeter", Kind.TEXT),
    Column("SkuPriceDetails", Kind.TEXT),
    Column("SkuPriceId", Kind.TEXT),
    Column("SubAccountId", Kind.TEXT),
    Column("SubAccountName", Kind.TEXT),
    Column("Tags", Kind.TEXT),
    Column("x_Discount", Kind.AMOUNT),
    Column("x_IncludedTax", Kind.AMOUNT),
    Column("x_InvoiceLineId", Kind.TEXT),
    Column("x_TaxKey", Kind.TEXT),
)
