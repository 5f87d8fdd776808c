"""The queue of `run_jobs` on hundreds of devices that are made up: stragglers, failures, preemptions, in virtual time.

    python tests/simulate_queue.py [--devices 2 8 32 128 512] [--batches 100] [--seconds 12] [--out FILE]

The loop is the real one, and what it costs in real time is added to the virtual time, with what waiting for so many sockets costs.
A batch takes 12 seconds, as 8 texts of 2,048 tokens take a model of seven billion weights on a T4 by count, give or take a tenth.
One device in twenty is three times slower. A device fails every two hours and loads its model again in a minute, every hour a machine
of eight is taken away for ten minutes, one batch in ten thousand hangs for ever. What is found is written to nbs/measured_queue.json.

Efficiency is the work that was kept, by the time that devices were there, each counted at its own speed."""
import argparse, json, math, os, platform, socket, statistics, subprocess, time
from collections import deque
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import wait
from pathlib import Path
import numpy as np
from coderank_qdrant import parallel
from coderank_qdrant.workers import Died, Job, Worker

ROOT = Path(__file__).resolve().parents[1]
ROWS, TOKENS, MACHINE = 8, 2048, 8  # rows of a batch, tokens of a row, devices of a machine

@dataclass
class Faults:
    "What goes wrong, in seconds of virtual time."
    slow:float = 0.  # share of the devices that are three times slower
    fails:float = math.inf  # between two failures of a device, on average
    reload:float = 60.  # until a device that failed is back
    taken:float = math.inf  # between two preemptions of a machine, on average
    away:float = 600.  # until it is back
    hangs:float = 0.  # share of the batches that never end

CASES = {'no faults': Faults(), 'stragglers': Faults(slow=.05),
         'stragglers, failures, preemptions': Faults(slow=.05, fails=7200., taken=3600. * MACHINE, hangs=1e-4)}

class Clock:
    "Virtual time, in which the loop takes what it really takes."
    def __init__(self, loop): self.at, self.loop, self.spent, self.mark = 0., loop, 0., time.process_time()
    def monotonic(self):
        if self.loop:
            took = time.process_time() - self.mark
            self.at, self.spent = self.at + took, self.spent + took
            self.mark += took
        return self.at
    def skip(self):
        "What was done since the last look is no part of the loop."
        self.mark = time.process_time()

class World:
    "Devices, what they are about to say, and when."
    def __init__(self, n, faults, seconds, seed, loop):
        self.clock, self.faults, self.seconds, self.rng = Clock(loop), faults, seconds, np.random.default_rng(seed)
        self.due, self.deaths, self.away, self.calls, self.silence = np.full(n, np.inf), 0, [], 0, 0.
        self.wait_costs = waiting_costs(n) if loop else 0.
        # each machine of eight is taken at moments of its own, all its devices at once
        self.taken = [list(np.cumsum(self.rng.exponential(faults.taken / MACHINE, 200))) if math.isfinite(faults.taken) else [] for _ in range(-(-n // MACHINE))]
        self.pace = np.where(self.rng.random(n) < faults.slow, 3., 1.) * seconds / (ROWS * TOKENS)
        self.team = [Device(self, i).begin(0.) for i in range(n)]

    def wait(self, workers, patience):
        "As `multiprocessing.connection.wait`: who has something to say, or nobody when time is up."
        now = self.clock.monotonic() + self.wait_costs
        self.calls += 1
        first = self.due.min()
        self.clock.at = max(now, min(first, now + patience))
        found = [self.team[i] for i in np.flatnonzero(self.due <= self.clock.at)]
        self.clock.skip()
        return found

class Device(Worker):
    "A worker that computes nothing, and may die."
    process = True
    def __init__(self, world, number):
        super().__init__(None, f'device {number}', number=number)
        self.world, self.ends, self.depth = world, deque(), 2

    def begin(self, at, ready=True):
        "Loaded from some moment on."
        w, machine = self.world, self.number // MACHINE
        self.ready, self.back = (dict(dim=1) if ready else None), at
        dies = at + w.rng.exponential(w.faults.fails) if math.isfinite(w.faults.fails) else math.inf
        taken = next((moment for moment in w.taken[machine] if moment > at), math.inf)
        self.gone, self.hours = min((dies, w.faults.reload), (taken, w.faults.away))
        self.look()
        return self

    def look(self):
        "When it has something to say next."
        self.world.due[self.number] = self.back if self.ready is None else min(self.gone, self.ends[0] if self.ends else math.inf)

    def send(self, job, rows):
        now = self.world.clock.monotonic()
        rng = self.world.rng
        seconds = sum(rows) * self.world.pace[self.number] * math.exp(.1 * rng.standard_normal())
        if rng.random() < self.world.faults.hangs: seconds = math.inf
        self.ends.append(max(now, self.ends[-1] if self.ends else now) + seconds)
        self.look()
        self.world.clock.skip()

    def receive(self):
        now = self.world.clock.monotonic()
        if self.ready is None:
            self.world.due[self.number] = self.gone
            return 'ready', dict(dim=1)
        if self.gone <= now and not (self.ends and self.ends[0] <= self.gone): raise Died('taken away')
        self.ends.popleft()
        self.look()
        self.world.clock.skip()
        return 'done', np.ones((len(self.jobs[0].rows), 1), np.float32), {}

    def replace(self):
        self.world.deaths += 1
        self.ends.clear()
        if self.hours == self.world.faults.away: self.world.away.append((self.number, self.world.clock.monotonic(), self.hours))
        self.begin(self.world.clock.monotonic() + self.hours, ready=False)
        self.world.clock.skip()

    def give_up(self, silent):
        self.world.silence = max(self.world.silence, silent)
        self.gone, self.hours = self.world.clock.monotonic(), self.world.faults.reload
        self.look()

    def close(self): self.world.due[self.number] = np.inf

def waiting_costs(n, times=50):
    "Seconds that one call of the real `wait` takes over so many sockets, one of which has something to say."
    pairs, took = [socket.socketpair() for _ in range(n)], []
    try:
        pairs[0][1].send(b'.')
        for _ in range(times):
            start = time.process_time()
            wait([ours for ours,_ in pairs], .5)
            took.append(time.process_time() - start)
    finally:
        for pair in pairs:
            for end in pair: end.close()
    return statistics.median(took)

def simulate(n, batches, faults, seconds=12., seed=0, loop=True):
    "Run so many batches on so many devices; what came of it."
    world = World(n, faults, seconds, seed, loop)
    lengths = np.full(batches * ROWS, TOKENS)
    jobs = [Job(list(range(i, i + ROWS))) for i in range(0, len(lengths), ROWS)]
    done, quarantined, retried = np.zeros(len(lengths), np.int64), 0, 0
    real = parallel.time, parallel.wait
    parallel.time, parallel.wait = world.clock, world.wait
    world.clock.skip()
    try:
        for kind,facts in parallel.run_jobs(world.team, jobs, lambda rows: lengths[rows].tolist(), lengths, speed=ROWS * TOKENS / seconds):
            world.clock.monotonic()
            if kind == 'done': done[facts['numbers']] += 1
            quarantined += kind == 'quarantine'
            retried += kind == 'retry'
            world.clock.skip()
    finally: parallel.time, parallel.wait = real
    took = world.clock.at
    speeds = world.seconds / (ROWS * TOKENS) / world.pace
    there = speeds.sum() * took - sum(speeds[i] * min(hours, took - at) for i,at,hours in world.away)
    return dict(devices=n, batches=batches, seconds=round(took, 1), efficiency=round(batches * seconds / there, 4), deaths=world.deaths,
                retried=retried, silence=round(world.silence, 1), quarantined=int(quarantined), missing=int((done == 0).sum()), doubled=int((done > 1).sum()),
                loop_ms_a_batch=round(1000 * (world.clock.spent + world.calls * world.wait_costs) / batches, 3),
                loop_share=round((world.clock.spent + world.calls * world.wait_costs) / took, 4))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--devices', type=int, nargs='+', default=[2, 8, 32, 128, 512])
    p.add_argument('--batches', type=int, default=100, help='of each device')
    p.add_argument('--seconds', type=float, default=12., help='of a batch')
    p.add_argument('--seeds', type=int, default=2)
    p.add_argument('--out', type=Path, default=ROOT/'nbs/measured_queue.json')
    args = p.parse_args()
    found = []
    for name,faults in CASES.items():
        for n in args.devices:
            runs = [simulate(n, n * args.batches, faults, args.seconds, seed) for seed in range(args.seeds)]
            whole = dict(runs[0], case=name, efficiency=statistics.median(r['efficiency'] for r in runs),
                         spread=[min(r['efficiency'] for r in runs), max(r['efficiency'] for r in runs)],
                         deaths=sum(r['deaths'] for r in runs), retried=sum(r['retried'] for r in runs),
                         **{k: sum(r[k] for r in runs) for k in ('quarantined', 'missing', 'doubled')},
                         loop_ms_a_batch=statistics.median(r['loop_ms_a_batch'] for r in runs), loop_share=statistics.median(r['loop_share'] for r in runs))
            found.append(whole)
            print(f'{name}, {n} devices: efficiency {whole["efficiency"]:.3f} ({whole["spread"][0]:.3f} to {whole["spread"][1]:.3f}), {whole["deaths"]} deaths, '
                  f'{whole["missing"]} missing, {whole["doubled"]} doubled, {whole["quarantined"]} quarantined; the loop takes {whole["loop_ms_a_batch"]:.2f} ms a batch', flush=True)
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    facts = dict(command='python tests/simulate_queue.py', date=date.today().isoformat(), commit=commit, machine=f'{os.cpu_count()} CPU cores, Python {platform.python_version()}',
                 batches_a_device=args.batches, seconds_a_batch=args.seconds, seeds=args.seeds, runs=found)
    args.out.write_text(json.dumps(facts, indent=1) + '\n')

if __name__ == '__main__': main()
