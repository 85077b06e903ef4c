"""The package as type checkers see it.

A name that asyncio has too is declared as asyncio's. So `rondel.Task` in an annotation is the class
that `asyncio.create_task` is declared to return, and a `rondel.StreamReader` can be passed to any
function that takes asyncio's. Rondel declares only `EventLoop` and what asyncio does not have.
"""

import sys
from asyncio import AbstractEventLoopPolicy as AbstractEventLoopPolicy
from asyncio import DefaultEventLoopPolicy as DefaultEventLoopPolicy
from asyncio import base_events as base_events
from asyncio import constants as constants
from asyncio import coroutines as coroutines
from asyncio import events as events
from asyncio import exceptions as exceptions
from asyncio import format_helpers as format_helpers
from asyncio import futures as futures
from asyncio import locks as locks
from asyncio import log as log
from asyncio import protocols as protocols
from asyncio import queues as queues
from asyncio import runners as runners
from asyncio import selector_events as selector_events
from asyncio import sslproto as sslproto
from asyncio import subprocess as subprocess
from asyncio import taskgroups as taskgroups
from asyncio import tasks as tasks
from asyncio import threads as threads
from asyncio import timeouts as timeouts
from asyncio import transports as transports
from asyncio import trsock as trsock
from asyncio import unix_events as unix_events
from asyncio.base_events import *
from asyncio.coroutines import *
from asyncio.events import *
from asyncio.exceptions import *
from asyncio.futures import *
from asyncio.locks import *
from asyncio.protocols import *
from asyncio.queues import *
from asyncio.runners import *
from asyncio.streams import *
from asyncio.subprocess import *
from asyncio.taskgroups import *
from asyncio.tasks import *
from asyncio.threads import *
from asyncio.timeouts import *
from asyncio.transports import *
from asyncio.unix_events import SelectorEventLoop as SelectorEventLoop

from ._event_loop import EventLoop as EventLoop
from ._install import install as install
from ._install import uninstall as uninstall
from ._policy import EventLoopPolicy as EventLoopPolicy
from ._rondel import __version__ as __version__

if sys.version_info >= (3, 14):
    from asyncio import graph as graph
    from asyncio.graph import *
else:
    from asyncio.unix_events import AbstractChildWatcher as AbstractChildWatcher
    from asyncio.unix_events import FastChildWatcher as FastChildWatcher
    from asyncio.unix_events import MultiLoopChildWatcher as MultiLoopChildWatcher
    from asyncio.unix_events import PidfdChildWatcher as PidfdChildWatcher
    from asyncio.unix_events import SafeChildWatcher as SafeChildWatcher
    from asyncio.unix_events import ThreadedChildWatcher as ThreadedChildWatcher
