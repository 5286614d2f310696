"""core.errors"""

from meuse.core.errors import STATUS, Code, MeuseError, invalid


def test_every_code_has_a_status() -> None:
    """The table to HTTP and gRPC is complete and says errors only."""
    assert set(Code) == set(STATUS)
    assert all(400 <= http < 600 for http, _ in STATUS.values())


def test_grpc_names_are_real() -> None:
    """Every gRPC status in the table exists in grpc."""
    import grpc

    assert {name for _, name in STATUS.values()} <= {code.name for code in grpc.StatusCode}


def test_error_crosses_a_process_border() -> None:
    """to_dict and from_dict keep code, message, field and hint."""
    error = invalid("epochs", "0 is too few", "Use 1 or more.")
    again = MeuseError.from_dict(error.to_dict())
    assert error.to_dict() == again.to_dict()
    assert again.http_status == 400


def test_unknown_code_becomes_internal() -> None:
    """A peer of another version cannot smuggle in a code that nobody knows."""
    assert MeuseError.from_dict({"code": "no such", "message": "x"}).code == Code.INTERNAL
