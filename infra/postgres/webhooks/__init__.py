"""Endpoints of webhooks, what they are told, and every attempt at it."""
