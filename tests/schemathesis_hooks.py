"""For schemathesis: the one rule of the interface that JSON Schema cannot say.

A name's limit is of bytes, and maxLength is of characters. A request is left out if a name in it has too many bytes
though it has no more characters than allowed.
"""

import schemathesis

MOST = {"user": 256, "users": 256, "session": 64}


def too_long(key, value):
    """Is there a name in this that JSON Schema takes, and the daemon does not?"""
    if isinstance(value, dict):
        return any(too_long(inner, one) for inner, one in value.items())
    if isinstance(value, list):
        return any(too_long(key, one) for one in value)
    most = MOST.get(key)
    return most is not None and isinstance(value, str) and len(value) <= most < len(value.encode("utf-8", "replace"))


@schemathesis.hook
def filter_case(context, case):
    parts = (case.path_parameters, case.query, case.body)
    return not any(too_long(None, part) for part in parts if isinstance(part, dict))
