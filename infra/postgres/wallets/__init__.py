"""Wallets: their rows, their grants and their ledger. What happens in them is decided in `pricing.wallets`."""
