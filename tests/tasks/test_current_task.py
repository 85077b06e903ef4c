"""The current task, also in programs and libraries that enter and leave tasks themselves.

Up to 3.13 asyncio has the dict `asyncio.tasks._current_tasks`. Rondel's key in it determines the
current task when it is looked up.
"""

import asyncio
import gc
import sys
import threading
import weakref

import pytest

has_register = pytest.mark.skipif(sys.version_info >= (3, 14), reason="the register is no dict any more")
can_swap = pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no _swap_current_task yet")


@has_register
def test_register_answers_for_the_running_loop(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        register = asyncio.tasks._current_tasks
        assert register[loop] is me and register.get(loop) is me and loop in register
        assert register.get(object()) is None

        async def other():
            return register[loop]

        task = aio.create_task(other())
        assert await task is task
        assert register[loop] is me
        seen = []
        loop.call_soon(lambda: seen.append((register.get(loop), loop in register)))
        await aio.sleep(0)
        assert seen == [(None, False)]
        return loop

    loop = run(main())
    assert loop not in asyncio.tasks._current_tasks
    assert not any(task for task in asyncio.tasks._current_tasks.values())


@has_register
def test_register_forgets_loops(run, aio):
    before = len(asyncio.tasks._current_tasks)

    async def main():
        return aio.current_task() is not None

    for _ in range(5):
        assert run(main())
    assert len(asyncio.tasks._current_tasks) == before


def test_leaving_and_entering_by_hand(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        asyncio.tasks._leave_task(loop, me)
        assert aio.current_task() is None
        other = aio.create_task(aio.sleep(0))
        asyncio.tasks._enter_task(loop, other)
        assert aio.current_task() is other
        with pytest.raises(RuntimeError, match="while another task"):
            asyncio.tasks._enter_task(loop, me)
        asyncio.tasks._leave_task(loop, other)
        asyncio.tasks._enter_task(loop, me)
        assert aio.current_task() is me
        await other
        assert aio.current_task() is me

    run(main())


def test_entering_twice_is_an_error(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        with pytest.raises(RuntimeError, match="Cannot enter into task"):
            asyncio.tasks._enter_task(loop, me)
        with pytest.raises(RuntimeError, match="[Ll]eav(ing|e) task"):
            asyncio.tasks._leave_task(loop, None)
        assert aio.current_task() is me

    run(main())


@can_swap
def test_swapping_by_hand(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        other = aio.create_task(aio.sleep(0))
        swap = asyncio.tasks._swap_current_task
        assert swap(loop, other) is me
        assert aio.current_task() is other
        assert swap(loop, None) is other
        assert aio.current_task() is None
        assert swap(loop, me) is None
        assert aio.current_task() is me
        await other
        assert aio.current_task() is me

    run(main())


@can_swap
def test_swapping_unasked(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        other = aio.create_task(aio.sleep(0))
        swap = asyncio.tasks._swap_current_task
        await aio.sleep(0)
        before = swap(loop, other)
        assert before is me
        assert swap(loop, before) is other
        await aio.sleep(0)
        assert aio.current_task() is me
        await other

    run(main())


@can_swap
def test_eager_start_in_a_step_and_in_a_callback(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        seen = []

        async def child():
            seen.append(aio.current_task().get_name())
            await aio.sleep(0)
            seen.append(aio.current_task().get_name())

        def start(name):
            return aio.Task(child(), loop=loop, name=name, eager_start=True)

        first = start("first")
        assert aio.current_task() is me
        tasks = []
        loop.call_soon(lambda: (tasks.append(start("second")), seen.append(aio.current_task())))
        await aio.sleep(0)
        await first
        await tasks[0]
        assert seen == ["first", "first", "second", None, "second"]

    run(main())


@can_swap
def test_eager_start_after_leaving_by_hand(run, aio):
    async def main():
        loop, me = aio.get_running_loop(), aio.current_task()
        stand_in = aio.create_task(aio.sleep(0))
        asyncio.tasks._leave_task(loop, me)
        asyncio.tasks._enter_task(loop, stand_in)
        seen = []

        async def child():
            seen.append(aio.current_task())

        task = aio.Task(child(), loop=loop, eager_start=True)
        seen.append(aio.current_task())
        asyncio.tasks._leave_task(loop, stand_in)
        asyncio.tasks._enter_task(loop, me)
        assert seen == [task, stand_in]
        await stand_in

    run(main())


def test_asking_keeps_no_task_alive(run, aio):
    async def main():
        async def child():
            assert aio.current_task() is not None

        task = aio.create_task(child())
        await task
        reference = weakref.ref(task)
        del task
        await aio.sleep(0)
        gc.collect()
        assert reference() is None

    run(main())


def test_each_thread_has_its_own(impl, aio):
    together = threading.Barrier(2, timeout=20)
    problems = []

    def thread(name):
        async def main():
            aio.current_task().set_name(name)
            for _ in range(50):
                together.wait()
                if aio.current_task().get_name() != name:
                    problems.append(name)
                await aio.sleep(0)

        with aio.Runner(loop_factory=impl.new_event_loop) as runner:
            runner.run(main())

    threads = [threading.Thread(target=thread, args=(name,)) for name in ("one", "two")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not problems


def test_another_loop_has_none(run, aio, impl):
    other = impl.new_event_loop()

    async def main():
        assert aio.current_task(other) is None
        assert aio.current_task(aio.get_running_loop()) is aio.current_task() is not None

    run(main())
    other.close()
