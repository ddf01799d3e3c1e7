"""Search attributes of workflows: by them Temporal's lists show the runs of one tenant, or of one object.

A server takes attributes only that its namespace knows. Workers make theirs known where they may; where they may not,
e.g. in Temporal Cloud, an operator does, and until then workflows run without them: work never waits for labels.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

log = structlog.get_logger()

WORKS_AT = SearchAttributeKey.for_keyword("MeterlineObject")
TENANT = SearchAttributeKey.for_keyword("MeterlineTenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a run works at: the id of an object, or a kind of due work. `tenant_id` empty: not at one tenant's alone."""

    works_at: str
    tenant_id: str = ""

    @property
    def attributes(self) -> TypedSearchAttributes:
        pairs = [SearchAttributePair(WORKS_AT, self.works_at)]
        if self.tenant_id:
            pairs.append(SearchAttributePair(TENANT, self.tenant_id))
        return TypedSearchAttributes(pairs)


async def ensure_labels(client: Client) -> None:
    """Have the namespace know our attributes. Safe to call from several starting workers."""
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    request = AddSearchAttributesRequest(
        namespace=client.namespace, search_attributes={WORKS_AT.name: keyword, TENANT.name: keyword}
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            log.warning("search attributes not made, workflows may run without them", error=str(error))


async def labelled(labels: Labels, do: Callable[[TypedSearchAttributes], Awaitable[object]]) -> None:
    """Do something with the labels, or without, while the namespace does not know them. Raises what `do` raises."""
    try:
        await do(labels.attributes)
    except RPCError as error:
        if error.status is not RPCStatusCode.INVALID_ARGUMENT:
            raise
        await do(TypedSearchAttributes.empty)


async def start_labelled(
    client: Client, workflow: str, request: object, *, workflow_id: str, task_queue: str, labels: Labels
) -> None:
    """Start a workflow with its labels. Raises WorkflowAlreadyStartedError, RPCError."""

    async def start(attributes: TypedSearchAttributes) -> None:
        await client.start_workflow(
            workflow, request, id=workflow_id, task_queue=task_queue, search_attributes=attributes
        )

    await labelled(labels, start)
