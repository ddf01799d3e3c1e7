"""The API beside billing: as somebody of a small world's tenant sees it."""

from infra.postgres.api_keys import insert_api_key
from ingestion_api.auth import new_secret, secret_sha256
from schemas.ids import Prefix, new_id
from tests.support.api import Api
from tests.support.billing import World, instant


def api_of(world: World, operator: Api, role: str) -> Api:
    """The API as somebody of the world's tenant sees it."""
    secret = new_secret()
    with world.doors.database.transaction() as connection:
        insert_api_key(
            connection,
            key_id=new_id(Prefix.API_KEY),
            tenant_id=world.tenant_id,
            name=role,
            role=role,
            secret_sha256=secret_sha256(secret),
            now=instant("2025-01-01"),
        )
    return Api(settings=operator.settings, database=operator.database, http=operator.with_key(secret))
