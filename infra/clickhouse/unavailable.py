"""What the client raises when ClickHouse is away, or goes; for whoever has to say so."""

from clickhouse_connect.driver.exceptions import OperationalError as ClickHouseUnavailable

__all__ = ["ClickHouseUnavailable"]
