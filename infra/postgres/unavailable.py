"""What the client raises when PostgreSQL is away, or goes; for whoever has to say so."""

from psycopg import OperationalError as PostgresUnavailable

__all__ = ["PostgresUnavailable"]
