"""What rows and slots have on the device: int32 numbers, by their places."""

SLOT, LOCAL, HERE, FIRST_POS, START, LIVE, LOST, POLICY, TURNED = range(9)
"""Of a row: its slot and place among the slot's rows, the position it samples and the one the
slot's first row does, where the refusal starts, whether its tokens count, whether it must refuse
now (some are unknown, or they go in circles), its policy, and where a mask changed its course."""
ROW_FIELDS = 9
(
    REFUSE_FROM, PENDING, SEEN, PROMPT, STRUCTURED, SLOT_POLICY, SLOT_TURNED, TURNING,
) = range(8)  # fmt: skip
"""Of a slot: where its refusal starts; where one was begun, if that token turns out to be
committed; how many tokens were read; how many are the prompt's; whether a grammar holds it; its
policy; where a mask changed its course, and where one did if that token is committed."""
SLOT_FIELDS = 8
NEVER = 2**30
"""Later than any position of a text."""
NOWHERE = -1


def slot(
    policy: int,
    *,
    prompt: int = 0,
    seen: int = 0,
    refuse_from: int = NEVER,
    structured: bool = False,
) -> list[int]:
    """Return the fields of a slot that a request takes, ``[SLOT_FIELDS]``."""
    return [refuse_from, NEVER, seen, prompt, structured, policy, NOWHERE, NEVER]
