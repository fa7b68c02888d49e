"""Score models behind HTTP: off the event loop, held at checkpoints, turned away when full."""

from __future__ import annotations

import json
import threading

import pytest
from tests.policies import policy, rule
from tests.scores import FakeEncoder, models

from prism.http.judge import Judge, may_end
from prism.moderator import Moderator
from prism.record.metrics import Metrics
from prism.types import Stage

HARM = rule("harm", category="harm", thresholds={Stage.PROMPT: 0.8, Stage.OUTPUT: 0.8})


@pytest.mark.parametrize(
    ("event", "ends"),
    [
        ({"choices": [{"delta": {"content": "x"}, "finish_reason": None}]}, False),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, True),
        ({"choices": [{"finish_reason": None}, {"finish_reason": "length"}]}, True),
        ({"type": "content_block_delta", "delta": {"text": "x"}}, False),
        ({"type": "content_block_stop"}, True),
        ({"type": "response.output_text.delta", "delta": "x"}, False),
        ({"type": "response.completed"}, True),
        ({"message": {"content": "x"}, "done": False}, False),
        ({"message": {"content": ""}, "done": True, "done_reason": "stop"}, True),
        ({"content": "x", "stop": False}, False),
        ({"choices": [{"delta": {"content": '"finish_reason": null'}}]}, True),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_which_events_may_end_a_channel(event, ends, separators):
    assert may_end(json.dumps(event, separators=separators)) is ends


def judge(encoder):
    session = Moderator(
        policy(HARM, tiers=("sketch", "encoder")), models(encoder=encoder)
    ).session()
    return Judge(session, check=lambda text: session.decision, metrics=Metrics())


def test_what_is_fed_on_the_event_loop_waits_for_no_model():
    encoder = FakeEncoder()
    asked = judge(encoder)
    assert asked.waits(100, ends=True)
    asked.session.check_prompt("hello")
    assert not asked.waits(100, ends=False)
    assert asked.feed(0, "content", "mild ") == "mild "
    assert asked.feed(0, "content", "[s5] " + "x" * 200) == ""
    assert encoder.seen == []
    assert asked.waits(1, ends=False)
    assert asked.feed(0, "content", "y").startswith("[s5] xxx")
    assert len(encoder.seen) == 1
    assert asked.finish(0, "content").endswith("xy")


def test_without_asking_everything_is_settled_at_once():
    encoder = FakeEncoder()
    asked = judge(encoder)
    assert asked.scan(0, "content", "[s5] [e9]" + "x" * 200) == ""
    assert asked.blocked == {0}
    assert threading.current_thread().name not in encoder.threads
