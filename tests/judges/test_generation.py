"""Texts from a tiny model: seeded row by row, whatever else is in the batch; recorded texts."""

import pytest
import torch

from rrm_core.judges import RRM, Call, Judge, Reason, RecordedTexts, TransformersGenerator
from rrm_core.judges.generation import _SeededNoise

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def tiny():
    pytest.importorskip("trl")
    from bench.toy_trainer import make_model, make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return make_model().eval(), tokenizer


def calls(*words, seed=0):
    return [Call([{"role": "user", "content": text}], (0, i), seed + i) for i, text in enumerate(words)]


def test_a_text_depends_on_its_seed_and_not_on_its_batch(tiny):
    generate = TransformersGenerator(*tiny, max_new_tokens=8, temperature=1.0)
    batch = calls("w5 w6 w7", "w9", "w5 w6 w7")
    together = [found.text for found in generate(batch)]
    alone = [generate([call])[0].text for call in batch]
    assert together == alone
    assert together[0] != together[2]  # the same prompt, another seed
    assert [found.text for found in generate(batch)] == together


def test_thoughts_that_the_template_opens_stay_open(tiny):
    model, tokenizer = tiny
    tokenizer.chat_template = TEMPLATE + "<think>\n"
    try:
        found = TransformersGenerator(model, tokenizer, max_new_tokens=3)(calls("w5"))[0]
    finally:
        tokenizer.chat_template = TEMPLATE
    assert found.text.startswith("<think>")
    assert RRM().parse([found.text + "\\boxed{Assistant 1}"], [False]).reason.tolist() == [Reason.CUT_OFF]


def test_temperature_0_takes_the_likeliest(tiny):
    model, tokenizer = tiny
    found = TransformersGenerator(model, tokenizer, max_new_tokens=3, temperature=0)(calls("w5 w6 w7"))[0]
    ids = torch.tensor([tokenizer.encode("w5 w6 w7")])
    for _ in range(3):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert found.text == tokenizer.decode(ids[0, 3:], skip_special_tokens=True)
    assert not found.finished


def test_a_text_that_ends_is_finished(tiny, monkeypatch):
    model, tokenizer = tiny
    generate = TransformersGenerator(model, tokenizer, max_new_tokens=200, temperature=30.0)  # nearly uniform: one token in 1024 ends
    found = generate(calls(*["w5"] * 24))
    assert {x.finished for x in found} == {True, False}
    assert all(len(x.text.split()) < 200 for x in found if x.finished)


def test_hidden_states_are_those_before_the_last_token(tiny):
    model, tokenizer = tiny
    found = TransformersGenerator(model, tokenizer, max_new_tokens=4, temperature=1.0, hidden=True)(calls("w5 w6", "w7 w8 w9"))
    for call, x in zip(calls("w5 w6", "w7 w8 w9"), found, strict=True):
        ids = torch.tensor([tokenizer.encode(call.messages[0]["content"]) + tokenizer.encode(x.text)])
        if not x.finished and len(ids[0]) == len(tokenizer.encode(call.messages[0]["content"])) + 4:  # no special token was left out
            state = model(ids[:, :-1], output_hidden_states=True).hidden_states[-1][0, -1]
            torch.testing.assert_close(x.hidden, state, rtol=1e-4, atol=1e-4)
            assert x.hidden.shape == (64,)


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf]).expand(4000, 4)
    drawn = _SeededNoise(range(4000), 0.5, 1.0)(None, logits).argmax(-1)
    expected = (logits[0] / 0.5).softmax(-1)
    share = drawn.bincount(minlength=4) / 4000
    assert (share - expected).abs().max() < 4 * 0.5 / 4000**0.5
    top = _SeededNoise(range(4000), 0.5, 0.9)(None, logits).argmax(-1)
    assert set(top.tolist()) == {1, 2}  # 0.87 and 0.12 of the probability
    assert set(_SeededNoise(range(4000), 0.5, 0.8)(None, logits).argmax(-1).tolist()) == {2}


def test_a_judge_runs_on_a_model(tiny):
    judged = Judge(RRM(), TransformersGenerator(*tiny, max_new_tokens=4)).rank(["w5"], [["w6", "w7", "w8"]])
    assert judged.invalid.tolist() == judged.calls.tolist() == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ({"temperature": -1.0}, "temperature: expected a finite number of at least 0, got -1.0"),
        ({"top_p": 1.5}, "top_p: expected at most 1, got 1.5"),
    ],
)
def test_bad_options(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        TransformersGenerator(*tiny, **options)


def test_a_tokenizer_without_a_template_is_told(tiny):
    from bench.toy_trainer import make_tokenizer

    with pytest.raises(ValueError, match="tokenizer: expected one with a chat template, got one without"):
        TransformersGenerator(tiny[0], make_tokenizer())


def test_recorded_texts_leave_out_a_line_cut_short(tmp_path):
    path = tmp_path / "journal"
    Judge(RRM(), lambda asked: ["\\boxed{Assistant 1}"] * len(asked), journal=path).rank(["q"], [["a", "b", "c"]])
    path.write_text(path.read_text()[:-20])
    assert len(RecordedTexts.load(path)._texts) == 2


def test_recorded_texts_say_which_call_is_missing():
    recorded = RecordedTexts({(0, 0): "text"})
    assert recorded(calls("w5")) == ["text"]
    with pytest.raises(LookupError, match=r"recorded texts: expected one for the call \(0, 1\), got none among 1"):
        recorded(calls("w5", "w6"))
