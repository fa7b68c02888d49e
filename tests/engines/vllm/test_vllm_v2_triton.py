"""The kernels as Triton itself takes them: run by its interpreter, and compiled for a GPU."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

INTERPRETED = """
import json, sys
import numpy as np
import torch
from pathlib import Path
from prism.policy import load_policy
from prism.steer.guard import TokenGuard
from prism.steer.score_arena import ScoreArena
from prism.steer.score_kernel import DUE, HIGH, LOW
from prism.steer.scores import ScoreStates
from prism.steer.state import State
from prism.steer.vocabulary import Vocabulary
from vllm_prism.fields import slot
from vllm_prism.walk import Walk

pieces = [bytes([b]) for b in range(256)]
pieces += [b" lan", b"tern", b"zep", b"@", b" boo", b"hyr lantern"]
vocabulary = Vocabulary([*pieces, None], [len(pieces)], lambda text: list(text.encode()))
guard = TokenGuard.compile(load_policy(Path(sys.argv[1])), vocabulary)
guard.scores.model[3][:] = -50.0  # any score is too high, at the 32nd character
texts = [b"the zephyrs blow over a lamp, a l"]
texts += [b"a zeph", b"z3phyrr lan", b"b.o.o.", "boo\\u212a".encode()[:-1], b"copper viole"]
arena = ScoreArena.of([guard])
walk = Walk([guard], len(pieces), len(texts), 1, torch.device("cpu"), tried=256)
fields = [slot(0, seen=len(t) - 2) for t in texts]
states = [walk.start(0, list(t[:-2])) for t in texts]
walk.put(range(len(texts)), np.array(fields), np.stack(states))
ids = torch.zeros((len(texts), 32), dtype=torch.int32)
for slot, text in enumerate(texts):
    ids[slot, : len(text) - 1] = torch.tensor(list(text[:-1]))
rows = range(2 * len(texts))  # behind the committed tokens, and behind one draft
logits = torch.zeros((len(rows), len(pieces) + 2))
logits[-1, ord("t")] = 1.0
walk.step(
    logits,
    ids,
    torch.tensor([row // 2 for row in rows], dtype=torch.int32),
    torch.tensor([row % 2 for row in rows], dtype=torch.int32),
    torch.tensor([len(texts[row // 2]) - 2 + row % 2 for row in rows]),
    torch.tensor([texts[row // 2][-2 + row % 2] for row in rows], dtype=torch.int32),
)
result = []
for row in rows:
    text = texts[row // 2]
    state = State(guard.output)
    state.feed(vocabulary, np.array(list(text[: len(text) - 1 + row % 2])))
    masks = guard.banned(state.states, state.slots)
    host = masks.row(0).tolist()
    if masks.only[0]:
        host = sorted(set(range(len(pieces) + 2)) - set(host))
    result.append([host, torch.where(logits[row] == -torch.inf)[0].tolist()])
same = []
for slot, text in enumerate(texts):
    states = ScoreStates(guard.scores)
    states.feed_one(0, np.array(list(text[:-1])))
    device, host = walk._slot_scores[slot].tolist(), arena.state(states).tolist()
    asked = [i for i in range(len(host)) if host[DUE] or i not in (LOW, HIGH)]
    same.append([device[i] for i in asked] == [host[i] for i in asked])
print(json.dumps([result, same]))
"""

POLICY = """\
prism: 1
id: kernels
tiers: {sketch: on}
rules:
  - {id: h, category: harm, stages: [output], action: block, thresholds: {output: 0.9}}
  - {id: a, category: prv, stages: [output], phrases: [zephyr lantern, book], action: steer}
  - {id: b, category: prv, stages: [output], phrases: [copper violet], action: block}
messages: {en: "n"}
"""

COMPILED = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from vllm_prism import scoring, steps, wellformed

types = {name: "i32" for name in ("known", "most", "rows", "columns", "longest", "eos")}
types |= {name: "i64" for name in ("id_stride", "stride", "scratch")} | {"logits": "*fp32"}
types |= dict.fromkeys(("views", "common", "policies", "slot_states", "row_states"), "*i64")
types |= dict.fromkeys(("tops", "pos", "slot_scores", "row_scores"), "*i64")
types |= dict.fromkeys(("heads", "biases", "bounds"), "*fp64")
types |= {"spelled": "*u8", "follows": "*u8", "embeddings": "*i8"}
constants = {"RING": 64, "LANES": 4, "CHUNK": 256, "TRIED": 8, "BLOCK": 128}
constants |= {"SCORES": 200, "WIDTH": 200, "DIMENSIONS": 16, "WATCHED": 4}
launched = steps.read_rows, scoring.score_rows, wellformed.keep_valid, steps.try_tokens
launched += steps.mask_lists, steps.decide
sizes = {}
for kernel in launched:
    names = kernel.arg_names
    given = {name: "constexpr" if name in constants else types.get(name, "*i32") for name in names}
    fixed = {(i,): constants[name] for i, name in enumerate(names) if name in constants}
    source = ASTSource(kernel, signature=given, constexprs=fixed)
    done = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    sizes[kernel.fn.__name__] = len(done.asm["cubin"])
print(json.dumps(sizes))
"""


def run(code: str, *args: str, **env: str) -> object:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tritons_interpreter_masks_as_the_host_does(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    rows, same = run(INTERPRETED, str(path), TRITON_INTERPRET="1")
    (_, scored), (_, behind), *masked, (refused, forced) = rows
    assert [host for host, _ in masked] == [device for _, device in masked]
    assert sum(len(host) for host, _ in masked) > 3
    # The last row wants what is refused: all is masked but the refusal's first token.
    assert ord("t") in refused
    assert set(range(258)) - set(forced) == {ord("\n")}
    # The first two are behind a score that is too high.
    assert set(range(258)) - set(scored) == set(range(258)) - set(behind) == {ord("\n")}
    assert all(same)


def test_they_compile_for_a_gpu(tmp_path):
    sizes = run(COMPILED, TRITON_CACHE_DIR=str(tmp_path))
    names = {"read_rows", "score_rows", "keep_valid", "try_tokens", "mask_lists", "decide"}
    assert set(sizes) == names
    assert min(sizes.values()) > 0
