"""q(Y)'s scores of a stream: checkpoints lie in the text, not where its pieces end."""

from __future__ import annotations

import asyncio
import re
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies import policy, rule
from tests.scores import FakeEncoder, FakeGuard, FakeSketch, models

from prism.classify.cascade import SEGMENT
from prism.classify.checkpoints import LOOK, STRIDE, WINDOW
from prism.classify.models import Models
from prism.classify.sketch import Sketch
from prism.moderator import Moderator
from prism.types import Action, Stage, TierState

HARM = rule("harm", category="harm", thresholds={Stage.PROMPT: 0.8, Stage.OUTPUT: 0.8})
NOTED = rule("noted", category="prv", thresholds={Stage.OUTPUT: 0.4}, action=Action.FLAG)
LAMP = rule("lamp", ["zephyr lantern"])
KETTLE = rule("kettle", ["copper kettle"], action=Action.REDACT)
POLICY = policy(HARM, NOTED, LAMP, KETTLE, tiers=("sketch", "encoder"))
MODERATOR = Moderator(POLICY, models())

PIECES = st.sampled_from(
    ["mild ", "x" * 40, "[s3] ", "[s8]", "[e5:prv] ", "[e9] ", "zephyr ", "lantern ", "été ",
     "copper kettle ", "a long and perfectly mild sentence, as there are many. " * 3, "\n", "𝒳"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=30).map("".join)


def run(moderator, text, cuts=(), wait=True):
    """Return what was released, and the session, of a text cut at ``cuts``."""
    session = moderator.session()
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    out = []
    for start, end in pairwise(places):
        may_wait = wait or session.waits(end - start, ends=False)
        out.append(session.feed(text[start:end], wait=may_wait).text)
    out.append(session.finish().text)
    return "".join(out), session


def facts(session):
    """Return what a decision says, without the order in which it was found."""
    decision = session.decision
    return (
        decision.action,
        decision.would,
        dict(decision.scores),
        dict(decision.tiers),
        dict(decision.languages),
    )


@settings(deadline=None, max_examples=300)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 10_000), max_size=60), wait=st.booleans())
def test_a_decision_does_not_depend_on_the_pieces(text, cuts, wait):
    whole, at_once = run(MODERATOR, text)
    out, session = run(MODERATOR, text, cuts, wait)
    assert facts(session) == facts(at_once)
    if not session.blocked():
        assert out == whole
    elif "[redacted]" not in out + whole:
        # What flowed early came before the sketch's next look after the first doubtful mark.
        assert out.startswith(whole)
        doubt = re.search(r"\[s\d\]", text[max(0, len(whole) - 3) :])
        most = len(whole) + doubt.end() + LOOK if doubt else len(whole)
        assert len(out) <= max(len(whole), most)


@settings(deadline=None, max_examples=60)
@given(text=st.lists(st.sampled_from(
    ["How do I bake bread? ", "The lake is calm. ", "how to build a ", "write ", "malware ", "ok\n"]
), max_size=80).map("".join), cuts=st.lists(st.integers(0, 5_000), max_size=40))  # fmt: skip
def test_the_shipped_sketch_decides_alike_however_the_text_is_cut(text, cuts):
    made = Models(sketch=Sketch.shipped(), encoder=FakeEncoder())
    moderator = Moderator(POLICY, made)
    _, at_once = run(moderator, text)
    _, session = run(moderator, text, cuts, wait=False)
    assert facts(session) == facts(at_once)


def test_harmless_text_flows_as_it_comes():
    session = MODERATOR.session()
    for _ in range(200):
        assert session.feed("mild ").text == "mild "
    assert session.finish().text == ""
    assert session.decision.tiers["output.encoder"] is TierState.SETTLED


def test_doubtful_text_is_held_until_a_checkpoint_passes():
    session = MODERATOR.session()
    assert session.feed("mild " * 20).text == "mild " * 20
    held = "[s3] " + "x" * (STRIDE - 105 - 1)
    out = "".join(session.feed(char).text for char in held)
    assert len(out) < LOOK
    assert session.feed("x").text == held[len(out) :] + "x"
    assert session.decision.action is Action.ALLOW
    # The sketch still doubts, so the next stretch is held too, to its end.
    assert session.feed("y" * 60).text == ""
    assert session.finish().text == "y" * 60


def test_on_a_block_nothing_past_the_last_checkpoint_goes_out():
    text = "m" * STRIDE + "[s4]" + "n" * (STRIDE - 4) + "o" * 30 + "[e9]" + "p" * STRIDE
    out, session = run(MODERATOR, text, cuts=range(len(text)))
    assert session.blocked()
    assert out == text[: 2 * STRIDE]
    assert run(MODERATOR, text)[0] == out
    assert session.feed("more").text == ""


def test_the_encoder_reads_windows_not_everything_again():
    encoder = FakeEncoder()
    moderator = Moderator(POLICY, models(encoder=encoder))
    text = "[s4]" + "n" * 6_000
    _, session = run(moderator, text, cuts=range(0, len(text), 7))
    assert max(map(len, encoder.seen)) == WINDOW
    # The doubtful mark leaves the sketch's sight at the end of its segment but one.
    assert len(encoder.seen) <= (SEGMENT + 256) // STRIDE
    assert session.decision.action is Action.ALLOW
    assert session.finish().text == ""


def test_the_sketch_reads_each_character_little_more_than_once():
    sketch = FakeSketch()
    moderator = Moderator(POLICY, models(sketch=sketch))
    text = "mild " * 4_000
    run(moderator, text, cuts=range(0, len(text), 5))
    assert sketch.read <= 1.25 * len(text)
    assert sketch.asked <= len(text) / LOOK + 3 * len(text) / STRIDE + 10


def test_feeding_without_waiting_never_calls_a_model():
    encoder = FakeEncoder()
    moderator = Moderator(POLICY, models(encoder=encoder))
    session = moderator.session()
    session.check_prompt("hello")
    assert session.waits(1)  # the end might come with it
    assert not session.waits(10**6, ends=False)
    text = "mild " * 10 + "[s5] " + "x" * 500
    released = session.feed(text, wait=False)
    assert encoder.seen == []
    assert not text[STRIDE:].startswith(released.text[STRIDE:] or "never")
    assert session.waits(1, ends=False)
    assert session.feed("", wait=True).text == text[len(released.text) : 4 * STRIDE]
    assert len(encoder.seen) == 4
    assert session.finish().text == text[4 * STRIDE :]


async def test_the_async_twins_keep_models_off_the_event_loop():
    encoder = FakeEncoder()
    moderator = Moderator(POLICY, models(encoder=encoder))
    session = moderator.session()
    here = threading.current_thread().name
    assert not (await session.acheck_prompt("[s5] hello")).blocked
    text = "[s5] " + "x" * 300 + " [e9]"
    out = [(await session.afeed(text[at : at + 11])).text for at in range(0, len(text), 11)]
    last = await session.afinish()
    assert last.blocked
    assert "".join(out) == text[: 2 * STRIDE]
    assert here not in encoder.threads
    await asyncio.sleep(0)


def test_without_models_nothing_waits():
    plain = Moderator(policy(LAMP), models()).session()
    assert not plain.waits(10**6)
    quick = Moderator(policy(HARM, tiers=("sketch",)), models()).session()
    assert not quick.waits(10**6)


def test_choices_and_channels_have_checkpoints_of_their_own():
    session = MODERATOR.session()
    assert session.feed("[s9] [e9] quiet", choice=0).text == ""
    assert session.feed("fine, ", choice=1).text == "fine, "
    assert session.feed("fine, ", choice=0, channel="reasoning").text == "fine, "
    assert session.finish(choice=0).blocked
    assert session.finish(choice=1).text == ""
    assert not session.blocked(1)
    assert session.decision.scores["harm"] == pytest.approx(0.9)


def test_a_rule_in_plain_language_holds_all_until_the_guard_has_spoken():
    guard = FakeGuard()
    plain = rule("plain", plain_language="amber quokka", thresholds={Stage.OUTPUT: 0.5})
    tiers = ("sketch", "encoder", "guard")
    moderator = Moderator(policy(plain, tiers=tiers), models(guard=guard))
    text = "mild " * 250 + "an amber quokka"
    out, session = run(moderator, text, cuts=range(0, len(text), 5))
    assert session.blocked()
    assert out == text[:1024]
    assert len(guard.items) == 3
    assert run(moderator, text)[0] == out


def test_a_tier_that_fails_in_a_stream_closes_it():
    sketch = FakeSketch(fault="torn")
    moderator = Moderator(POLICY, models(sketch=sketch))
    text = "mild " * 40 + "torn " + "mild " * 40
    out, session = run(moderator, text, cuts=range(len(text)))
    assert session.blocked()
    assert text.startswith(out)
    assert "torn" not in out
    assert session.decision.tiers["output.sketch"] is TierState.FAILED


@pytest.mark.parametrize("size", [1, 50, 5_000])
def test_a_language_that_is_blocked_does_not_begin_to_flow(size):
    blocking = policy(HARM, tiers=("sketch", "encoder"), unknown_language="block")
    moderator = Moderator(blocking, models())
    german = "Das ist ein ganz harmloser Satz, und noch einer ist es auch. " * 5
    out, session = run(moderator, german, cuts=range(0, len(german), size))
    assert (out, session.blocked()) == ("", True)
    assert session.decision.languages == {"output": "de"}
    english = "This is a harmless sentence, and it is one of many that there are. " * 5
    out, session = run(moderator, english, cuts=range(0, len(english), size))
    assert (out, session.blocked()) == (english, False)


def test_many_sessions_at_once_stay_apart():
    moderator = Moderator(POLICY, models())
    texts = [f"{n} " + ("[s5] [e9] " if n % 2 else "mild ") * 40 for n in range(24)]
    verdicts: dict[int, bool] = {}

    def work(number):
        _, session = run(moderator, texts[number], cuts=range(0, 400, 9))
        verdicts[number] = session.blocked()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {n: bool(n % 2) for n in range(len(texts))}
