"""Creating tasks: create_task, ensure_future, task factories of every kind, eager tasks."""

import asyncio
import contextvars
import inspect
import sys

import pytest

EAGER = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")


async def give(value):
    return value


async def after_a_turn(value):
    await asyncio.sleep(0)
    return value


# ---- create_task and ensure_future ----


def test_create_task(run, aio):
    async def main():
        context = contextvars.Context()
        variable = contextvars.ContextVar("variable", default="none")
        context.run(variable.set, "given")

        async def look():
            return variable.get()

        plain = aio.create_task(give(1))
        named = aio.create_task(give(2), name="named")
        numbered = aio.create_task(give(3), name=3)
        inside = aio.create_task(look(), context=context, name=None)
        by_keyword = aio.create_task(coro=give(4))
        assert [task.get_name() for task in (named, numbered)] == ["named", "3"]
        assert inside.get_name().startswith("Task-")
        assert await inside == "given"
        assert [await plain, await named, await numbered, await by_keyword] == [1, 2, 3, 4]
        number = int(aio.create_task(give(1)).get_name().removeprefix("Task-"))
        assert aio.create_task(give(1)).get_name() == f"Task-{number + 1}"
        assert all(type(task) is type(plain) for task in (named, numbered, inside, by_keyword))

    run(main())


def test_create_task_needs_a_running_loop(aio):
    coroutine = give(1)
    with pytest.raises(RuntimeError, match="^no running event loop$"):
        aio.create_task(coroutine)
    coroutine.close()


def test_create_task_refuses(run, aio):
    async def main():
        coroutine = give(1)
        with pytest.raises(TypeError):
            aio.create_task()
        with pytest.raises(TypeError):
            aio.create_task(coroutine, "name")
        with pytest.raises(TypeError):
            aio.create_task(coroutine, no_such_keyword=1)
        with pytest.raises(TypeError, match="^a coroutine was expected, got 'text'$"):
            aio.create_task("text")
        with pytest.raises(TypeError, match="^a coroutine was expected, got <Future pending"):
            aio.create_task(asyncio.Future())
        coroutine.close()

    run(main())


def test_create_task_asks_a_replaced_method_of_the_loop(run, aio):
    async def main():
        loop = aio.get_running_loop()
        own, asked = loop.create_task, []

        def create_task(coro, **keywords):
            asked.append(sorted(keywords))
            return own(coro, **keywords)

        loop.create_task = create_task
        try:
            await aio.create_task(give(1))
            await aio.create_task(give(1), name="named")
            await aio.ensure_future(give(1))
        finally:
            del loop.create_task
        await aio.create_task(give(1))
        assert len(asked) == 3

    run(main())


def test_ensure_future(run, aio):
    async def main():
        loop = aio.get_running_loop()
        future = loop.create_future()
        assert aio.ensure_future(future) is future
        assert aio.ensure_future(future, loop=loop) is future
        stock = asyncio.Future()
        assert aio.ensure_future(stock) is stock
        task = aio.ensure_future(give(1))
        assert aio.ensure_future(task) is task
        assert aio.isfuture(task)
        assert await task == 1
        assert await aio.ensure_future(give(2), loop=loop) == 2

        class Awaitable:
            def __await__(self):
                return give(3).__await__()

        assert await aio.ensure_future(Awaitable()) == 3
        assert await aio.ensure_future(coro_or_future=give(4)) == 4
        with pytest.raises(TypeError, match="^An asyncio.Future, a coroutine or an awaitable is required$"):
            aio.ensure_future(1)
        other = asyncio.SelectorEventLoop()
        try:
            with pytest.raises(ValueError, match="The future belongs to a different loop than the one specified"):
                aio.ensure_future(future, loop=other)
        finally:
            other.close()

    run(main())


def test_isfuture(run, aio):
    async def main():
        class Pretends:
            _asyncio_future_blocking = False

        assert aio.isfuture(aio.get_running_loop().create_future())
        assert aio.isfuture(asyncio.Future())
        assert aio.isfuture(Pretends())
        assert not aio.isfuture(Pretends)
        coroutine = give(1)
        assert not aio.isfuture(coroutine)
        await coroutine

    run(main())


# ---- asyncio's register functions ----


def test_the_register_of_tasks(run, aio):
    async def main():
        loop = aio.get_running_loop()

        class Own:
            def get_loop(self):
                return loop

            def done(self):
                return False

        own = Own()
        mine = aio.create_task(after_a_turn(1))
        assert mine in aio.all_tasks()
        asyncio.tasks._register_task(own)
        assert {own, mine} <= aio.all_tasks()
        asyncio.tasks._unregister_task(own)
        assert own not in aio.all_tasks()
        asyncio.tasks._unregister_task(mine)
        assert mine not in aio.all_tasks()
        asyncio.tasks._register_task(mine)
        assert mine in aio.all_tasks()
        await mine
        assert mine not in aio.all_tasks()

    run(main())


def test_entering_and_leaving_a_task(loop, aio):
    async def nothing():
        pass

    task, other = loop.create_task(nothing()), loop.create_task(nothing())
    seen = []

    def enter():
        assert aio.current_task() is None
        asyncio.tasks._enter_task(loop, task)
        seen.append(aio.current_task())
        with pytest.raises(RuntimeError, match="Cannot enter into task"):
            asyncio.tasks._enter_task(loop, other)
        with pytest.raises(RuntimeError, match="[Ll]eav(ing|e) task"):
            asyncio.tasks._leave_task(loop, other)
        asyncio.tasks._leave_task(loop, task)
        seen.append(aio.current_task())
        with pytest.raises(RuntimeError, match="[Ll]eav(ing|e) task"):
            asyncio.tasks._leave_task(loop, task)

    loop.call_soon(enter)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [task, None]


def test_entering_a_task_in_a_task(run, aio):
    async def main():
        loop, me, task = aio.get_running_loop(), aio.current_task(), aio.create_task(give(1))
        with pytest.raises(RuntimeError, match="Cannot enter into task .* while another task"):
            asyncio.tasks._enter_task(loop, task)
        asyncio.tasks._leave_task(loop, me)
        assert aio.current_task() is None
        asyncio.tasks._enter_task(loop, task)
        assert aio.current_task() is task
        asyncio.tasks._leave_task(loop, task)
        asyncio.tasks._enter_task(loop, me)
        assert aio.current_task() is me

    run(main())


@EAGER
def test_swapping_the_current_task(run, aio):
    async def main():
        loop, me, task = aio.get_running_loop(), aio.current_task(), aio.create_task(give(1))
        assert asyncio.tasks._swap_current_task(loop, task) is me
        assert aio.current_task() is task
        assert asyncio.tasks._swap_current_task(loop, None) is task
        assert aio.current_task() is None
        assert asyncio.tasks._swap_current_task(loop, me) is None
        await aio.sleep(0)
        assert aio.current_task() is me
        await task

    run(main())


# ---- factories ----


def named(loop, coro, *, name=None, context=None):
    return asyncio.Task(coro, loop=loop, name=name, context=context)


def anything(loop, coro, **keywords):
    return asyncio.Task(coro, loop=loop, **keywords)


def with_context(loop, coro, context=None, **_):
    return asyncio.Task(coro, loop=loop, context=context)


@pytest.mark.parametrize("factory", [named, anything, with_context])
def test_factories(run, aio, factory):
    async def main():
        loop = aio.get_running_loop()
        context = contextvars.Context()
        variable = contextvars.ContextVar("variable", default="none")
        context.run(variable.set, "given")

        async def look():
            return variable.get()

        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        assert await aio.create_task(look()) == "none"
        assert await aio.create_task(look(), context=context) == "given"
        assert await loop.create_task(look(), context=context, name="named") == "given"
        if factory is not with_context or sys.version_info < (3, 13, 3):
            assert loop.create_task(give(1), name="named").get_name() == "named"
            assert aio.create_task(give(1), name="named").get_name() == "named"
        assert type(aio.create_task(give(1))) is asyncio.Task
        loop.set_task_factory(None)
        assert await aio.gather(aio.create_task(give(1)), loop.create_task(give(2))) == [1, 2]

    run(main())


def test_a_factory_that_raises(run, aio):
    async def main():
        def factory(loop, coro, **keywords):
            coro.close()
            raise KeyError("factory")

        loop = aio.get_running_loop()
        loop.set_task_factory(factory)
        with pytest.raises(KeyError):
            aio.create_task(give(1))
        with pytest.raises(KeyError):
            loop.create_task(give(1))
        loop.set_task_factory(None)

    run(main())


# ---- eager tasks ----


@pytest.fixture
def eagerly(run, aio):
    """Run a coroutine in a loop whose tasks start eagerly."""

    def eagerly(main):
        async def prepared():
            loop = aio.get_running_loop()
            loop.set_task_factory(aio.eager_task_factory)
            try:
                await main
            finally:
                loop.set_task_factory(None)

        run(prepared())

    return eagerly


@EAGER
def test_eager_tasks_are_tasks(eagerly, aio):
    async def main():
        loop = aio.get_running_loop()
        done, waits = aio.create_task(give(1)), loop.create_task(after_a_turn(2))
        assert isinstance(done, aio.Task)
        assert isinstance(waits, asyncio.Task)
        assert done.done()
        assert not waits.done()
        assert done.result() == 1
        assert await waits == 2
        assert done not in aio.all_tasks()
        if sys.version_info >= (3, 13):  # early releases of 3.12 crash
            assert done.get_coro() is None

    eagerly(main())


@EAGER
def test_what_eager_tasks_see(eagerly, aio):
    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        me = aio.current_task()
        variable.set("mine")

        async def look(value):
            before = variable.get()
            variable.set(value)
            seen = [aio.current_task().get_name(), aio.current_task() in aio.all_tasks(), before, variable.get()]
            await aio.sleep(0)
            assert variable.get() == value
            return seen

        first = aio.create_task(look("first"), name="first")
        assert variable.get() == "mine"
        assert aio.current_task() is me
        context = contextvars.Context()
        second = aio.create_task(look("second"), context=context)
        assert context[variable] == "second"
        name, *rest = await first
        assert rest == [True, "mine", "first"]
        assert first.get_name() == "first"
        # Other versions set the name afterwards.
        assert (name == "first") == (sys.version_info >= (3, 14) or sys.version_info[:3] == (3, 13, 3))
        assert (await second)[1:] == [True, "none", "second"]

    eagerly(main())


@EAGER
def test_whether_the_loop_takes_what_tasks_take(run, aio):
    """3.14 and later releases of 3.13 pass keyword arguments on."""
    takes_all = asyncio.BaseEventLoop.create_task.__code__.co_flags & inspect.CO_VARKEYWORDS != 0

    async def main():
        loop = aio.get_running_loop()
        coroutine = give(1)
        if takes_all:
            assert loop.create_task(coroutine, eager_start=True).done()
            assert not loop.create_task(give(1), eager_start=False).done()
        else:
            with pytest.raises(TypeError, match="unexpected keyword argument 'eager_start'"):
                loop.create_task(coroutine, eager_start=True)
            coroutine.close()

    run(main())


@EAGER
def test_names_of_eager_tasks(eagerly, aio):
    async def main():
        loop = aio.get_running_loop()
        none = {aio.create_task(give(1)).get_name(), loop.create_task(give(1), name=None).get_name()}
        assert aio.Task(give(1), loop=loop, eager_start=True).get_name().startswith("Task-")
        # Early releases of 3.13 name such a task 'None'.
        assert all(name.startswith("Task-") or name == "None" for name in none)
        assert loop.create_task(give(1), name="named").get_name() == "named"

    eagerly(main())


@EAGER
def test_eager_tasks_that_fail_or_are_cancelled(eagerly, aio):
    async def main():
        async def fail():
            raise ValueError("at once")

        async def cancelled():
            raise aio.CancelledError("at once")

        failed = aio.create_task(fail())
        assert failed.done()
        assert repr(failed.exception()) == "ValueError('at once')"
        ended = aio.create_task(cancelled())
        assert ended.cancelled()
        waiting = aio.create_task(after_a_turn(1))
        waiting.cancel()
        with pytest.raises(aio.CancelledError):
            await waiting

        async def cancel_myself():
            aio.current_task().cancel()
            return "returned"

        task = aio.create_task(cancel_myself())
        assert task.cancelled()

    eagerly(main())


@EAGER
def test_eager_tasks_in_eager_tasks(eagerly, aio):
    async def main():
        order = []

        async def nest(depth):
            order.append(depth)
            me = aio.current_task()
            if depth:
                await aio.create_task(nest(depth - 1))
            assert aio.current_task() is me
            order.append(-depth)

        task = aio.create_task(nest(3))
        assert task.done()
        assert order == [3, 2, 1, 0, 0, -1, -2, -3]

    eagerly(main())


@EAGER
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_leaves_an_eager_start(loop, aio, kind):
    tasks = []

    async def ends():
        tasks.append(aio.current_task())
        raise kind

    async def main():
        loop.set_task_factory(aio.eager_task_factory)
        me = aio.current_task()
        with pytest.raises(kind):
            aio.create_task(ends())
        assert aio.current_task() is me
        assert tasks[0].done()
        assert isinstance(tasks[0].exception(), kind)
        assert tasks[0] not in aio.all_tasks()

    loop.run_until_complete(main())


@EAGER
def test_an_eager_start_in_a_callback(loop, aio):
    seen = []

    async def look():
        seen.append(aio.current_task())
        await aio.sleep(0)

    def callback():
        task = loop.create_task(look())
        seen.append(task)
        seen.append(aio.current_task())
        task.add_done_callback(lambda _: loop.stop())

    loop.set_task_factory(aio.eager_task_factory)
    loop.call_soon(callback)
    loop.run_forever()
    assert seen[0] is seen[1]
    assert seen[2] is None


@EAGER
def test_an_eager_factory_on_a_loop_that_does_not_run(loop, aio):
    loop.set_task_factory(aio.eager_task_factory)
    task = loop.create_task(give(1))
    assert not task.done()
    assert loop.run_until_complete(task) == 1


@EAGER
def test_a_factory_of_ones_own_constructor(run, aio):
    async def main():
        made = []

        class Mine(aio.Task):
            def __init__(self, coro, **keywords):
                made.append(keywords["eager_start"])
                super().__init__(coro, **keywords)

        loop = aio.get_running_loop()
        loop.set_task_factory(aio.create_eager_task_factory(Mine))
        task = aio.create_task(give(1), name="named")
        assert type(task) is Mine
        assert made == [True]
        assert task.done()
        assert task.get_name() == "named"
        loop.set_task_factory(aio.create_eager_task_factory(aio.Task))
        assert aio.create_task(give(2)).result() == 2
        loop.set_task_factory(None)

    run(main())


@EAGER
def test_the_factory_called_by_hand(run, aio):
    async def main():
        loop = aio.get_running_loop()
        context = contextvars.Context()
        task = aio.eager_task_factory(loop, give(1), name="named", context=context)
        assert (task.result(), task.get_name(), task.get_context()) == (1, "named", context)
        assert aio.eager_task_factory(loop=loop, coro=give(2)).result() == 2
        coroutine = give(3)
        for arguments in [(), (loop,), (loop, coroutine, "name")]:
            with pytest.raises(TypeError):
                aio.eager_task_factory(*arguments)
        coroutine.close()

    run(main())


@EAGER
def test_the_factory_is_told_by_its_code(aio):
    """Like anyio, which takes the task class out of the closure."""
    factory = aio.eager_task_factory
    assert factory.__code__ is asyncio.create_eager_task_factory(asyncio.Task).__code__
    assert factory.__closure__[0].cell_contents is aio.Task
