"""run() and Runner, compared with asyncio's of the running version."""

import asyncio
import contextvars
import gc
import inspect
import sys
import weakref

import pytest


def test_run(aio):
    async def main():
        await aio.sleep(0)
        return aio.get_running_loop()

    loop = aio.run(main())
    assert loop.is_closed()
    assert not loop.get_debug()
    assert aio.run(main(), debug=True).get_debug()


def test_signatures(aio):
    assert inspect.signature(aio.run).parameters.keys() == inspect.signature(asyncio.run).parameters.keys()
    for name, parameter in inspect.signature(asyncio.run).parameters.items():
        ours = inspect.signature(aio.run).parameters[name]
        assert (ours.kind, ours.default) == (parameter.kind, parameter.default)
    for name, parameter in inspect.signature(asyncio.Runner).parameters.items():
        ours = inspect.signature(aio.Runner).parameters[name]
        assert (ours.kind, ours.default) == (parameter.kind, parameter.default)


def test_the_default_loop_is_ours():
    rondel = pytest.importorskip("rondel")

    async def main():
        return aio_current(), asyncio.get_event_loop_policy() if sys.version_info < (3, 14) else None

    def aio_current():
        return asyncio.get_running_loop()

    loop, _ = rondel.run(main())
    assert type(loop) is rondel.EventLoop
    with rondel.Runner() as runner:
        assert type(runner.get_loop()) is rondel.EventLoop
        assert isinstance(runner, asyncio.Runner)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="run() has no loop_factory before 3.12")
def test_loop_factory(aio, impl):
    made = []

    def factory():
        made.append(impl.new_event_loop())
        return made[-1]

    async def main():
        return aio.get_running_loop()

    assert aio.run(main(), loop_factory=factory) is made[0]
    with aio.Runner(loop_factory=factory) as runner:
        assert runner.get_loop() is made[1]


def test_only_coroutines(aio):
    with pytest.raises((ValueError, TypeError), match="a coroutine was expected|An asyncio.Future, a coroutine or"):
        aio.run(5)


def test_not_inside_a_loop(aio):
    async def main():
        coroutine = main()
        with pytest.raises(RuntimeError, match=r"asyncio\.run\(\) cannot be called from a running event loop"):
            aio.run(coroutine)
        with pytest.raises(RuntimeError, match=r"Runner\.run\(\) cannot be called from a running event loop"):
            aio.Runner().run(coroutine)
        coroutine.close()

    aio.run(main())


def test_a_runner_runs_several_times(aio):
    variable = contextvars.ContextVar("variable", default=0)

    async def count():
        variable.set(variable.get() + 1)
        return variable.get()

    with aio.Runner() as runner:
        assert [runner.run(count()) for _ in range(3)] == [1, 2, 3]
        assert runner.run(count(), context=contextvars.Context()) == 1
    coroutine = count()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.run(coroutine)
    coroutine.close()
    runner.close()


def test_what_is_left_is_cancelled(aio):
    seen = []

    async def left(number):
        try:
            await aio.sleep(60)
        except aio.CancelledError:
            await aio.sleep(0)
            seen.append(number)
            raise

    async def main():
        global kept
        kept = [aio.create_task(left(number)) for number in range(3)]
        await aio.sleep(0)

    aio.run(main())
    assert sorted(seen) == [0, 1, 2]
    kept.clear()


def test_an_exception_of_the_main_task(aio):
    async def main():
        raise ValueError("from main")

    with pytest.raises(ValueError, match="from main"):
        aio.run(main())


def test_a_runner_is_no_cycle(aio):
    """Objects of the run are freed at its end, without a collection."""

    async def main():
        pass

    gc.collect()
    gc.disable()
    try:
        runner = aio.Runner()
        with runner:
            runner.run(main())
        reference = weakref.ref(runner)
        del runner
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="reads the current loop by the policy")
def test_the_default_loop_is_current_while_it_lives(aio, recwarn):
    async def main():
        return aio.get_running_loop()

    with aio.Runner() as runner:
        loop = runner.run(main())
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    with pytest.raises(RuntimeError):
        asyncio.get_event_loop_policy().get_event_loop()


def test_a_runner_of_asyncios_is_a_runner(aio):
    """Plugins of pytest check that after `install()`, of another plugin's runner."""
    with asyncio.Runner() as runner:
        assert isinstance(runner, aio.Runner)
    assert not isinstance(object(), aio.Runner)
