"""`GET /v1/usage`."""

from fastapi import APIRouter

router = APIRouter(tags=["usage"])
