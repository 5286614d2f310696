"""The messages of a chat: checked, and in the one form that templates are given.

Pure. Texts in parts become one text; `developer` is `system`, as templates know it.
"""

from __future__ import annotations

from typing import Any

from meuse.core.errors import invalid

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT = ("text", "refusal")


def normal(messages: Any) -> list[dict[str, Any]]:
    """Raises `invalid_field` that says which message, and which part of it."""
    if not isinstance(messages, list):
        raise invalid("messages", "a list of messages is wanted")
    if not messages:
        raise invalid("messages", "there is no message", "Send at least one.")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, at: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(at, "an object is wanted")
    role = message.get("role")
    if role not in ROLES:
        raise invalid(f"{at}.role", f"there is no role {role!r}"[:80], f"Use {', '.join(ROLES)}.")
    kept: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = message.get("tool_calls")
    if calls is not None and role != "assistant":
        raise invalid(f"{at}.tool_calls", f"a message of {role} calls no tools")
    content = message.get("content")
    if content is None and not (role == "assistant" and calls):
        raise invalid(f"{at}.content", "it is missing")
    kept["content"] = None if content is None else _content(content, f"{at}.content")
    if calls:
        kept["tool_calls"] = _calls(calls, f"{at}.tool_calls")
    if role == "tool":
        if not isinstance(message.get("tool_call_id"), str):
            raise invalid(f"{at}.tool_call_id", "a text is wanted")
        kept["tool_call_id"] = message["tool_call_id"]
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise invalid(f"{at}.name", "a text is wanted")
        kept["name"] = name
    return kept


def _content(content: Any, at: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(at, "a text, or a list of parts, is wanted")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT:
            raise invalid(
                f"{at}[{i}]", f"a part of the type {kind!r} cannot be read"[:120], "Send text."
            )
        if not isinstance(part.get(kind), str):
            raise invalid(f"{at}[{i}].{kind}", "a text is wanted")
        texts.append(part[kind])
    return "\n".join(texts)


def _calls(calls: Any, at: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise invalid(at, "a list of calls is wanted")
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise invalid(f"{at}[{i}].function", "an object is wanted")
        for field in ("name", "arguments"):
            if not isinstance(function.get(field), str):
                raise invalid(f"{at}[{i}].function.{field}", "a text is wanted")
        if not isinstance(call.get("id"), str):
            raise invalid(f"{at}[{i}].id", "a text is wanted")
    return calls
