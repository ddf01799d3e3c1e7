"""`GET /v1/events` and `GET /v1/events/{id}`: what became of an event."""

from fastapi import APIRouter

router = APIRouter(tags=["events"])
