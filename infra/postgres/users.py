"""Users: people of a tenant, known by their email, with a password that is stored as its Argon2id hash."""

from datetime import datetime

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from infra.postgres.pool import PgConnection
from schemas.ids import Prefix, new_id

_hasher = PasswordHasher()


def ensure_user(
    connection: PgConnection, *, tenant_id: str, email: str, role: str, password: str, now: datetime
) -> None:
    """Let this email sign in with exactly this password. Any number of processes may do it at once and again."""
    row = connection.execute(
        "SELECT password_hash FROM users WHERE tenant_id = %s AND email = %s", (tenant_id, email)
    ).fetchone()
    if row is not None and opens(row["password_hash"], password):
        return
    connection.execute(
        "INSERT INTO users (id, tenant_id, email, role, password_hash, created_at) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, email) DO UPDATE SET password_hash = excluded.password_hash",
        (new_id(Prefix.USER), tenant_id, email, role, _hasher.hash(password), now),
    )


def opens(password_hash: str, password: str) -> bool:
    """Whether the password is the one that was hashed."""
    try:
        return _hasher.verify(password_hash, password)
    except VerifyMismatchError:
        return False
