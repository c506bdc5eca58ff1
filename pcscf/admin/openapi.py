"""The OpenAPI 3.1 document of a table of operations."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from pcscf.admin.api import JSON, Operation
from pcscf.admin.problem import MEDIA, ProblemDetails

_IN_PATH = re.compile(r"{(\w+)(?::(.+?))?}(?=/|$)")
REFERENCE = "#/components/schemas/{model}"
TOLD = {
    400: "The query or the body is not what it should be.",
    401: "No bearer token, or none of this P-CSCF.",
    403: "A page of another origin, or a token that is not good for this.",
    404: "There is none of that name.",
    409: "It cannot be done as things are.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "Asked under a name that is not ours: see admin.origins.",
    503: "It cannot be told or done now.",
}


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The whole document. `version` is that of the package."""
    adapters: list[tuple[int, Literal["serialization"], TypeAdapter[Any]]] = [
        (number, "serialization", TypeAdapter(each.answer))
        for number, each in enumerate(operations)
        if each.answer is not None
    ]
    answers, shared = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE)
    schemas: dict[str, Any] = dict(shared.get("$defs", {}))
    bodies = [each.body for each in operations if each.body is not None]
    inputs, more = models_json_schema([(each, "validation") for each in bodies], ref_template=REFERENCE)
    schemas |= more.get("$defs", {})
    _, problem = models_json_schema([(ProblemDetails, "serialization")], ref_template=REFERENCE)
    schemas |= problem["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(operations):
        described = _described(each, answers.get((number, "serialization")))
        if each.body is not None:
            schema = inputs[each.body, "validation"]
            described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(_IN_PATH.sub(r"{\1}", each.path), {})[each.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": GenerateJsonSchema.schema_dialect,
        "info": {
            "title": "P-CSCF",
            "version": version,
            "summary": "What a running P-CSCF knows, and what can be done with it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _described(operation: Operation, schema: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    if operation.answer is None and operation.media == (JSON,):
        answers["204"] = {"description": "Done."}
    else:
        content = {"schema": schema} if schema is not None else {"schema": {"type": "string"}}
        answers["200"] = {"description": operation.summary, "content": dict.fromkeys(operation.media, content)}
    statuses = {400, 421, *operation.errors}
    if operation.scope is not None:
        statuses |= {401, 403}
    if operation.body is not None:
        statuses |= {413, 415}
    for status in sorted(statuses):
        reference = {"$ref": REFERENCE.format(model="ProblemDetails")}
        answers[str(status)] = {"description": TOLD[status], "content": {MEDIA: {"schema": reference}}}
    described: dict[str, Any] = {
        "operationId": _identity(operation),
        "summary": operation.summary,
        "parameters": [*_in_path(operation.path), *_in_query(operation)],
        "responses": answers,
    }
    if operation.scope is None:
        described["security"] = []
    else:
        described["description"] = f"Needs the token for {operation.scope.name.lower()}, or a higher one."
    return described


def _identity(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", _IN_PATH.sub(r"\1", operation.path.removeprefix("/api")))
    return "_".join([operation.method.lower(), *words])


def _in_path(path: str) -> list[dict[str, Any]]:
    found = []
    for name, pattern in _IN_PATH.findall(path):
        schema: dict[str, Any] = {"type": "string", "minLength": 1}
        if pattern.startswith("[0-9]"):
            schema = {"type": "integer", "minimum": 0}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _in_query(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=REFERENCE)
    assert "$defs" not in schema, "a query is flat"
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": {key: value for key, value in each.items() if key not in ("title", "description")},
            "description": each.get("description", ""),
        }
        for name, each in schema.get("properties", {}).items()
    ]
