from .environ import Environ

def environ(
    data: bytes, most: int, fields: int, template: Environ, /
) -> tuple[int, str, bytes, bool, Environ] | None: ...
def block(
    status: str, headers: list[tuple[str, str]], /
) -> tuple[int, bytes, int | None, bool, bool] | None: ...
