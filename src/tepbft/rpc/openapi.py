"""The OpenAPI 3.1 document, made from the table of routes and the types: it cannot drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tepbft.rpc.endpoints import ENDPOINTS, ERROR_TEXTS, JSON, Endpoint
from tepbft.rpc.schemas import ErrorBody

DOCUMENT_PATH = "/openapi.json"
_REF = "#/components/schemas/{name}"


def _types(endpoints: Sequence[Endpoint]) -> list[Any]:
    """Every type that the document names, in order; the last ones belong to no endpoint."""
    found: list[Any] = []
    for endpoint in endpoints:
        found += [parameter.type for parameter in endpoint.parameters]
        found += [kind for kind, _ in endpoint.answers.values()]
        if endpoint.body is not None:
            found.append(endpoint.body)
    return [*found, ErrorBody]


def openapi(version: str, endpoints: Sequence[Endpoint] = ENDPOINTS) -> dict[str, Any]:
    """The document for this program's `version`."""
    schemas, components = msgspec.json.schema_components(_types(endpoints), ref_template=_REF)
    remaining = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, remaining)
    error = next(remaining)
    for path in paths.values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if "content" not in answer:
                    answer["content"] = {JSON: {"schema": error}}
                if status == "429":
                    answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    paths[DOCUMENT_PATH] = {
        "get": {
            "operationId": "getOpenApi",
            "summary": "This document.",
            "responses": {
                "200": {
                    "description": "The document.",
                    "content": {JSON: {"schema": {"type": "object"}}},
                }
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tepbft node",
            "version": version,
            "description": "One node of a replicated ledger. One node alone may lie: compare f+1 of them, or "
            "take a receipt, which proves itself.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(endpoint: Endpoint, schemas: Any) -> dict[str, Any]:
    """One operation; takes its schemas in the order of `_types`."""
    parameters = []
    for parameter in endpoint.parameters:
        schema = dict(next(schemas))
        if parameter.where == "query":
            schema["default"] = parameter.default
        parameters.append(
            {
                "name": parameter.name,
                "in": parameter.where,
                "required": parameter.where == "path",
                "description": parameter.description,
                "schema": schema,
            }
        )
    responses: dict[str, Any] = {}
    for status, (_, description) in endpoint.answers.items():
        responses[str(status)] = {
            "description": description,
            "content": {endpoint.media_type: {"schema": next(schemas)}},
        }
    for status in endpoint.errors:
        responses.setdefault(str(status), {"description": ERROR_TEXTS[status]})
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": dict(sorted(responses.items())),
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": next(schemas)}}}
    return operation
