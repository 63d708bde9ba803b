"""examples/pandalm.py on the real judgements, every figure against plain Python or scipy."""

import contextlib
import io
import json
import math
import re
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data/pandalm"
FILES = ["testset-v1.json", "gpt-3.5-turbo-testset-v1.json", "pandalm-7b-testset-v1.json"]
JUDGES = {"people": ["annotator1", "annotator2", "annotator3"], "GPT-3.5": ["gpt_result"], "PandaLM-7B": ["pandalm_result"]}
MODELS = ["bloom-7b", "cerebras-gpt-6.7B", "llama-7b", "opt-7b", "pythia-6.9b"]


@pytest.fixture(scope="module")
def data():
    if not DATA.exists():
        pytest.skip("the PandaLM judgements are not in ../shared/data")
    return DATA


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from examples import pandalm

        yield pandalm


@pytest.fixture(scope="module")
def run(example, data, tmp_path_factory):
    """(figures, what was printed, the picture's path)."""
    picture = tmp_path_factory.mktemp("pandalm") / "pandalm.png"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        figures = example.main(["--data", str(data), "--picture", str(picture)])
    return figures, out.getvalue(), picture


@pytest.fixture(scope="module")
def verdicts(data):
    """Per pair of answers: its two models, and what each key says of it as "1", "2", "tie" or "invalid"."""
    parts = [json.loads((data / name).read_text()) for name in FILES]
    words = {"0": "tie", "Tie": "tie", "1": "1", "2": "2"}
    keys = [key for judge in JUDGES.values() for key in judge]
    rows = []
    for people, gpt, pandalm in zip(*parts, strict=True):
        assert people["idx"] == gpt["idx"] == pandalm["idx"]
        record = {**people, **gpt, **pandalm}
        rows.append((record["cmp_key"].split("_"), {key: words.get(str(record[key]), "invalid") for key in keys}))
    return rows


def majority(said):
    return next((a for a, b in combinations((said[key] for key in JUDGES["people"]), 2) if a == b), None)


def wins_of(verdicts, judge):
    """(points, games) by pair of models; people's three verdicts are a third of a game each."""
    points, games = {}, {}
    for (a, b), said in verdicts:
        for key in JUDGES[judge]:
            if said[key] != "invalid":
                share = {"1": 1.0, "2": 0.0, "tie": 0.5}[said[key]]
                for x, y, won in ((a, b, share), (b, a, 1 - share)):
                    points[x, y] = points.get((x, y), 0.0) + won / len(JUDGES[judge])
                    games[x, y] = games.get((x, y), 0.0) + 1 / len(JUDGES[judge])
    return points, games


@pytest.mark.parametrize("judge", JUDGES)
def test_ratings_explain_the_points(run, verdicts, judge):
    """The maximum of the posterior is where everybody's points are those expected, the prior's virtual games included."""
    rating = run[0][judge]["rating"]
    points, games = wins_of(verdicts, judge)
    assert list(rating) == MODELS
    expected = {m: sum(g / (1 + math.exp(rating[y] - rating[m])) for (x, y), g in games.items() if x == m) for m in MODELS}
    for m in MODELS:
        won = sum(p for (x, _), p in points.items() if x == m)
        prior = 0.1 * (0.5 - 1 / (1 + math.exp(-rating[m])))  # the fixed opponent's strength is 0, the ratings' mean to within the prior
        assert won - expected[m] + prior == pytest.approx(0.0, abs=1e-3), m


def test_agreement_is_that_of_a_plain_count(run, verdicts):
    for judge, pairs, same in (("GPT-3.5", 999, 697), ("PandaLM-7B", 999, 667)):
        key = JUDGES[judge][0]
        both = [(majority(said), said[key]) for _, said in verdicts if majority(said)]
        assert (len(both), sum(a == b for a, b in both)) == (pairs, same)
        assert run[0][judge]["pairs"] == pairs
        assert run[0][judge]["agreement"] == pytest.approx(same / pairs, rel=1e-12)
        chance = sum(a == b for a, _ in both for _, b in both) / pairs**2
        assert run[0][judge]["kappa"] == pytest.approx((same / pairs - chance) / (1 - chance), rel=1e-12)


def test_agreement_by_hand(example):
    said = [("112", "1"), ("222", "1"), ("200", "0"), ("120", "1"), ("211", "garbage")]  # of the fourth, people have no common opinion
    records = [{**dict(zip(JUDGES["people"], people, strict=True)), "judge": judge} for people, judge in said]
    chance = (2 * 2 + 1 * 0 + 1 * 1) / 16
    assert example.agreement(records, "judge") == pytest.approx((4, 0.5, (0.5 - chance) / (1 - chance)))


def test_rank_correlations_are_scipys(run):
    stats = pytest.importorskip("scipy.stats")
    people = list(run[0]["people"]["rating"].values())
    for judge in ("GPT-3.5", "PandaLM-7B"):
        rating = list(run[0][judge]["rating"].values())
        assert run[0][judge]["kendall"] == pytest.approx(stats.kendalltau(rating, people).statistic)
        assert run[0][judge]["spearman"] == pytest.approx(stats.spearmanr(rating, people).statistic)


def test_everybody_agrees_on_the_best_and_the_two_worst(run):
    for judge in JUDGES:
        rating = run[0][judge]["rating"]
        order = sorted(rating, key=rating.get, reverse=True)
        assert order[0] == "llama-7b"
        assert order[3:] == ["opt-7b", "cerebras-gpt-6.7B"]
        assert set(order[1:3]) == {"bloom-7b", "pythia-6.9b"}


def test_what_is_printed(run, verdicts):
    _, text, picture = run
    games = {judge: {m: round(sum(g for (x, _), g in wins_of(verdicts, judge)[1].items() if x == m)) for m in MODELS} for judge in JUDGES}
    blocks = dict(zip(JUDGES, text.split("\n\n")[:3], strict=True))
    for judge, block in blocks.items():
        title, header, *rows = block.splitlines()
        assert title == f"{judge}: Bradley-Terry in Elo points, 95 % bootstrap intervals"
        assert header.split() == ["rank", "name", "Elo", "lower", "upper", "ranks", "P(best)", "games"]
        for row in rows:
            _, name, elo, lower, upper, _, _, played = row.split()
            assert float(elo) == pytest.approx(1000 + 400 / math.log(10) * run[0][judge]["rating"][name], abs=0.051)
            assert float(lower) < float(elo) < float(upper)
            assert int(played) == games[judge][name]
    assert re.search(rf"^ +tie strength: {run[0]['people']['tie strength']:.3f}$", text, re.MULTILINE)
    assert re.search(r"^GPT-3\.5 +999 +0\.698 +0\.476 +0\.80 +0\.90$", text, re.MULTILINE)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_folder_without_the_files_is_told(example, tmp_path, capsys):
    (tmp_path / FILES[0]).write_text("[]")
    with pytest.raises(SystemExit):
        example.main(["--data", str(tmp_path)])
    expected = f"--data: expected a folder of {', '.join(FILES)}, got {tmp_path} without {', '.join(FILES[1:])}\n"
    assert capsys.readouterr().err.endswith(expected)
