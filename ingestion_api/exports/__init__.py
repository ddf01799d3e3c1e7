"""Invoices, lines and usage as files: streamed, exact, with a memory that does not grow with them."""
