"""Reservations over HTTP: take of a limit before the usage is there, then commit, release or let expire."""
