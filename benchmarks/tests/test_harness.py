"""Tests of the harness itself: `pytest benchmarks/tests`. They need the Rust programs, which `build` makes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent
sys.path.insert(0, str(BENCHMARKS))

from harness import build, external, goals, loops, machine, plot, record, selfcheck, session, table  # noqa: E402
from harness.cases import CASES, Case, Echo, Idle, InProcess, Waiting  # noqa: E402
from harness.measure import Figures, MeasurementError, Process, Settings, measure  # noqa: E402
from harness.results import Results  # noqa: E402

# The first test waits for cargo, which may have everything to build.
pytestmark = pytest.mark.timeout(900)

PYTHON_CASES = [case for case in CASES if "asyncio" in case.loops]
RUST_CASES = [(case, loop) for case in CASES if "tokio" in case.loops for loop in case.loops]
SHORT = Settings(seconds=0.03, warm_up=0.01, server_cpu=None, load_cpu=None)
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="session")
def contenders() -> loops.Contenders:
    machine.raise_descriptor_limit(12_000)
    return loops.find(sys.executable, build.binaries(), ["asyncio", "floor", "tokio", "rondel-rust"])


@pytest.mark.parametrize("wrong", selfcheck.BROKEN)
def test_the_load_generator_sees_through_a_server_that_is_wrong(contenders: loops.Contenders, wrong: str) -> None:
    assert selfcheck.check_broken(contenders, wrong) is None


@pytest.mark.parametrize("case", PYTHON_CASES, ids=lambda case: case.name)
def test_every_python_case_runs_on_stock_asyncio(contenders: loops.Contenders, case: Case) -> None:
    if reason := external.missing(case, contenders.python):
        pytest.skip(reason)
    assert selfcheck.check_case(contenders, SHORT, case, "asyncio") is None


@pytest.mark.parametrize(("case", "loop"), RUST_CASES, ids=lambda part: getattr(part, "name", part))
def test_every_rust_case_runs(contenders: loops.Contenders, case: Case, loop: str) -> None:
    if loop in contenders.skipped:
        pytest.skip(contenders.skipped[loop])
    assert selfcheck.check_case(contenders, SHORT, case, loop) is None


def test_a_server_that_dies_fails_the_measurement_and_is_named(
    contenders: loops.Contenders, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = "import os, sys; print('{\"port\": 9}', flush=True); sys.exit('boom')"
    monkeypatch.setattr(loops.Contenders, "command", lambda *_: [sys.executable, "-c", dies])
    with pytest.raises(MeasurementError):
        measure(contenders, SHORT, BY_NAME["streams-echo/1x64B"], "asyncio")


def test_a_program_that_says_nothing_is_given_up() -> None:
    process = Process([sys.executable, "-c", "import sys; sys.stdin.read()"], None)
    try:
        with pytest.raises(MeasurementError, match="no answer within"):
            process.read_line(0.05)
    finally:
        process.dispose()


def test_what_a_failing_program_wrote_last_is_the_reason() -> None:
    process = Process([sys.executable, "-c", "import sys; sys.exit('the reason')"], None)
    try:
        with pytest.raises(MeasurementError, match="exit status 1: the reason"):
            process.read_line(30)
    finally:
        process.dispose()


def test_a_loop_that_is_not_installed_is_skipped_with_a_reason(tmp_path: Path) -> None:
    found = loops.find(sys.executable, tmp_path, ["asyncio", "no_such_loop", "floor"])
    assert list(found.versions) == ["asyncio"]
    assert "No module named" in found.skipped["no_such_loop"]
    assert found.skipped["floor"] == "bench-floor is not built"


def figures(cpu: float, **more: float) -> Figures:
    base = {"operations": 10.0, "cpu_us": cpu, "user_us": cpu / 2, "system_us": cpu / 2}
    return {**base, "per_second": 1 / cpu, "peak_rss": 1e7, **more}


def contenders_of(*names: str) -> loops.Contenders:
    return loops.Contenders("python", Path(), dict.fromkeys(names, "1"), {}, {}, "3")


def test_rounds_are_interleaved_and_alternate_their_order() -> None:
    case = Case("c", "g", InProcess("c"), ("asyncio", "uvloop"))
    other = Case("d", "g", InProcess("d"), ("uvloop",))
    order = []

    def fake(_: object, __: object, case: Case, loop: str) -> Figures:
        order.append((case.name, loop))
        return figures(1.0)

    session.run(contenders_of("asyncio", "uvloop"), SHORT, [case, other], 2, fake)
    first = [("c", "asyncio"), ("c", "uvloop"), ("d", "uvloop")]
    second = [("c", "uvloop"), ("c", "asyncio"), ("d", "uvloop")]
    assert order == first + second


def test_a_loop_whose_module_does_not_work_is_measured_as_a_loop_alone() -> None:
    in_form = {form: Case(form, "g", InProcess("c", form), ("rondel",)) for form in ("loop", "module")}
    broken = loops.Contenders("python", Path(), {"rondel": "1"}, {}, {"rondel": "no run"}, "3")
    cases = list(in_form.values())
    results = session.run(broken, SHORT, cases, 1, lambda *_: figures(1.0))
    assert list(results.rounds) == ["loop"]
    assert broken.notices() == ["rondel as a module: no run"]


def test_a_contender_that_fails_once_has_no_figure_and_breaks_nothing() -> None:
    case = Case("c", "g", InProcess("c"), ("asyncio", "uvloop"))
    made: list[Figures | MeasurementError]
    made = [figures(1.0), figures(2.0), MeasurementError("boom"), figures(3.0)]
    rounds = iter(made)

    def fake(*_: object) -> Figures:
        given = next(rounds)
        if isinstance(given, MeasurementError):
            raise given
        return given

    results = session.run(contenders_of("asyncio", "uvloop"), SHORT, [case], 2, fake)
    assert results.failures == {("c", "uvloop"): "boom"}
    assert results.loops(case) == ["asyncio"]
    assert results.ratio(case, "asyncio", "uvloop") is None


def test_best_and_median_and_ratio() -> None:
    case = Case("c", "g", Echo("streams", 1, 64), ("asyncio", "uvloop"))
    results = Results([case])
    for cpu, p99 in ((4.0, 10.0), (2.0, 30.0), (9.0, 20.0)):
        results.add(case, "asyncio", figures(cpu, p50_us=5.0, p99_us=p99))
    results.add(case, "uvloop", figures(1.0, p50_us=5.0, p99_us=5.0))
    best = results.best(case, "asyncio")
    assert (best["cpu_us"], best["user_us"], best["p99_us"]) == (2.0, 1.0, 10.0)
    assert results.median(case, "asyncio")["cpu_us"] == 4.0
    assert results.ratio(case, "asyncio", "uvloop") == 2.0


def test_goals_are_judged_by_their_limits() -> None:
    results = Results(CASES)
    streams, idle = BY_NAME["streams-echo/100x1KiB"], BY_NAME["idle-memory/10000"]
    for loop, cpu in (("uvloop", 13.4), ("floor", 6.5), ("rondel", 7.9)):
        results.add(streams, loop, figures(cpu))
    results.add(idle, "rondel", {"rss_each": 3000.0, "pss_each": 3000.0, "peak_rss": 1.0})
    judged = {(v.goal.case, v.limit.baseline): v.outcome for v in goals.judge(results)}
    assert judged["streams-echo/100x1KiB", "uvloop"] == "reached"
    assert judged["streams-echo/100x1KiB", "floor"] == "missed"
    assert judged["idle-memory/10000", None] == "reached"
    assert judged["call-soon", "uvloop"] == "not measured"
    assert "MISSED" in table.goals_table(goals.judge(results))


def test_a_goal_may_be_a_difference() -> None:
    case = BY_NAME["import"]
    results = Results([case])
    results.add(case, "asyncio", {"cpu_us": 50_000.0, "peak_rss": 1})
    results.add(case, "rondel", {"cpu_us": 58_000.0, "peak_rss": 1})
    (verdict,) = [each for each in goals.judge(results) if each.goal.case == "import"]
    assert (verdict.outcome, verdict.texts) == ("reached", ("≤ 15 ms more than asyncio", "+8.0 ms"))
    results.rounds["import"]["rondel"] = [{"cpu_us": 66_000.0, "peak_rss": 1}]
    (verdict,) = [each for each in goals.judge(results) if each.goal.case == "import"]
    assert verdict.outcome == "missed"


def test_what_is_recorded_of_a_run_can_be_drawn_and_tabulated() -> None:
    cases = [BY_NAME["call-soon"], BY_NAME["idle-memory/10000"]]
    results = Results(cases)
    for loop, figure in (("asyncio", 2.0), ("uvloop", 1.0), ("blazio", 0.5), ("rondel", 0.75)):
        results.add(cases[0], loop, {"cpu_us": figure, "peak_rss": 1})
        results.add(cases[1], loop, {"rss_each": 1024 * figure, "peak_rss": 1})
    facts = {"cpu": "a CPU", "cores": "2", "kernel": "Linux", "load": "0"}
    kept = record.of_run(results, facts, "3.13.0 (main)", {"uvloop": "0.1", "floor": "x"}, "best of 1 round")
    tables = record.tables(kept)
    assert "| `call-soon` | µs | 2.00 | 1.00 | 0.500 | **0.750** | 0.75 |" in tables
    assert "- `call-soon`: blazio 0.500 µs; Rondel 0.750 µs" in tables
    assert "a CPU, 2 cores, Linux; CPython 3.13.0; uvloop 0.1; best of 1 round" in tables
    assert record.page(f"a{record.BEGIN}old{record.END}b", kept) == f"a{record.BEGIN}{tables}{record.END}b"
    drawn = ElementTree.fromstring(record.svg(kept))
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"call_soon", "0.750 µs", "memory of an idle connection", "768 B"} <= texts


@pytest.mark.parametrize("draw", [record.svg, lambda kept: plot.svg(_one_result(), [record.described(kept)])])
def test_what_stands_below_or_above_a_plot_fits_into_it(draw: Callable[[record.Record], str]) -> None:
    versions = {f"loop-number-{number}": "10.20.30" for number in range(20)}
    facts = {"cpu": "a CPU", "cores": "2", "kernel": "Linux", "load": "0"}
    kept = record.of_run(_one_result(), facts, "3.13.0", versions, "best of 5 rounds of 0.4 s")
    drawn = ElementTree.fromstring(draw(kept))
    texts = list(drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "loop-number-19 10.20.30" in " ".join(element.text or "" for element in texts)
    for element in texts:
        if element.get("text-anchor") == "start":
            # The width of a letter in DejaVu Sans, among the widest of usual fonts, is 0.58 of its
            # height.
            end = float(element.get("x", 0)) + len(element.text or "") * float(element.get("font-size", 0)) * 0.58
            assert end <= float(drawn.get("width", 0)), element.text


def _one_result() -> Results:
    results = Results([BY_NAME["call-soon"]])
    for loop in ("asyncio", "uvloop", "rondel"):
        results.add(results.cases[0], loop, {"cpu_us": 1.0, "peak_rss": 1})
    return results


def test_every_goal_names_a_case_its_contender_and_its_baselines_run() -> None:
    for goal in goals.GOALS:
        case = BY_NAME[goal.case]
        named = {goal.loop, *(limit.baseline or limit.beyond for limit in goal.limits)} - {None}
        assert named <= set(case.loops), goal.title


def test_the_plot_is_well_formed_and_names_every_case_and_contender() -> None:
    results = Results(CASES)
    for case in CASES:
        for number, loop in enumerate(case.loops):
            memory = {"rss_each": 3e3, "pss_each": 3e3}
            results.add(case, loop, figures(1.0 + number * 3, **(memory if case.in_memory else {})))
    text = plot.svg(results, ["a <machine> & its versions"])
    drawn = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    assert {case.name for case in CASES} <= drawn
    assert set(loops.ALL) <= drawn
    report = table.results_table(results)
    assert all(case.name in report for case in CASES)


def test_case_names_are_unique_and_what_waits_is_about_memory() -> None:
    assert len(BY_NAME) == len(CASES)
    assert all(case.in_memory == isinstance(case.workload, Idle | Waiting) for case in CASES)


def test_the_command_line_writes_table_json_and_plot(tmp_path: Path, contenders: loops.Contenders) -> None:
    written = {kind: tmp_path / f"out.{kind}" for kind in ("json", "svg")}
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--binaries", str(contenders.binaries)]
    command += ["--cases", "call-soon,streams-echo/1x64B", "--loops", "asyncio,floor", "--quick"]
    command += ["--json", str(written["json"]), "--svg", str(written["svg"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "streams-echo/1x64B" in done.stdout
    data = json.loads(written["json"].read_text())
    assert set(data["results"]) == {"call-soon", "streams-echo/1x64B"}
    assert set(data["results"]["streams-echo/1x64B"]) == {"asyncio", "floor"}
    assert data["machine"]["cpu"]
    assert data["versions"]["asyncio"]
    ElementTree.parse(written["svg"])
