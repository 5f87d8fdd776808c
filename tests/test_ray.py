"Workers in actors of Ray: what they give is what one machine gives, whoever dies; and what cannot work is one line."
import json, os, random, signal, socket, subprocess, sys, time
from contextlib import suppress
from pathlib import Path
import numpy as np, psutil, pytest
from conftest import alive, all_gone, free_port, read_jsonl, run_cli, start_cli, summary_of, write_file
from coderank_qdrant.command import InputError
from coderank_qdrant.distributed import crew
from coderank_qdrant.fingerprint import fingerprint
from coderank_qdrant.pipeline import embed_corpus

RAY = '--engine', 'ray', '--devices', 'cpu,cpu'
RUN = 'subset_embeddings.jsonl'

@pytest.fixture(scope='module')
def undisturbed(tiny, subset, tmp_path_factory):
    out = tmp_path_factory.mktemp('undisturbed')/'out'
    embed_corpus(subset, out, profile=str(tiny), devices='cpu')
    return out/RUN

def assert_same(out, undisturbed):
    "The same chunks in the same order, with the same vectors."
    a, b = read_jsonl(out/RUN), read_jsonl(undisturbed)
    assert [line['id'] for line in a] == [line['id'] for line in b]
    assert min(np.dot(x['embedding'], y['embedding']) for x,y in zip(a, b, strict=True)) >= .99999

def events(out, kind):
    lines = (out/'metrics.jsonl').read_text().splitlines() if (out/'metrics.jsonl').exists() else []
    return [e for e in map(json.loads, lines) if e['event'] == kind]
def computing(out): return bool(events(out, 'batch'))

def wait_for(ready, what, seconds=300):
    until = time.time() + seconds
    while not ready():
        assert time.time() < until, what
        time.sleep(.05)

def left_of_ray(): return {p.name for p in Path('/tmp').glob('ray_*')}

def test_no_ray_and_addresses_that_are_none(subset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(InputError, match=r'coderank_qdrant\[ray\]'): embed_corpus(subset, tmp_path/'out', engine='ray')
    monkeypatch.undo()
    gone = tmp_path/'ray/ray_current_cluster'  # what the head that was started last leaves behind when it is killed
    gone.parent.mkdir()
    gone.write_text(f'127.0.0.1:{free_port()}')
    monkeypatch.setenv('RAY_TMPDIR', str(tmp_path))
    start = time.monotonic()
    for address,said in (f'127.0.0.1:{free_port()}', 'nobody answers'), ('ray://x:10001', 'HOST:PORT'), ('nowhere', 'HOST:PORT'), ('auto', 'nobody answers'):
        with pytest.raises(InputError, match=said): embed_corpus(subset, tmp_path/'out', engine='ray', address=address)
    gone.unlink()
    with pytest.raises(InputError, match='cannot be joined at auto'): embed_corpus(subset, tmp_path/'out', engine='ray', address='auto')
    assert time.monotonic() - start < 60
    with pytest.raises(InputError, match='--engine dask'): embed_corpus(subset, tmp_path/'out', engine='dask')
    with pytest.raises(InputError, match='needs --engine ray'): embed_corpus(subset, tmp_path/'out', address='auto')
    assert not (tmp_path/'out').exists()

def test_an_address_where_something_else_answers(subset, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as other:
        p = run_cli(subset, '--out', tmp_path/'out', '--engine', 'ray', '--address', f'127.0.0.1:{other.getsockname()[1]}', timeout=120)
    assert p.returncode == 2 and 'not the head of a Ray cluster' in p.stderr and 'Traceback' not in p.stderr, p.stderr

def test_two_actors_give_what_one_process_gives(tiny, subset, undisturbed, tmp_path):
    "From a folder with a module that must not be imported; nothing of Ray is left behind."
    (tmp_path/'transformers.py').write_text(f'open({str(tmp_path/"planted")!r}, "w")\n')
    before, token = left_of_ray(), (Path.home()/".ray/auth_token").exists()
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *RAY, cwd=tmp_path, env={**os.environ, 'PYTHONSAFEPATH': '1'})
    assert p.returncode == 0, p.stderr
    assert_same(tmp_path/'out', undisturbed)
    pids = {e['pid'] for e in events(tmp_path/'out', 'batch')}
    assert len(pids) == 2 and all_gone(pids) and 'ray' not in p.stderr.lower().replace(str(tmp_path).lower(), '')
    assert not (tmp_path/'planted').exists() and left_of_ray() == before and (Path.home()/".ray/auth_token").exists() == token

TAKING_TURNS = """
import ray
from coderank_qdrant.cluster import ray_session

def theirs():
    ray.init(num_cpus=1, include_dashboard=False, logging_level='ERROR', log_to_driver=False)
    ray.shutdown()

def ours():
    with ray_session(cpus=1): print(ray.cluster_resources()['CPU'])

for turn in theirs, ours, theirs: turn()
"""

@pytest.mark.slow
def test_a_notebook_that_uses_ray_by_itself_too(tmp_path):
    "Ray keeps the token that it read first, and its next server would not let this process in."
    env = {**os.environ, 'HOME': str(tmp_path), 'RAY_USAGE_STATS_ENABLED': '0'}
    p = subprocess.run([sys.executable, '-c', TAKING_TURNS], capture_output=True, text=True, timeout=600, cwd=tmp_path, env=env)
    assert p.returncode == 0 and p.stdout.splitlines()[-1:] == ['1.0'], p.stderr

@pytest.mark.slow
def test_a_text_that_kills_its_process_is_put_aside_alone(faulty, tiny, tmp_path):
    from coderank_qdrant.models import load_tokenizer
    word, = load_tokenizer(tiny)('zebra', add_special_tokens=False)['input_ids']
    write_file(tmp_path/'in', 'docs/a_chunks.json', ['one text', 'a zebra'], 'a.md')
    p = run_cli(tmp_path/'in', '--out', tmp_path/'out', '--profile', tiny, *RAY, env=faulty(f'kill:id{word}'))
    assert p.returncode == 3, p.stderr
    quarantined, = summary_of(tmp_path/'out', 'in')['quarantined']
    assert quarantined['id'] == 'in:docs:a.md:chunk:1' and 'took 3 workers down' in quarantined['reason'] and 'died' in quarantined['reason'].lower()
    assert len(read_jsonl(tmp_path/'out/in_embeddings.jsonl')) == 1

@pytest.fixture(scope='module')
def cluster(faulty, tmp_path_factory):
    "A head that computes nothing, and two nodes with a processor each, which take their time while `slow` is there."
    from ray.cluster_utils import Cluster
    slow = tmp_path_factory.mktemp('cluster')/'slow'
    usual = dict(os.environ)
    os.environ.update(faulty(f'slow:while{slow}'), RAY_USAGE_STATS_ENABLED='0')
    notice = dict(health_check_initial_delay_ms=1000, health_check_period_ms=1000, health_check_timeout_ms=4000)
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, _system_config=notice))
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    os.environ.clear()
    os.environ.update(usual)
    cluster.slow = slow
    yield cluster
    cluster.shutdown()

def on(cluster, *args): return '--engine', 'ray', '--address', cluster.address, *args

@pytest.mark.slow
def test_on_a_cluster_of_three_nodes(cluster, tiny, subset, undisturbed, tmp_path):
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *on(cluster))
    assert p.returncode == 0, p.stderr
    assert_same(tmp_path/'out', undisturbed)
    assert len({e['worker'] for e in events(tmp_path/'out', 'batch')}) == 2, 'a worker for each node with processors'
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *on(cluster))
    assert p.returncode == 0 and summary_of(tmp_path/'out', 'subset')['computed'] == 0

def test_a_cluster_that_has_less_than_is_asked_for(cluster, tiny, subset, tmp_path):
    for devices, said in ('cuda:0', '3 nodes with 0 GPUs and 2 processors'), ('cpu,cpu,cpu', 'asks for 3 processors'):
        p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *on(cluster, '--devices', devices))
        assert p.returncode == 2 and said in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert not (tmp_path/'out').exists()

def pull_the_plug(cluster):
    "End a node with all of its processes, as a machine that loses its power."
    node = cluster.nodes.pop()
    on_it = [child for run in node.all_processes['raylet'] for child in psutil.Process(run.process.pid).children(recursive=True)]
    cluster.remove_node(node, allow_graceful=False)
    for process in on_it:
        with suppress(psutil.NoSuchProcess): process.kill()
    return {process.pid for process in on_it}

def test_nodes_that_leave_and_join(cluster, tiny, subset, undisturbed, tmp_path):
    cluster.slow.touch()
    p = start_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *on(cluster))
    wait_for(lambda: len({e['worker'] for e in events(tmp_path/'out', 'batch')}) == 2, 'both compute')
    pids = {e['pid'] for e in events(tmp_path/'out', 'batch')}
    gone = pull_the_plug(cluster)
    assert len(pids & gone) == 1 and p.poll() is None, 'one of two workers was on that node, and the run still goes on'
    cluster.slow.unlink()
    cluster.nodes.append(cluster.add_node(num_cpus=1))
    said = p.communicate(timeout=240)[1]
    assert p.returncode == 0, said
    assert_same(tmp_path/'out', undisturbed)
    assert [e for e in events(tmp_path/'out', 'worker') if e['state'] == 'replaced'], 'the worker of the lost node was missed'

@pytest.mark.slow
def test_a_node_that_joins_gets_a_worker(cluster, tiny):
    from coderank_qdrant.models import MODELS, folder_card
    from coderank_qdrant.placement import place_model
    from coderank_qdrant.workers import Task, team_ready
    card = folder_card(tiny)
    task = Task(card, tiny, 'fp32', measure=False, space=fingerprint(card, tiny))
    with crew('ray', cluster.address) as (devices, teams):
        team = teams.get('tiny', task, place_model('tiny', MODELS['all-MiniLM-L6-v2'].weights, devices))
        assert len(team_ready(team)) == 2
        extra = cluster.add_node(num_cpus=1)
        wait_for(lambda: len(team) == 3, 'the new node is noticed')
        assert len(team_ready(team)) == 3
    cluster.remove_node(extra)

@pytest.mark.slow
def test_a_driver_that_is_killed(cluster, tiny, subset, undisturbed, tmp_path):
    cluster.slow.touch()
    p = start_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *on(cluster))
    wait_for(lambda: computing(tmp_path/'out'), 'it computes')
    pids = {e['pid'] for e in events(tmp_path/'out', 'batch') if e.get('pid')}
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert all_gone(pids), 'actors end with their driver'
    cluster.slow.unlink()
    p = run_cli(subset, '--out', tmp_path/'out', '--profile', tiny, *on(cluster))
    assert p.returncode == 0, p.stderr
    assert_same(tmp_path/'out', undisturbed)

def actors_of(pids): return [pid for pid in pids if alive(pid)]

@pytest.mark.slow
def test_actors_killed_at_twenty_random_moments(cluster, tiny, subset, undisturbed, tmp_path):
    rng, kills = random.Random(0), 0
    cluster.slow.touch()
    for round in range(20):
        out = tmp_path/str(round)
        p = start_cli(subset, '--out', out, '--profile', tiny, *on(cluster))
        wait_for(lambda: computing(out), 'it computes')  # noqa: B023
        for _ in range(2):
            time.sleep(rng.random() * 2)
            here = actors_of({e['pid'] for e in events(out, 'batch')})
            if p.poll() is None and here:
                os.kill(rng.choice(here), signal.SIGKILL)
                kills += 1
        assert p.wait(240) == 0, p.stderr.read()
        assert_same(out, undisturbed)
        if kills >= 20: return
    raise AssertionError(f'only {kills} kills')

def hired(): return [p.pid for p in psutil.process_iter(['cmdline']) if (p.info['cmdline'] or [''])[0].startswith('ray::Hired')]

@pytest.mark.slow
def test_actors_and_drivers_with_shards_killed_at_random_moments(cluster, tiny, subset, undisturbed, tmp_path):
    "What they hold is lost with them, and computed again; shards that nobody heard of are found."
    rng, kills = random.Random(1), 0
    for round in range(6):
        out = tmp_path/str(round)
        given = (subset, '--out', out, '--profile', tiny, *on(cluster, '--shards', out/'shards'))
        cluster.slow.touch()
        p = start_cli(*given)
        for _ in range(2):
            wait_for(hired, 'it has actors')
            time.sleep(rng.random() * 4)
            here = hired()
            if p.poll() is None and here:
                os.kill(rng.choice(here), signal.SIGKILL)
                kills += 1
        if round % 2: p.kill()
        cluster.slow.unlink()
        assert p.wait(240) == (-signal.SIGKILL if round % 2 else 0), p.stderr.read()
        if round % 2: assert run_cli(*given).returncode == 0
        assert_same(out, undisturbed)
    assert kills >= 8, kills

def test_weights_that_a_node_does_not_have(tiny, subset, tmp_path, monkeypatch):
    "The driver's folder is not there for the actors, or has another model in it."
    from coderank_qdrant import distributed
    from coderank_qdrant.workers import Task
    from coderank_qdrant.models import folder_card
    card = folder_card(tiny)
    task = Task(card, tmp_path/'nowhere', 'fp32', space=fingerprint(card, tiny), long='window')
    with pytest.raises(InputError, match='is not on node .*nowhere.*--models_dir'): distributed.node_weights(task)
    with pytest.raises(InputError, match='is not the model of this run'):
        distributed.node_weights(Task(card, tiny, 'fp32', space=fingerprint(card, tiny, 'bf16')))
