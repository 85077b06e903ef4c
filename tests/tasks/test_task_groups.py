"""Task groups: success, failures, cancellation, misuse, and attributes that tools read."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

MENDED = sys.version_info >= (3, 13)  # from then on a group counts cancellations of its parent correctly


async def give(value):
    return value


async def after_a_turn(value):
    await asyncio.sleep(0)
    return value


async def fail(error):
    raise error


async def forever():
    await asyncio.get_running_loop().create_future()


def test_results(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            tasks = [group.create_task(body(number)) for number in range(5) for body in (give, after_a_turn)]
            assert all(isinstance(task, asyncio.Task) and not task.done() for task in tasks)
        assert [task.result() for task in tasks] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert aio.current_task().cancelling() == 0

    run(main())


def test_a_group_is_asyncios(run, aio):
    async def main():
        group = aio.TaskGroup()
        assert isinstance(group, asyncio.TaskGroup)
        assert type(group).__name__ == "TaskGroup"
        reference = weakref.ref(group)
        group.mine = 1
        assert reference().mine == 1

    run(main())


def test_the_turns_it_takes(run, aio):
    """The group notices a child's end one turn later; its own end takes another turn."""

    async def main():
        loop = aio.get_running_loop()
        turns, ended = 0, False

        def turn():
            nonlocal turns
            turns += 1
            if not ended:
                loop.call_soon(turn)

        loop.call_soon(turn)
        async with aio.TaskGroup() as group:
            group.create_task(give(1))
        first = turns
        async with aio.TaskGroup() as group:
            group.create_task(after_a_turn(1))
        second = turns - first
        async with aio.TaskGroup():
            pass
        # The child's step, the group's callback, the parent's step; one more if the child yields.
        assert (first, second, turns - first - second) == (3, 4, 0)
        ended = True

    run(main())


def test_who_is_told_of_the_end_of_a_child(run, aio):
    """The group's callback runs in the order in which callbacks were added."""

    async def main():
        seen = []
        async with aio.TaskGroup() as group:
            task = group.create_task(give(1))
            task.add_done_callback(lambda task: seen.append(task in group._tasks))
            assert len(task._callbacks) == 2
            callback, context = task._callbacks[0]
            assert callback == group._on_task_done
            assert isinstance(context, contextvars.Context)
            assert "TaskGroup._on_task_done()" in repr(task)
        assert seen == [False]

    run(main())


def test_the_callback_can_be_removed(run, aio):
    async def main():
        group = aio.TaskGroup()
        await group.__aenter__()
        task = group.create_task(give(1))
        assert task.remove_done_callback(group._on_task_done) == 1
        await task
        await aio.sleep(0)
        assert group._tasks == {task}
        group._on_task_done(task)
        assert group._tasks == set()
        await group.__aexit__(None, None, None)

    run(main())


def test_names_and_contexts(run, aio):
    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        async def look():
            return variable.get()

        context = contextvars.Context()
        context.run(variable.set, "given")
        variable.set("inherited")
        async with aio.TaskGroup() as group:
            first = group.create_task(look(), name="first")
            second = group.create_task(look(), name=None, context=context)
            third = group.create_task(coro=look(), name=7)
        assert first.get_name() == "first"
        assert second.get_name().startswith("Task-")
        assert third.get_name() == "7"
        assert [first.result(), second.result(), third.result()] == ["inherited", "given", "inherited"]

    run(main())


def test_children_make_more_children(run, aio):
    async def main():
        done = []

        async def tree(depth):
            await aio.sleep(0)
            if depth:
                group.create_task(tree(depth - 1))
                group.create_task(tree(depth - 1))
            done.append(depth)

        async with aio.TaskGroup() as group:
            group.create_task(tree(4))
        assert len(done) == 31
        assert group._tasks == set()

    run(main())


def test_groups_in_groups(run, aio):
    async def main():
        async def inner():
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError("inner")))
                group.create_task(forever())

        with pytest.raises(BaseExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(inner())
                group.create_task(fail(KeyError("outer")))
        assert {type(error) for error in caught.value.exceptions} <= {KeyError, ExceptionGroup}

    run(main())


def test_a_child_fails(run, aio):
    async def main():
        with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup") as caught:
            async with aio.TaskGroup() as group:
                waiting = group.create_task(forever())
                group.create_task(fail(ValueError("first")))
                group.create_task(fail(KeyError("second")))
                group.create_task(give(1))
                await forever()
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('first')", "KeyError('second')"]
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert waiting.cancelled()
        assert aio.current_task().cancelling() == 0
        assert group._aborting
        await aio.sleep(0)

    run(main())


def test_the_body_fails(run, aio):
    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                waiting = group.create_task(forever())
                await aio.sleep(0)
                raise ValueError("body")
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('body')"]
        assert waiting.cancelled()

    run(main())


def test_body_and_child_fail(run, aio):
    async def main():
        async def fail_when_cancelled():
            try:
                await forever()
            finally:
                raise KeyError("child")

        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(fail_when_cancelled())
                await aio.sleep(0)
                raise ValueError("body")
        assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_goes_first(loop, aio, kind):
    seen = []

    async def main():
        try:
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError("lost")))
                group.create_task(fail(kind()))
                await forever()
        except BaseException as error:
            seen.append(type(error))
            raise

    task = loop.create_task(main())
    with pytest.raises(kind):
        loop.run_until_complete(task)
    with pytest.raises(kind):
        loop.run_until_complete(task)
    assert seen == [kind]


@pytest.mark.parametrize("waiting", ["in the body", "at the end"])
def test_the_parent_is_cancelled(run, aio, waiting):
    async def main():
        children = []

        async def parent():
            async with aio.TaskGroup() as group:
                children.append(group.create_task(forever()))
                if waiting == "in the body":
                    await forever()

        task = aio.create_task(parent())
        await aio.sleep(0)
        await aio.sleep(0)
        task.cancel("why")
        with pytest.raises(aio.CancelledError):
            await task
        assert task.cancelled()
        assert task.cancelling() == 1
        assert children[0].cancelled()

    run(main())


def test_the_parent_is_cancelled_again_and_again(run, aio):
    async def main():
        async def stubborn():
            for _ in range(3):
                try:
                    await forever()
                except aio.CancelledError:
                    pass
            return "done"

        async def parent():
            async with aio.TaskGroup() as group:
                children.append(group.create_task(stubborn()))

        children = []
        task = aio.create_task(parent())
        await aio.sleep(0)
        for _ in range(3):
            await aio.sleep(0)
            task.cancel()
            children[0].cancel()
        with pytest.raises(aio.CancelledError):
            await task
        assert children[0].result() == "done"
        assert task.cancelling() == 3

    run(main())


def test_cancelled_between_the_last_end_and_waking(run, aio):
    async def main():
        async def parent():
            async with aio.TaskGroup() as group:
                last = group.create_task(give(1))
                # After the group's own callback.
                last.add_done_callback(lambda _: task.cancel())

        task = aio.create_task(parent())
        with pytest.raises(aio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


def test_a_child_fails_while_the_parent_is_being_cancelled(run, aio):
    async def main():
        async def fail_when_cancelled():
            try:
                await forever()
            finally:
                raise ValueError("child")

        async def parent():
            async with aio.TaskGroup() as group:
                group.create_task(fail_when_cancelled())
                await forever()

        task = aio.create_task(parent())
        await aio.sleep(0)
        await aio.sleep(0)
        task.cancel()
        with pytest.raises(ExceptionGroup) as caught:
            await task
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
        assert task.cancelling() == 1

    run(main())


def test_cancellation_is_delivered_after_the_group_where_both_happen(run, aio):
    async def main():
        async def parent():
            try:
                async with aio.TaskGroup() as group:
                    group.create_task(fail(ValueError()))
                    aio.current_task().cancel()
                    await forever()
            except ExceptionGroup:
                pass
            await aio.sleep(0)
            return "not delivered"

        task = aio.create_task(parent())
        if MENDED:
            with pytest.raises(aio.CancelledError):
                await task
        else:
            await asyncio.wait([task])

    run(main())


def test_a_child_that_is_cancelled_is_no_failure(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            child = group.create_task(forever())
            other = group.create_task(after_a_turn(1))
            await aio.sleep(0)
            child.cancel()
        assert child.cancelled()
        assert other.result() == 1

    run(main())


def closed(coroutine):
    if MENDED:
        return coroutine.cr_frame is None
    coroutine.close()
    return True


def test_a_group_that_is_not_active_refuses(run, aio):
    async def main():
        group = aio.TaskGroup()
        coroutine = give(1)
        with pytest.raises(RuntimeError, match="^TaskGroup <TaskGroup> has not been entered$"):
            group.create_task(coroutine)
        assert closed(coroutine)
        async with group:
            pass
        coroutine = give(1)
        with pytest.raises(RuntimeError, match="^TaskGroup <TaskGroup entered> is finished$"):
            group.create_task(coroutine)
        assert closed(coroutine)
        with pytest.raises(RuntimeError, match="^TaskGroup <TaskGroup entered> has already been entered$"):
            async with group:
                pass

        late = []

        async def come_late():
            try:
                await forever()
            finally:
                coroutine = give(1)
                try:
                    group.create_task(coroutine)
                except RuntimeError as error:
                    late.append((str(error), closed(coroutine)))

        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                group.create_task(come_late())
                await aio.sleep(0)
                raise ValueError
        assert late == [("TaskGroup <TaskGroup tasks=1 cancelling> is shutting down", True)]

    run(main())


def test_a_group_needs_a_task(loop, aio):
    async def enter():
        await aio.TaskGroup().__aenter__()

    def without_a_task():
        coroutine = enter()
        try:
            coroutine.send(None)
        except RuntimeError as error:
            seen.append(str(error))
        loop.stop()

    seen = []
    loop.call_soon(without_a_task)
    loop.run_forever()
    assert seen == ["TaskGroup <TaskGroup> cannot determine the parent task"]


def test_wrong_arguments(run, aio):
    async def main():
        with pytest.raises(TypeError):
            aio.TaskGroup(1)
        async with aio.TaskGroup() as group:
            with pytest.raises(TypeError):
                group.create_task()
            with pytest.raises(TypeError):
                group.create_task(give(1), no_such_keyword=1)
            with pytest.raises(TypeError, match="a coroutine was expected, got 1"):
                group.create_task(1)
        gc.collect()

    with pytest.warns(RuntimeWarning, match="never awaited"):
        run(main())


def test_repr_and_attributes(run, aio):
    async def main():
        group = aio.TaskGroup()
        assert repr(group) == "<TaskGroup>"
        state = [group._entered, group._exiting, group._aborting, group._parent_cancel_requested]
        assert state == [False, False, False, False]
        assert (group._loop, group._parent_task, group._base_error, group._on_completed_fut) == (None,) * 4
        assert (group._tasks, group._errors) == (set(), [])
        async with group:
            assert repr(group) == "<TaskGroup entered>"
            assert group._loop is aio.get_running_loop()
            assert group._parent_task is aio.current_task()
            task = group.create_task(forever())
            assert repr(group) == "<TaskGroup tasks=1 entered>"
            assert group._tasks == {task}
            task.cancel()
        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError()))
                group.create_task(after_a_turn(1))
                try:
                    await forever()
                finally:
                    assert repr(group) == "<TaskGroup tasks=1 errors=1 cancelling>"
                    assert group._parent_cancel_requested

    run(main())


def test_a_subclass(run, aio):
    async def main():
        seen = []

        class Mine(aio.TaskGroup):
            def __init__(self, name):
                super().__init__()
                self.name = name

            def create_task(self, coro, **keywords):
                seen.append("create_task")
                return super().create_task(coro, **keywords)

            def _on_task_done(self, task):
                seen.append("done")
                super()._on_task_done(task)

        async with Mine("name") as group:
            task = group.create_task(give(1), name="named")
        assert (group.name, task.result(), task.get_name()) == ("name", 1, "named")
        assert seen == ["create_task", "done"]

    run(main())


def test_a_method_replaced_on_the_instance(run, aio):
    async def main():
        seen = []
        async with aio.TaskGroup() as group:
            own = group._on_task_done

            def told(task):
                seen.append(task)
                own(task)

            group._on_task_done = told
            task = group.create_task(give(1))
        assert seen == [task]

    run(main())


def test_a_replaced_create_task_of_the_loop(run, aio):
    async def main():
        loop = aio.get_running_loop()
        made = []
        own = loop.create_task

        def create_task(coro, **keywords):
            made.append(keywords)
            return own(coro, **keywords)

        loop.create_task = create_task
        try:
            async with aio.TaskGroup() as group:
                group.create_task(give(1))
        finally:
            del loop.create_task
        assert len(made) == 1

    run(main())


def test_task_factories(run, aio):
    async def main():
        loop = aio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **keywords: asyncio.Task(coro, loop=loop, **keywords))
        async with aio.TaskGroup() as group:
            task = group.create_task(after_a_turn(5), name="named")
        loop.set_task_factory(None)
        assert (task.result(), task.get_name()) == (5, "named")
        with pytest.raises(ExceptionGroup):
            loop.set_task_factory(lambda loop, coro, **keywords: asyncio.Task(coro, loop=loop, **keywords))
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError()))
        loop.set_task_factory(None)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_children(run, aio):
    async def main():
        loop = aio.get_running_loop()
        loop.set_task_factory(aio.eager_task_factory)
        async with aio.TaskGroup() as group:
            done = group.create_task(give(1))
            assert done.done()
            waiting = group.create_task(after_a_turn(2))
            assert not waiting.done()
        assert (done.result(), waiting.result()) == (1, 2)
        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(fail(ValueError("eager")))
                await forever()
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('eager')"]
        loop.set_task_factory(None)

    run(main())


def test_the_callback_runs_in_no_task(run, aio):
    async def main():
        seen = []

        class Mine(aio.TaskGroup):
            def _on_task_done(self, task):
                seen.append(aio.current_task())
                super()._on_task_done(task)

        async with Mine() as group:
            group.create_task(give(1))
        assert seen == [None]

    run(main())


def test_an_error_after_the_parents_end_is_reported(run, aio, problems):
    async def main():
        async def parent():
            group = aio.TaskGroup()
            await group.__aenter__()
            group.create_task(fails_later())

        async def fails_later():
            await aio.sleep(0)
            await aio.sleep(0)
            raise ValueError("late")

        await aio.create_task(parent())
        for _ in range(5):
            await aio.sleep(0)

    run(main())
    assert len(problems) == 1
    assert "has errored out but its parent task" in problems[0]["message"]
    assert repr(problems[0]["exception"]) == "ValueError('late')"


def test_nothing_is_kept(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            references = [weakref.ref(group.create_task(give(number))) for number in range(10)]
            await aio.sleep(0)
            await aio.sleep(0)
            await aio.sleep(0)
            assert not any(reference() for reference in references)
        reference = weakref.ref(group)
        del group
        gc.collect()
        assert reference() is None

    run(main())


def test_a_group_in_a_cycle_is_collected(run, aio):
    async def main():
        group = aio.TaskGroup()
        await group.__aenter__()
        group.task = group.create_task(forever())
        group.task._log_destroy_pending = False
        await aio.sleep(0)
        group.task.cancel()
        await aio.sleep(0)
        await aio.sleep(0)
        group.me = group
        reference = weakref.ref(group)
        del group
        gc.collect()
        assert reference() is None

    run(main())


def test_many_children(run, aio):
    async def main():
        async with aio.TaskGroup() as group:
            tasks = [group.create_task(after_a_turn(number)) for number in range(3000)]
        assert [task.result() for task in tasks] == list(range(3000))

    run(main())
