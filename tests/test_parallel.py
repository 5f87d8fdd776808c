"Workers that run out of memory, give bad vectors, die, hang or are interrupted: nothing is lost, and nobody is left behind."
import json, os, random, resource, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from conftest import REAL, alive, all_gone, also, read_jsonl, run_cli, start_cli, summary_of, write_file

TWO = '--devices', 'cpu,cpu'

@pytest.fixture(scope='module')
def undisturbed(tiny, subset, tmp_path_factory):
    "The output of one worker that nothing happens to."
    out = tmp_path_factory.mktemp('undisturbed')/'out'
    assert run_cli(subset, '--out', out, '--profile', tiny, '--devices', 'cpu').returncode == 0
    return out/'subset_embeddings.jsonl'

def events(out, kind): return [e for e in map(json.loads, (out/'metrics.jsonl').read_text().splitlines()) if e['event'] == kind]

def same(a, b, least=.99999):
    "The same chunks in the same order, with the same vectors."
    a, b = read_jsonl(a), read_jsonl(b)
    assert [x['id'] for x in a] == [x['id'] for x in b]
    return min(np.dot(x['embedding'], y['embedding']) for x,y in zip(a, b, strict=False)) >= least

def workers_of(parent):
    "The worker processes a command has now."
    found = []
    for p in Path('/proc').glob('[0-9]*'):
        try: stat, cmd = (p/'stat').read_text(), (p/'cmdline').read_text()
        except OSError: continue
        if int(stat.rpartition(')')[2].split()[1]) == parent and 'coderank_qdrant.workers' in cmd: found.append(int(p.name))
    return found

def wait_for(p, ready, seconds=120):
    until = time.time() + seconds
    while time.time() < until and p.poll() is None:
        if got := ready(): return got
        time.sleep(.02)
    raise AssertionError(f'The command ended ({p.poll()}) or did not get there')

def computing(out): return (out/'metrics.jsonl').exists() and b'"batch"' in (out/'metrics.jsonl').read_bytes()

def test_two_workers_give_what_one_gives(tiny, subset, undisturbed, tmp_path):
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *TWO)
    assert p.returncode == 0, p.stderr
    assert same(tmp_path/'out/subset_embeddings.jsonl', undisturbed)
    pids = {e['pid'] for e in events(tmp_path/'out', 'batch')}
    assert len(pids) == 2 and os.getpid() not in pids and all_gone(pids)
    assert summary_of(tmp_path/'out', 'subset')['devices'] == [f'CPU, {os.cpu_count()} threads'] * 2

ONE = '--devices', 'cpu'

@pytest.mark.parametrize('fault,devices', [also('oom:2', ONE), also('oom:over900', ONE), ('nan:3', ONE), also('odd:2', ONE),
                                           ('oom:over900', TWO), also('nan:3', TWO), ('odd:2', TWO), ('kill:2', TWO)])
def test_a_fault_that_passes_costs_nothing(fault, devices, faulty, tiny, subset, undisturbed, tmp_path):
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *devices, env=faulty(fault))
    s = summary_of(tmp_path/'out', 'subset')
    assert p.returncode == 0 and s['quarantined'] == [], p.stderr
    assert same(tmp_path/'out/subset_embeddings.jsonl', undisturbed)
    assert s['oom_events'] > 0 if fault.startswith('oom') else s['retried'] > 0
    if fault == 'oom:over900': assert max(e['rows'] * e['length'] for e in events(tmp_path/'out', 'batch')) <= 900

@pytest.mark.parametrize('fault,devices,why', [also('nan', ('--devices', 'cpu'), 'not finite'), ('oom', ('--devices', 'cpu'), 'out of memory'),
                                               also('odd', ('--devices', 'cpu'), 'an odd one'), ('kill', TWO, 'SIGKILL')])
def test_a_poisoned_text_is_put_aside_alone(fault, devices, why, faulty, tiny, tmp_path):
    from coderank_qdrant.models import load_tokenizer
    word = load_tokenizer(tiny)('zebra', add_special_tokens=False)['input_ids']
    assert len(word) == 1
    write_file(tmp_path/'in', 'docs/a_chunks.json', ['one text', 'a zebra', 'another text', 'the fourth', 'and a fifth'], 'a.md')
    p = run_cli(tmp_path/'in', '--out', tmp_path/'out', '--profile', tiny, *devices, env=faulty(f'{fault}:id{word[0]}'))
    s = summary_of(tmp_path/'out', 'in')
    assert p.returncode == 3, p.stderr
    assert [q['id'] for q in s['quarantined']] == ['in:docs:a.md:chunk:1'] and why in s['quarantined'][0]['reason']
    assert s['account']['embedded'] == 4 and len(read_jsonl(tmp_path/'out/in_embeddings.jsonl')) == 4

def test_a_run_on_which_nothing_works_says_so(faulty, tiny, subset, tmp_path):
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, '--devices', 'cpu', env=faulty('odd:over0'))
    assert p.returncode == 2 and 'No device is left' in p.stderr and 'an odd one' in p.stderr and 'Traceback' not in p.stderr

def disturbed(n, tiny, subset, tmp_path, seed):
    "Run with two workers, and kill one of them n times at random moments."
    rng, out = random.Random(seed), tmp_path/'out'
    p, pids, kills = start_cli(subset, '--out', out, '--profile', tiny, *TWO), set(), 0
    wait_for(p, lambda: computing(out))
    while p.poll() is None:
        here = workers_of(p.pid)
        pids |= set(here)
        if here and kills < n:
            os.kill(rng.choice(here), signal.SIGKILL)
            kills += 1
        time.sleep(rng.random() * .3)
    assert kills and p.returncode == 0, p.stderr.read()
    assert all_gone(pids)
    return kills, out/'subset_embeddings.jsonl'

def test_a_killed_worker_is_replaced(tiny, subset, undisturbed, tmp_path): assert same(disturbed(2, tiny, subset, tmp_path, 1)[1], undisturbed)

@pytest.mark.slow
def test_workers_killed_at_thirty_random_moments(tiny, subset, undisturbed, tmp_path):
    kills = 0
    for seed in range(40):
        n, out = disturbed(3, tiny, subset, tmp_path/str(seed), seed)
        kills += n
        assert same(out, undisturbed)
        if kills >= 30: return
    raise AssertionError(f'only {kills} kills')

def test_a_worker_that_hangs_is_replaced(tiny):
    from coderank_qdrant.devices import find_devices
    from coderank_qdrant.models import MODELS, folder_card
    from coderank_qdrant.parallel import run_jobs
    from coderank_qdrant.placement import place_model
    from coderank_qdrant.workers import Job, Task, close_team, start_team, team_ready
    team = start_team(Task(folder_card(tiny), tiny, 'fp32', measure=False), place_model('tiny', MODELS['all-MiniLM-L6-v2'].weights, find_devices('cpu,cpu')))
    try:
        team_ready(team)
        hung, rows, done, said = team[0].proc.pid, [np.arange(1000, 1020)] * 60, [], []
        for kind,f in run_jobs(team, [Job([i]) for i in range(60)], lambda ns: [rows[i] for i in ns], [20] * 60, patience=2):
            if kind == 'done': done.extend(f['numbers'])
            if len(done) == 5: os.kill(hung, signal.SIGSTOP)
            if kind == 'worker': said.append(f['text'])
        assert sorted(done) == list(range(60)) and 'no answer for' in said[0] and not alive(hung)
    finally: close_team(team)

@pytest.mark.parametrize('times', [also(1), 2])
def test_interrupted(times, tiny, subset, undisturbed, faulty, tmp_path):
    p = start_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *TWO, env=faulty('slow:over0'))  # so that there is something to interrupt
    wait_for(p, lambda: computing(tmp_path/'out'))
    pids = workers_of(p.pid)
    for _ in range(times): p.send_signal(signal.SIGINT)
    assert p.wait(timeout=30) in ((130,) if times == 1 else (130, -2, 1)) and all_gone(pids)
    if times == 1: assert 'the same command goes on' in p.stderr.read()
    assert run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *TWO).returncode == 0
    assert same(tmp_path/'out/subset_embeddings.jsonl', undisturbed)

def killed(times, tiny, subset, tmp_path, seed):
    "Kill the command at random moments, then let it finish."
    rng, out = random.Random(seed), tmp_path/'out'
    for _ in range(times):
        p, begun = start_cli(subset, '--out', out, '--profile', tiny, *TWO), time.time()
        seen, moment = set(), rng.uniform(1, 8)
        while p.poll() is None and time.time() - begun < moment:
            seen |= set(workers_of(p.pid))
            time.sleep(.02)
        p.kill()
        p.wait()
        assert all_gone(seen)
    last = run_cli(subset, '--out', out, '--profile', tiny, *TWO)
    assert last.returncode == 0, last.stderr
    return out/'subset_embeddings.jsonl'

def test_no_worker_outlives_its_parent(tiny, subset, undisturbed, tmp_path): assert same(killed(2, tiny, subset, tmp_path, 0), undisturbed)

@pytest.mark.slow
def test_parent_killed_at_fifty_random_moments(tiny, subset, undisturbed, tmp_path):
    for seed in range(10): assert same(killed(5, tiny, subset, tmp_path/str(seed), seed), undisturbed)

@pytest.mark.parametrize('share', [also(.1), .3, also(.9)])
def test_a_full_disk(share, tiny, subset, undisturbed, tmp_path):
    most = int(share * undisturbed.stat().st_size)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, '--devices', 'cpu', preexec_fn=limit)
    assert p.returncode == 2 and 'Traceback' not in p.stderr, p.stderr
    assert not (tmp_path/'out/subset_embeddings.jsonl').exists()
    assert run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, '--devices', 'cpu').returncode == 0
    assert same(tmp_path/'out/subset_embeddings.jsonl', undisturbed)

@pytest.mark.parametrize('where', [also(.2), .5, also(.9)])
def test_a_damaged_cache_is_named_and_can_be_moved_away(where, tiny, subset, undisturbed, tmp_path):
    args = subset, '--out', tmp_path/'out', '--profile', tiny, '--devices', 'cpu'
    assert run_cli(*args).returncode == 0
    before, cache = (tmp_path/'out/subset_embeddings.jsonl').read_bytes(), tmp_path/'out/vectors.sqlite'
    with open(cache, 'r+b') as f:
        f.seek(int(cache.stat().st_size * where) // 4096 * 4096)
        f.write(b'\xff' * 4096 * 4)
    p = run_cli(*args)
    assert p.returncode == 2 and 'damaged' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert (tmp_path/'out/subset_embeddings.jsonl').read_bytes() == before
    cache.rename(tmp_path/'damaged.sqlite')
    assert run_cli(*args).returncode == 0
    assert (tmp_path/'out/subset_embeddings.jsonl').read_bytes() == before

def test_from_a_script_without_a_main_guard(tiny, tmp_path):
    write_file(tmp_path/'in', 'docs/a_chunks.json', [f'text number {i}' for i in range(40)], 'a.md')
    (tmp_path/'script.py').write_text(f"from coderank_qdrant.all import *\nprint('once')\nprint(embed_corpus('in', 'out', profile={str(tiny)!r}, devices='cpu,cpu').state)\n")
    p = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert p.stdout.split() == ['once', 'done'], p.stderr

def test_from_a_notebook(tiny, tmp_path):
    import nbformat
    from nbclient import NotebookClient
    write_file(tmp_path/'in', 'docs/a_chunks.json', [f'text number {i}' for i in range(40)], 'a.md')
    cells = ['from coderank_qdrant.all import *', f"run = embed_corpus('in', 'out', profile={str(tiny)!r}, devices='cpu,cpu')", 'run.state']
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(nb, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}).execute()
    assert nb.cells[-1].outputs[0]['data']['text/plain'] == "'done'"
    assert all_gone({e['pid'] for e in events(tmp_path/'out', 'batch')})

@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason='the reference corpus is not beside the project')
def test_one_worker_and_two_agree_on_the_reference_corpus(tmp_path):
    outs = {d: tmp_path/d/'qdrant_ecosystem_embeddings.jsonl' for d in ('cpu', 'cpu,cpu')}
    for d,f in outs.items():
        p = run_cli(REAL, '--out', f.parent, '--profile', 'offline', '--long', 'truncate', '--devices', d, timeout=1800)
        assert p.returncode == 0, p.stderr
    assert same(*outs.values())
    took = events(tmp_path/'cpu,cpu', 'batch')
    shares = {p: sum(e['batch_tokens'] for e in took if e['pid'] == p) for p in {e['pid'] for e in took}}
    assert len(shares) == 2 and min(shares.values()) > .4 * sum(shares.values()), shares
