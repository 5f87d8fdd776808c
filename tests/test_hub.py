"Downloads from a pretended hub on loopback: resumed, checked, told about, refused with a reason."
import contextlib, glob, json, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path
import pytest
from conftest import free_port, make_bert, write_file
from pretend_hub import pretend_hub
from coderank_qdrant.weights import INDEX, why_no_model

BLOCK = 10 * 2**20  # bytes that the hub's client hands over at a time
NAME, HUB_ID = 'tiny', 'me/tiny'

@pytest.fixture(scope='module')
def sharded(tmp_path_factory):
    "A model in several files, of which the largest is several blocks."
    from transformers import AutoModel
    folder, small = tmp_path_factory.mktemp('hub')/'tiny', make_bert(tmp_path_factory.mktemp('hub')/'small', hidden=256)
    shutil.copytree(small, folder, ignore=lambda _, names: [n for n in names if n.endswith('.safetensors')])
    AutoModel.from_pretrained(small).save_pretrained(folder, max_shard_size='1MB')
    (folder/'1_Pooling').mkdir()
    (folder/'1_Pooling/config.json').write_text('{}')
    (folder/'modeling.py').write_text('raise SystemExit')
    assert len(list(folder.glob('*.safetensors'))) > 2
    return folder

def largest(folder): return max(folder.glob('*.safetensors'), key=lambda p: p.stat().st_size)
def size_of(folder): return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file() and p.suffix != '.py')

@pytest.fixture
def hub(sharded):
    with pretend_hub({HUB_ID: sharded, 'me/other': sharded}) as h: yield h

FIND = f'''
import json, sys, time
from coderank_qdrant import hub
from coderank_qdrant.command import InputError
from coderank_qdrant.download import *
from coderank_qdrant.hub import *
from coderank_qdrant.models import NoWeights, count_weights, find_model, find_weights
from coderank_qdrant.places import free_bytes
from coderank_qdrant.weights import *
hub.WAITS = .1, .2
told = []
def find(hub_id='{HUB_ID}', watch=told.append): return find_weights('{NAME}', hub_id, inputs='/no/kaggle', told=watch)
'''

def child(hub, home, code, timeout=240, **more):
    "Python with a hub cache of its own; what it prints last is returned as a value."
    p = subprocess.run([sys.executable, '-c', FIND + code], env=hub.environment(home, **more), capture_output=True, text=True, timeout=timeout)
    assert p.returncode == 0, p.stderr[-3000:]
    return json.loads(p.stdout.splitlines()[-1])

FOUND = 'folder, place = find(); print(json.dumps([str(folder), place, told]))'
FAILS = '''
start = time.time()
try: find()
except NoWeights as e: print(json.dumps([str(e), time.time() - start]))
'''

def test_a_download_goes_through_and_loads(hub, sharded, tmp_path):
    folder, place, told = child(hub, tmp_path, FOUND)
    assert place == 'hub' and why_no_model(Path(folder)) == '' and not list(Path(folder).glob('*.py'))
    from transformers import AutoModel
    assert AutoModel.from_pretrained(folder).config.hidden_size == 256
    for file in sharded.glob('*.safetensors'): assert hub.sent(file.name) == file.stat().st_size, 'each byte once'
    done = [t['done'] for t in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == told[-1]['total'] == size_of(sharded) and told[0]['model'] == NAME
    before = len(hub.requests)
    assert child(hub, tmp_path, FOUND)[1] == 'hub cache' and len(hub.requests) == before

def test_progress_is_told_while_it_runs(hub, sharded, tmp_path):
    hub.slow(25e6)
    _, _, told = child(hub, tmp_path, '''
moments = []
folder, place = find(watch=lambda t: moments.append({**t, 'at': time.time()}))
print(json.dumps([str(folder), place, moments]))''')
    steps = [b['at'] - a['at'] for a,b in zip(told, told[1:], strict=False)]
    between = [t for t in told[1:-1] if 0 < t['done'] < t['total']]
    assert max(steps) < 1 and len(told) / (told[-1]['at'] - told[0]['at'] + 1) < 5.5
    assert len({t['done'] for t in between}) >= 2 and all(t['rate'] > 0 and t['eta'] > 0 for t in between)

def test_a_dropped_connection_is_resumed(hub, sharded, tmp_path):
    file = largest(sharded)
    hub.cut_once(file.name, BLOCK + 5)
    assert child(hub, tmp_path, FOUND)[1] == 'hub'
    assert hub.sent(file.name) == file.stat().st_size + 5
    assert [r['range'] for r in hub.requests if r['file'] == file.name] == [None, f'bytes={BLOCK}-']

def test_a_busy_hub_is_asked_again(hub, tmp_path):
    hub.answer('/api/models', 503)
    hub.answer('/cdn/', 503)
    assert child(hub, tmp_path, FOUND)[1] == 'hub'

def _arrived(home):
    "Bytes of the parts below `home`, whose files and folders may go at any moment."
    parts = glob.glob(f'{home}/**/*.incomplete', recursive=True, include_hidden=True)
    size = 0
    for part in parts:
        with contextlib.suppress(FileNotFoundError): size += os.stat(part).st_size
    return size

def killed(hub, home, after):
    "A download whose process is killed when so many bytes are in the cache."
    p = subprocess.Popen([sys.executable, '-c', FIND + 'find()'], env=hub.environment(home), stderr=subprocess.DEVNULL)
    until = time.time() + 40
    while _arrived(home) < after:
        assert time.time() < until and p.poll() is None
        time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.wait()

def test_a_killed_download_is_resumed(hub, sharded, tmp_path):
    file = largest(sharded)
    hub.slow(25e6)
    killed(hub, tmp_path, BLOCK)
    hub.slow(None)
    time.sleep(.3)  # the server learns that its reader is gone
    before = hub.sent(file.name)
    folder, place, told = child(hub, tmp_path, FOUND)
    again = hub.sent(file.name) - before
    assert place == 'hub' and again <= file.stat().st_size - BLOCK and told[0]['done'] >= BLOCK
    assert (Path(folder)/file.name).read_bytes() == file.read_bytes()
    assert not list(tmp_path.rglob(f'*{file.name}*.incomplete'))

def test_what_an_interrupted_download_lacks_is_named(hub, sharded, tmp_path):
    hub.slow(25e6)
    killed(hub, tmp_path, BLOCK)
    part, = tmp_path.rglob(f'{hub.repositories[HUB_ID].files[largest(sharded).name].sha256}.incomplete')
    said, _ = child(hub, tmp_path, FAILS, HF_HUB_OFFLINE='1')
    assert f'{largest(sharded).name} is missing' in said and f'{part.name[-24:]} with {part.stat().st_size:,} bytes' in said and 'HF_HUB_OFFLINE is set' in said

def test_bytes_that_are_not_the_hubs_are_fetched_anew(hub, sharded, tmp_path):
    file = largest(sharded)
    blobs = tmp_path/'hub/models--me--tiny/blobs'
    blobs.mkdir(parents=True)
    (blobs/f'{hub.repositories[HUB_ID].files[file.name].sha256}.incomplete').write_bytes(b'x' * 1000)
    folder, place, _ = child(hub, tmp_path, FOUND)
    assert place == 'hub' and (Path(folder)/file.name).read_bytes() == file.read_bytes() and hub.sent(file.name) == 2*file.stat().st_size - 1000

def cut_off(path): os.truncate(path.resolve(), path.stat().st_size - 100)
def removed(path): path.unlink()
def dangling(path): path.resolve().unlink()

@pytest.fixture(scope='module')
def cached(sharded, tmp_path_factory):
    "A hub cache with the whole model."
    home = tmp_path_factory.mktemp('home')
    with pretend_hub({HUB_ID: sharded}) as h: child(h, home, FOUND)
    return home

@pytest.mark.parametrize('harm, said, again', [(cut_off, 'is cut off:', 100), (removed, 'is missing', 0), (dangling, 'is a link to a file that is not there', None)])
def test_an_incomplete_snapshot_is_mended(hub, sharded, cached, tmp_path, harm, said, again):
    home, file = tmp_path/'home', largest(sharded)
    shutil.copytree(cached, home, symlinks=True)
    snapshot = next(home.glob('hub/models--me--tiny/snapshots/*'))
    harm(snapshot/file.name)
    assert f'{file.name} {said}' in why_no_model(snapshot)
    assert f'{file.name} {said}' in child(hub, home, FAILS, HF_HUB_OFFLINE='1')[0]
    folder, place, _ = child(hub, home, FOUND)
    assert (Path(folder), place) == (snapshot, 'hub') and (snapshot/file.name).read_bytes() == file.read_bytes()
    assert hub.sent(file.name) == (file.stat().st_size if again is None else again)

@pytest.mark.parametrize('name', ['tokenizer.json', '1_Pooling/config.json'])
def test_a_small_file_that_is_gone_is_fetched(hub, cached, tmp_path, name):
    home = tmp_path/'home'
    shutil.copytree(cached, home, symlinks=True)
    snapshot = next(home.glob('hub/models--me--tiny/snapshots/*'))
    (snapshot/name).unlink()
    assert name in child(hub, home, FAILS, HF_HUB_OFFLINE='1')[0]
    assert child(hub, home, FOUND)[1] == 'hub' and (snapshot/name).is_file()

def test_a_folder_needs_all_that_its_index_names(sharded, tmp_path):
    folder = tmp_path/'models/tiny'
    shutil.copytree(sharded, folder)
    assert why_no_model(folder) == ''
    largest(folder).unlink()
    assert f'{largest(sharded).name} is missing' in why_no_model(folder)
    (folder/INDEX).write_text('{"weight_map"')
    assert f'{INDEX} cannot be read' in why_no_model(folder)

def test_a_disk_that_is_too_small_is_said_before_the_first_byte(hub, sharded, tmp_path):
    file = largest(sharded)
    hub.claim(file.name, 10**18)
    said, _ = child(hub, tmp_path, FAILS)
    free, (number, unit) = shutil.disk_usage(tmp_path).free, re.search(r'where ([\d.]+) (GB|TB) are free', said).groups()
    assert 'needs 1000000.0 TB more in the hub cache' in said and str(tmp_path) in said and 'are free' in said and 'HF_HOME' in said
    assert abs(float(number) * dict(GB=1e9, TB=1e12)[unit] / free - 1) < .1 and not any(r['file'] for r in hub.requests)

@pytest.mark.parametrize('status, code, said', [(401, 'GatedRepo', '401'), (403, 'GatedRepo', 'gated repo'), (404, 'RepoNotFound', '404')])
def test_a_refusal_keeps_its_reason(hub, tmp_path, status, code, said):
    hub.answer('/api/models', status, times=9, code=code)
    error, seconds = child(hub, tmp_path, FAILS)
    assert said in error and ('HF_TOKEN' in error) == (status != 404) and 'Request ID' not in error and seconds < 5

def test_a_hub_that_goes_away_keeps_its_reason_and_what_came(hub, sharded, tmp_path):
    file = largest(sharded)
    hub.cut_once(file.name, BLOCK + 5)
    real = hub.fault
    def fault(path):
        "After the cut this file is not to be had."
        gone = path.endswith(file.name) and '/cdn/' in path and file.name not in hub.cuts
        return (500, None) if gone else real(path)
    hub.fault = fault
    error, _ = child(hub, tmp_path, FAILS)
    assert '500' in error and 'are kept, and the next try goes on from there' in error
    hub.fault = real
    child(hub, tmp_path, FOUND)
    assert hub.sent(file.name) == file.stat().st_size + 5

def test_without_a_network_the_answer_comes_soon(hub, tmp_path):
    error, seconds = child(hub, tmp_path, FAILS, HF_ENDPOINT=f'http://127.0.0.1:{free_port()}')
    assert 'refused' in error and seconds < 5

def test_a_hub_that_never_answers_is_given_up(hub, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        error, seconds = child(hub, tmp_path, 'hub.ANSWER = 1' + FAILS, HF_ENDPOINT=f'http://127.0.0.1:{silent.getsockname()[1]}')
    assert 'Timeout' in error and seconds < 5

@pytest.mark.parametrize('ending', ['.safetensors', 'tokenizer.json'])
def test_a_file_that_comes_byte_by_byte_is_given_up(hub, tmp_path, ending):
    "The client would wait for days; what came before is kept."
    hub.slow(40, ending)
    error, seconds = child(hub, tmp_path, 'from coderank_qdrant import download; download.STALLED = 1' + FAILS)
    assert 'nothing more within 1 second' in error or 'no whole answer within 1 second' in error
    assert seconds < 20
    hub.slow(None, ending)
    child(hub, tmp_path, FOUND)

def test_a_plan_needs_no_weights(hub, sharded, tmp_path):
    plan, small, facts = child(hub, tmp_path, f'''
plan = download_plan([('tiny', hub_facts('{HUB_ID}')), ('other', hub_facts('me/other'))], free_bytes(hub.hub_cache()))
small = fetch_small('{HUB_ID}')
facts = hub_facts('{HUB_ID}')
print(json.dumps([plan.sentences, sorted(p.name for p in small.rglob('*') if p.is_file()), [facts.files, facts.missing, facts.total]]))''')
    assert 'in F32 are to be fetched' in plan[0] and plan[-1].endswith('which is enough.')
    assert {'config.json', INDEX, 'tokenizer.json'} <= set(small) and not any(n.endswith(('.safetensors', '.py')) for n in small)
    file, weights = largest(sharded), sum(p.stat().st_size for p in sharded.glob('*.safetensors'))
    assert facts == [facts[0], weights, size_of(sharded)]
    import hashlib
    assert facts[0][file.name] == [file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()]

RUN = '''
import json, sys
from pathlib import Path
from coderank_qdrant import hub, planning, preparing
from coderank_qdrant.hub import hub_cache
from coderank_qdrant.pipeline import embed_corpus
total, root = {total}, Path({root!r})
def free_bytes(place): return total - sum(f.stat().st_size for f in hub_cache().rglob('*') if f.is_file() and not f.is_symlink())
for module in hub, planning, preparing: module.free_bytes = free_bytes
told = []
def embed():
    run = embed_corpus(root/'corpus', root/'out', devices='cpu', verify=3)
    here = [p.name.rpartition('--')[2] for p in hub_cache().glob('models--*') if any(p.glob('snapshots/*/*.safetensors'))]
    told.append([run.state, sorted(here), {{m.card.name: m.fingerprint for m in run.plan.models}}, run.verified])
'''

MORE = '''
embed()
for kind,name in ('src', 'a.py'), ('docs', 'b.md'):
    chunks = dict(chunks=[dict(content=f'{kind} again', metadata=dict(source=name))])
    (root/'corpus'/kind/'more_chunks.json').write_text(json.dumps(chunks))
embed()
print(json.dumps(told))
'''

def test_two_models_and_room_on_the_disk_for_one(missions_models, tmp_path):
    for kind,name in ('src', 'a.py'), ('docs', 'b.md'):
        write_file(tmp_path/'corpus', f'{kind}/a_chunks.json', [f'{kind} {i}: f{i} adds {i}' for i in range(6)], name)
    folders = {f'nomic-ai/{n}': missions_models/n for n in ('CodeRankEmbed', 'CodeRankLLM')}
    sizes = [size_of(f) for f in folders.values()]
    total = max(sizes) + 110_000_000
    assert total < sum(sizes)
    both = {'CodeRankEmbed', 'CodeRankLLM'}
    with pretend_hub(folders) as hub:
        def run(code):
            p = subprocess.run([sys.executable, '-c', RUN.format(total=total, root=str(tmp_path)) + code], env=hub.environment(tmp_path/'home'), capture_output=True, text=True, timeout=300)
            assert p.returncode == 0, p.stderr[-3000:]
            return p.stderr, json.loads(p.stdout.splitlines()[-1])
        def sent(): return {n: sum(hub.sent(f.name) for f in folder.glob('*.safetensors')) for n,folder in folders.items()}
        weights = {n: sum(f.stat().st_size for f in folder.glob('*.safetensors')) for n,folder in folders.items()}
        said, (first, second) = run(MORE)
        assert first[0] == 'done' and set(first[3]) == both and min(first[3].values()) > .9999
        assert 'enough for one model at a time' in said and first[1] == ['CodeRankLLM'], 'the first made room for the second'
        assert second[0] == 'done' and set(second[3]) == both and 'cannot be fetched' not in said and 'stands in for' not in said
        assert second[1] == ['CodeRankEmbed'], 'what is here goes first, and then makes room'
        assert sent() == {'nomic-ai/CodeRankEmbed': 2 * weights['nomic-ai/CodeRankEmbed'], 'nomic-ai/CodeRankLLM': weights['nomic-ai/CodeRankLLM']}
        before = sent()
        _, (third,) = run('embed()\nprint(json.dumps(told))')
        assert third[0] == 'done' and third[2] == first[2] and not third[3], 'what is computed needs no weights, and the hub knows the space'
        assert sent() == before, 'nothing is fetched again'

def test_weights_that_came_another_way_are_not_awaited(hub, sharded, tmp_path):
    asked, awaited, left, counts = child(hub, tmp_path, f'''
from coderank_qdrant.models import count_weights
folders = [fetch_small('{HUB_ID}') for _ in range(3)]
awaited, there = len(LATER), count_weights(folders[0])
fetch_weights('{HUB_ID}')
print(json.dumps([len(set(folders)), awaited, len(LATER), there == count_weights(folders[0])]))''')
    assert (asked, awaited, left, counts) == (1, 1, 0, True)
    assert sum('/api/models/me/tiny' in r['path'] for r in hub.requests) < 6, 'a model that is known is not asked for again'

def test_only_what_this_process_fetched_is_removed(hub, sharded, tmp_path):
    child(hub, tmp_path, FOUND)
    refused, freed, left = child(hub, tmp_path, f'''
find('{HUB_ID}')
find('me/other')
try: drop_snapshot('{HUB_ID}')
except InputError as e: refused = str(e)
freed = drop_snapshot('me/other')
print(json.dumps([refused, freed, sorted(p.name for p in hub_cache().glob('models--*'))]))''')
    assert 'was not fetched by this run' in refused and freed == size_of(sharded) and left == ['models--me--tiny']

def test_two_processes_fetch_each_byte_once(hub, sharded, tmp_path):
    hub.slow(40e6)
    both = [subprocess.Popen([sys.executable, '-c', FIND + FOUND], env=hub.environment(tmp_path), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [json.loads(p.communicate(timeout=240)[0].splitlines()[-1]) for p in both]
    assert out[0][0] == out[1][0] and why_no_model(Path(out[0][0])) == ''
    for file in sharded.glob('*.safetensors'): assert hub.sent(file.name) == file.stat().st_size
