"""Entitlement decisions over HTTP. The decision itself is `pricing.entitlements`."""
