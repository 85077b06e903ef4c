import sys, cProfile, pstats
sys.path.insert(0,'tests/properties')
from hypothesis import given, settings
from programs import programs
import time, asyncio, gc
gc.collect(); gc.freeze(); gc.disable()
from interpreter import Interpreter
from clocks import Clock
t={}
sizes=[]
@settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(__import__('hypothesis').HealthCheck))
@given(programs)
def f(p):
    for kind in ('virtual','manual','turns'):
        a=time.process_time()
        tr=Interpreter(asyncio, Clock(kind, False), p).run()
        t[kind]=t.get(kind,0)+time.process_time()-a
        sizes.append(len(tr))
a=time.process_time(); f(); b=time.process_time()
print(t, b-a, sum(sizes)/len(sizes))
