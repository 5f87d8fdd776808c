"The queue on many devices that are made up, in virtual time: all is done once, whatever happens to them."
import pytest
from simulate_queue import CASES, Faults, simulate

HARSH = Faults(slow=.05, fails=600., reload=60., taken=2400., away=300., hangs=1e-3)

def whole(run): return (run['missing'], run['doubled'], run['quarantined']) == (0, 0, 0)

@pytest.mark.parametrize('n,least', [(2, .97), (32, .95)])
def test_devices_are_kept_busy(n, least):
    run = simulate(n, 60 * n, CASES['no faults'], loop=False)
    assert whole(run) and run['deaths'] == 0 and run['efficiency'] > least

@pytest.mark.parametrize('seed', range(3))
def test_nothing_is_lost_or_doubled_when_devices_fail_are_taken_away_and_hang(seed):
    run = simulate(32, 32 * 60, HARSH, seed=seed, loop=False)
    assert whole(run) and run['deaths'] > 20 and run['efficiency'] > .6

def test_a_slow_device_holds_nobody_up():
    run = simulate(32, 32 * 60, Faults(slow=.1), seed=1, loop=False)
    assert whole(run) and run['efficiency'] > .9

def test_a_device_that_hangs_is_noticed_while_others_answer():
    "With 64 devices somebody always answers; a hung one was looked for only when nobody did. Thirty times its batch is what it is given."
    run = simulate(64, 64 * 200, Faults(hangs=3e-4), seconds=3., seed=1, loop=False)
    assert whole(run) and run['deaths'] > 0 and 90 <= run['silence'] < 95
