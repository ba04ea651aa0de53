"""The mutants, and the judging of them: a campaign that found nothing as it ran nothing would look like a success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.__main__ import MODULES
from mutation.judging import ROOT, source_of
from mutation.mutants import chosen, mutants
from mutation.survivors import EQUIVALENT


def names(source: str) -> list[str]:
    return [mutant.name for mutant in mutants("m", source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["a < b -> a <= b", "a < b -> a >= b"]),
        ("a == b", ["a == b -> a != b"]),
        ("a is not b", ["a is not b -> a is b"]),
        ("a < b < c", [f"a < b < c -> a {ops} c" for ops in ("<= b <", ">= b <", "< b <=", "< b >=")]),
        ("not a", ["not a -> a"]),
        ("a and b", ["a and b -> a or b", "a and b -> b", "a and b -> a"]),
        ("a if b else c", ["b -> not b"]),
        ("[a for a in b if a]", ["a -> not a"]),
        ("a + b", ["a + b -> a - b"]),
        ("a[1]", ["1 -> 2", "1 -> 0"]),
        ("a(True, '', b'x')", ["True -> False", "'' -> 'mutant'", "b'x' -> b''"]),
        ("min(a, b)", ["min(a, b) -> max(a, b)"]),
        ("t.strip()", ["t.strip() -> t"]),
    ],
)
def test_expressions(source: str, expected: list[str]) -> None:
    assert names(f"x = {source}") == [f"x: {name}" for name in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM t WHERE a = :a", ["a = -> a !="]),
        ("WHERE a >= :a", [">= -> >", ">= -> <"]),
        ("WHERE a > :a", ["> -> >=", "> -> <="]),
        ("WHERE a < :a", ["< -> <=", "< -> >="]),
        ("WHERE a != 'b'", ["!= -> ="]),
        ("WHERE a IS NULL", ["IS NULL -> IS NOT NULL"]),
        ("WHERE a IS NOT NULL", ["IS NOT NULL -> IS NULL"]),
        ("AND NOT EXISTS (", ["NOT EXISTS -> EXISTS"]),
        (
            "WHERE a = :a AND b = :b AND (",
            [*(f"{x} = -> {x} !=" for x in "ab"), "AND b = :b -> nothing", "a = :a AND -> nothing"],
        ),
        ("a = :a AND b = :b", ["b = -> b !=", "AND b = :b -> nothing", "a = :a AND -> nothing"]),
        ("SELECT max(a) FROM t", ["max( -> min("]),
        ("SELECT DISTINCT a FROM t", ["DISTINCT -> nothing"]),
        ("ORDER BY a DESC LIMIT 1", ["DESC -> nothing", "ORDER BY a DESC -> nothing", "LIMIT 1 -> nothing"]),
        ("FROM t LIMIT 1 OFFSET :n", ["OFFSET :n -> nothing"]),
        ("SELECT count(*) FILTER (WHERE a)", ["FILTER (WHERE a) -> nothing"]),
        ("INSERT OR IGNORE INTO t", ["OR IGNORE -> nothing"]),
        ("INSERT INTO t ON CONFLICT (a) DO NOTHING", ["ON CONFLICT (a) DO NOTHING -> nothing"]),
    ],
)
def test_texts_of_statements(text: str, expected: list[str]) -> None:
    assert names(f"x = Prepared({text!r})") == [f"x: {name}" for name in expected]


def test_the_pieces_of_a_statement_are_put_together_again() -> None:
    (mutant, *_) = mutants("m", "x = f'SELECT {1 + 1} FROM t WHERE a > {2}'\n")
    scope: dict[str, str] = {}
    exec(mutant.code, scope)
    assert (mutant.name, scope["x"]) == ("x: > -> >=", "SELECT 2 FROM t WHERE a >= 2")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a", ["return a -> return None"]),
        ("return None", []),
        ("raise ValueError(1 + 1)", ["raise ValueError(1 + 1) -> nothing"]),
        ("a()", ["a() -> nothing"]),
        ("b = a", []),
        ("a = b", ["a = b -> nothing"]),
        ("'a docstring'", []),
        ("f'{a + 1}'", []),
        ("b: Literal[1]", []),
    ],
)
def test_statements(body: str, expected: list[str]) -> None:
    source = f"class C:\n    @decorated(1)\n    def f(self, a: Literal[1]) -> Literal[1]:\n        {body}\n"
    assert [name for name in names(source) if "f'" not in name] == [f"C.f: {name}" for name in expected]


def test_each_is_one_change_of_the_whole_and_has_a_name_of_its_own() -> None:
    found = mutants("m", "a = 1\nb = 1\n")
    assert [(mutant.line, mutant.name) for mutant in found] == [
        (1, "a: 1 -> 2"),
        (1, "a: 1 -> 0"),
        (2, "b: 1 -> 2"),
        (2, "b: 1 -> 0"),
    ]
    results = []
    for mutant in found:
        scope: dict[str, int] = {}
        exec(mutant.code, scope)
        results.append((scope["a"], scope["b"]))
    assert results == [(2, 1), (0, 1), (1, 2), (1, 0)]


def campaign(*words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, since the campaign forks, which this one may have too many threads for."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "mutation", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def test_the_tests_notice_a_sample_of_wrong_rules_and_statements() -> None:
    """Whichever survives needs a test, or a reason in `mutation.survivors` why none can tell it from the original."""
    done = campaign("ranges", "versions", "--own", "--every", "45")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1/8 killed by test_ranges.py::" in done.stdout
    assert "1 mutants,    1 killed (0 by time)" in done.stdout


JUDGED = """
import sys
from pathlib import Path
from mutation.judging import judge, warm_up
from mutation.mutants import mutants
warm_up()
test = sys.argv[1]
variants = mutants("ranges", Path(sys.argv[2]).read_text())
print(judge(None, [test], 60).outcome.name)
for mutant in variants:
    if mutant.name.startswith("resolve: start > end "):
        judgement = judge(mutant, [test], 60)
        print(judgement.outcome.name, judgement.by.rpartition("::")[2])
print(judge(None, [test + "_that_is_missing"], 60).outcome.name)
endless = mutants("ranges", "while True:\\n    x = 0\\n")[-1]
print(judge(endless, [test], 1).outcome.name)
"""


def test_outcomes(tmp_path: Path) -> None:
    """As it stands, a mutant that a test cannot see and one that it sees, no test at all, and a test without an end."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "from gestalt_cas.objects import ByteRange\n"
        "from gestalt_cas.rules.ranges import resolve\n"
        "def test_clamped():\n"
        "    assert resolve(ByteRange(0, 9), 5) == (0, 5)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-c", JUDGED, str(test), str(source_of("ranges"))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "SURVIVED",
        "SURVIVED ",
        "KILLED test_clamped",
        "KILLED",
        "TIMED_OUT",
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_explanation_is_of_a_mutant(module: str) -> None:
    every = mutants(module, source_of(module).read_text("utf-8"))
    assert set(EQUIVALENT.get(module, {})) <= {mutant.name for mutant in every}
    assert len({mutant.name for mutant in every}) == len(every)


def test_only_the_modules_of_the_campaign_have_explanations() -> None:
    assert set(EQUIVALENT) <= set(MODULES)


def test_words_choose() -> None:
    every = mutants("m", "a = 1\nb = 'x'\n")
    assert [mutant.name for mutant in chosen(every, "'x'")] == ["b: 'x' -> ''"]
    assert chosen(every, "") == every
