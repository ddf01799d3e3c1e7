"""Lives in which the services and the oracle once differed. Each says which of the two was wrong, and in what."""

from tests.billing_oracle.actions import Script

REGRESSIONS: tuple[Script, ...] = ()
