"""For schemathesis: the three rules of the interface that JSON Schema cannot say.

A session or TTL may be in the query and in the body, but not with two values. A name's limit is of bytes, and maxLength is of characters. A request is left out if a name in it has too many bytes
though it has no more characters than allowed. A list of users who are offline has another cursor than one of users who are online, and requires a time that the other refuses.
"""

import re

import schemathesis

MOST = {"user": 256, "users": 256, "prefix": 256, "session": 64}


# The cursors of the two lists of users.
ONLINE = r"([0-9]|[1-5][0-9]|6[0-3])-[0-9]{1,9}"
OFFLINE = r"[0-9]{1,16}-[^#]{1,64}"


def too_long(key, value):
    """Is there a name in this that JSON Schema takes, and the daemon does not?"""
    if isinstance(value, dict):
        return any(too_long(inner, one) for inner, one in value.items())
    if isinstance(value, list):
        return any(too_long(key, one) for one in value)
    most = MOST.get(key)
    return most is not None and isinstance(value, str) and len(value) <= most < len(value.encode("utf-8", "replace"))


def contradicts(query, body):
    """Do query and body name different values of one thing?"""
    if not isinstance(query, dict) or not isinstance(body, dict):
        return False
    return any(body.get(key) is not None and str(body[key]) != str(value) for key, value in query.items())


def of_other_state(query):
    """Does the query of a list have what only a list of the other state has?"""
    if not isinstance(query, dict):
        return False
    offline, cursor = query.get("state") == "offline", query.get("cursor")
    if offline == (query.get("seen_after_ms") is None):
        return True
    fits = OFFLINE if offline else ONLINE
    return isinstance(cursor, str) and cursor != "" and re.fullmatch(fits, cursor) is None


@schemathesis.hook
def filter_case(context, case):
    if contradicts(case.query, case.body):
        return False
    if case.path == "/v1/users" and of_other_state(case.query):
        return False
    # Of several heartbeats the good ones are set, whatever the others are.
    users = case.body.get("users") if isinstance(case.body, dict) else None
    if case.path == "/v1/heartbeats" and isinstance(users, list) and len(users) > 1:
        return False
    parts = (case.path_parameters, case.query, case.body)
    return not any(too_long(None, part) for part in parts if isinstance(part, dict))
