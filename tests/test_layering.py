"""The arrows between the layers, read from every import statement."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = {"logprobs", "advantages", "losses", "tournaments"}
PACKAGES = {"rrm_core", *(f"rrm_core.{family}" for family in FAMILIES)}
SHARED = {"_library", "_validate", "backends", "version"}
# within a family: which of its modules a module may import
INSIDE = {
    "reference": set(),
    "reference_backward": {"reference"},
    "reference_bradley_terry": set(),
    "reference_davidson": {"reference_bradley_terry"},
    "reference_scores": set(),
    "reference_linear": {"reference", "reference_backward"},
    "reference_votes": set(),
    "schema": {
        "reference",
        "reference_backward",
        "reference_bradley_terry",
        "reference_davidson",
        "reference_linear",
        "reference_scores",
        "reference_votes",
    },
    "score_tokens": {"reference"},
    "inputs": {"reference"},
    "groups": set(),
    "estimators": {"reference"},
    "ops": {"schema", "score_tokens", "reference", "reference_linear", "inputs", "groups", "estimators"},
    "tables": {"inputs", "reference_bradley_terry"},
    "ratings": {"schema", "inputs", "tables"},
    "davidson": {"schema", "inputs", "tables", "reference_bradley_terry", "reference_davidson"},
    "scores": {"schema", "inputs", "ratings", "reference_bradley_terry", "reference_scores"},
    "bootstrap": {"schema", "inputs", "ratings", "tables"},
    "plots": {"inputs", "tables", "ratings", "davidson", "bootstrap"},
    "frames": set(),
    "votes": {"schema", "inputs"},
    "verdicts": {"inputs"},
    "modules": {"ops", "score_tokens", "groups"},
    "schedulers": {"inputs"},
    "league": {"schedulers", "inputs", "ops"},
    "pairing": set(),
    "knockout": {"schedulers", "inputs"},
    "round_robin": {"schedulers", "inputs", "league"},
    "swiss": {"schedulers", "inputs", "league", "pairing"},
    "anchored": {"schedulers", "inputs", "league", "ratings"},
    "__init__": {
        "ops",
        "modules",
        "score_tokens",
        "groups",
        "reference",
        "reference_bradley_terry",
        "bootstrap",
        "davidson",
        "frames",
        "inputs",
        "plots",
        "ratings",
        "scores",
        "votes",
        "verdicts",
        "schedulers",
        "knockout",
        "round_robin",
        "swiss",
        "anchored",
    },
}
# which shared modules a family's module may import
FROM_SHARED = {
    "reference": {"_validate"},  # values_readable: may a loop stop early?
    "reference_backward": set(),
    "reference_bradley_terry": {"_validate"},
    "reference_davidson": {"_validate"},
    "reference_scores": {"_validate"},
    "reference_linear": set(),
    "reference_votes": set(),
    "schema": {"_library"},
    "inputs": {"_validate"},
    "groups": {"_validate"},
    "estimators": set(),
    "score_tokens": {"_validate"},
    "ops": {"_library", "_validate"},
    "ratings": {"_library", "_validate"},
    "davidson": {"_library", "_validate"},
    "scores": {"_library", "_validate"},
    "bootstrap": {"_library", "_validate"},
    "tables": {"_validate"},
    "plots": {"_validate"},
    "frames": {"_validate"},
    "votes": {"_library", "_validate"},
    "verdicts": {"_validate"},
    "schedulers": {"_validate"},
    "league": {"_validate"},
    "pairing": set(),
    "knockout": {"_validate"},
    "round_robin": {"_validate"},
    "swiss": {"_validate"},
    "anchored": {"_validate"},
    "modules": set(),
    "__init__": set(),
}


def imports(path: Path) -> list[str]:
    """Absolute names of every module that the file imports, lazily or not."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names] if node.module in PACKAGES else [str(node.module)]
    return found


def violations(path: Path, package: Path) -> list[str]:
    """Imports of ``rrm_core`` modules, by a file under ``package``, that go against the arrows."""
    parts = path.relative_to(package).with_suffix("").parts
    bad = []
    for name in imports(path):
        target = name.split(".")
        if target[0] in {"kernels", "tests", "bench", "examples"}:
            bad.append(name)
        if target[0] != "rrm_core" or len(target) == 1:
            continue
        area, rest = target[1], target[2:]
        if parts[0] in FAMILIES:
            family, module = parts[0], parts[1]
            if area == family:
                allowed = bool(rest) and rest[0] in INSIDE[module]
            elif area in SHARED:
                allowed = area in FROM_SHARED[module]
            else:
                allowed = (family, area) == ("losses", "logprobs")
        elif parts[0] == "judges":  # public names of the families, what checks arguments alike, and how leagues rank
            allowed = area in {"judges", "_validate"} or (area in FAMILIES and (not rest or rest[0] not in INSIDE or rest[0] in {"inputs", "league"}))
        elif parts == ("__init__",):
            allowed = area != "integrations"
        elif parts[0] == "integrations":
            allowed = area in {"integrations", "backends"} or (area in FAMILIES and rest[:1] not in [[module] for module in INSIDE])
        elif parts[0] == "backends":
            allowed = area == "_library"
        elif parts[0] in SHARED or parts[0] == "testing":
            allowed = False
        else:
            allowed = area not in {"judges", "integrations"} or parts[0] == area
        if not allowed:
            bad.append(name)
    return bad


def test_every_import_follows_the_arrows():
    package = ROOT / "rrm_core"
    found = {str(p.relative_to(package)): bad for p in sorted(package.rglob("*.py")) if (bad := violations(p, package))}
    assert found == {}


@pytest.mark.parametrize(
    ("file", "line", "bad"),
    [
        ("logprobs/reference.py", "from rrm_core.logprobs import schema", ["rrm_core.logprobs.schema"]),
        ("logprobs/reference.py", "def f():\n    import rrm_core._triton", ["rrm_core._triton"]),
        ("logprobs/schema.py", "from rrm_core.logprobs.ops import token_logprobs", ["rrm_core.logprobs.ops"]),
        ("logprobs/ops.py", "from rrm_core.tournaments import reference", ["rrm_core.tournaments.reference"]),
        ("logprobs/ops.py", "from rrm_core import judges", ["rrm_core.judges"]),
        ("losses/ops.py", "from rrm_core.logprobs import token_logprobs", []),
        ("integrations/trl.py", "from rrm_core.judges import Judge", ["rrm_core.judges"]),
        ("__init__.py", "from rrm_core.judges import RRM", []),
        ("judges/rrm.py", "from rrm_core.tournaments import elo\nfrom rrm_core.judges.system import Pairwise", []),
        ("judges/rrm.py", "from rrm_core.tournaments.schema import elo", ["rrm_core.tournaments.schema"]),
        ("judges/rrm.py", "from rrm_core._library import OPS", ["rrm_core._library"]),
        ("tournaments/schema.py", "from rrm_core._library import define_op", []),
        ("backends.py", "import rrm_core.logprobs.ops", ["rrm_core.logprobs.ops"]),
        ("logprobs/ops.py", "import kernels.triton", ["kernels.triton"]),
        ("integrations/trl.py", "from rrm_core.losses import policy_loss\nfrom rrm_core.integrations import trl_loss", []),
        ("integrations/trl.py", "from rrm_core.losses.schema import policy_loss", ["rrm_core.losses.schema"]),
        ("integrations/trl.py", "from rrm_core._library import define_op", ["rrm_core._library"]),
        ("losses/ops.py", "from rrm_core.integrations.trl import patch_trl", ["rrm_core.integrations.trl"]),
        ("__init__.py", "from rrm_core.integrations.trl import patch_trl", ["rrm_core.integrations.trl"]),
    ],
)
def test_the_check_sees_a_wrong_arrow(tmp_path, file, line, bad):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert violations(path, tmp_path) == bad


def test_kernels_import_nothing_of_the_torch_layer_and_are_no_package():
    assert not (ROOT / "kernels/__init__.py").exists()
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith("rrm_core") and not name.startswith("rrm_core._triton.")], path


def test_torch_stays_in_the_bindings():
    for path in sorted((ROOT / "kernels/cpu").iterdir()):
        includes = [line for line in path.read_text().splitlines() if line.startswith("#include")]
        assert not any("torch/" in i for i in includes) or path.name == "bindings.h", path
        assert not any("bindings.h" in i for i in includes) or path.name.startswith("bindings_"), path
