"Search: two stores with the same points and the same answers, whatever happens on the way."
import json, os, random, re, shutil, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
from conftest import REAL, make_bert, run_cli, write_file
from coderank_qdrant.chunking import demo_corpus
from coderank_qdrant.collection import Store
from coderank_qdrant.command import InputError, run_command
from coderank_qdrant.edge import EdgeStore
from coderank_qdrant.finished import read_lines, reading, run_files, survey_run
from coderank_qdrant.index import describe_run, index_run, make_points
from coderank_qdrant.pipeline import embed_corpus
from coderank_qdrant.questions import MODES, check_query, query_lists
from coderank_qdrant.routing import PROFILES
from coderank_qdrant.search import coderank_search, search
from coderank_qdrant.server import ServerStore
from coderank_qdrant.stores import open_store, opened
from coderank_qdrant.words import edge_library

def cli(name, *args, **kw): return run_cli(*args, command=name, module=dict(coderank_index='index').get(name, 'search'), **kw)

def expected_points(out):
    summary, jsonl, cache = run_files(out)
    about = describe_run(summary, survey_run(summary, jsonl))
    with reading(cache) as c: return {p['id']: p for p in make_points(list(read_lines(jsonl)), about, c)}

def assert_exact(store, out):
    "Every point of the run, with its payload and all its vectors, and no other."
    want = expected_points(out)
    assert set(store.ids()) == set(want) and store.count() == len(want)
    for part in (list(want)[i:i+200] for i in range(0, len(want), 200)):
        assert store.payloads(part) == {i: want[i]['payload'] for i in part}
        for name in store.about['models']:
            mine = [i for i in part if want[i]['name'] == name]
            got = store.vectors(mine, name)
            assert set(got) == set(mine)
            for i in mine: np.testing.assert_allclose(got[i], np.atleast_2d(want[i]['vector']), atol=1e-6)

def questions(out, n, seed=0):
    "Five words in a row out of random chunks."
    texts, rng = [r['text'] for r in read_lines(run_files(out)[1])], random.Random(seed)
    while n:
        words = rng.choice(texts).split()
        q = ' '.join(words[(i := rng.randrange(max(len(words) - 5, 1))):i+5])
        try: check_query(q)
        except InputError: continue
        n -= 1
        yield q

def assert_same_answers(a, b, qs, **kw):
    for q in qs:
        for mode in MODES:
            try: x = search(q, a, 10, mode=mode, **kw)
            except InputError:
                with pytest.raises(InputError): search(q, b, 10, mode=mode, **kw)
                continue
            y = search(q, b, 10, mode=mode, **kw)
            np.testing.assert_allclose([h.score for h in x], [h.score for h in y], rtol=1e-5, err_msg=f'{mode} {q}')
            for h,g in zip(x, y, strict=False):  # texts of one score may stand in either order, or take each other's place at the end
                assert h.id == g.id or sum(abs(h.score - o.score) < 1e-5 * h.score for o in x) > 1 or h is x[-1], (mode, q)
            found = {g.id: g for g in y}
            for h in x:
                if g := found.get(h.id): assert (h.duplicates, h.metadata) == (g.duplicates, g.metadata)
            assert len({h.metadata['text_hash'] for h in x}) == len(x)

@pytest.fixture(scope='session')
def small(subset, tiny, tmp_path_factory):
    "The subset, embedded by the small model; long texts have several windows."
    return embed_corpus(subset, tmp_path_factory.mktemp('small'), profile=str(tiny), max_length=128).out

@pytest.fixture(scope='session')
def edge(small, tmp_path_factory):
    where = tmp_path_factory.mktemp('edge')/'index'
    index_run(small, where)
    return where

@pytest.fixture(scope='session')
def real(request):
    "The reference corpus, or the demo corpus where it is not there, embedded once by the packaged model and kept between sessions."
    folder = Path(request.config.cache.mkdir('search'))
    return embed_corpus(REAL if REAL.is_dir() else demo_corpus(folder), folder/'run', profile='offline').out

# the same in both stores

def test_both_stores_hold_the_run(small, edge, qdrant):
    assert index_run(small, qdrant.url)['written'] == 400
    with opened(edge) as a, opened(qdrant.url, collection='subset') as b:
        for s in a, b: assert_exact(s, small)
        assert a.about['models']['tiny-bert']['windows']
    for where in edge, qdrant.url:
        again = index_run(small, where)
        assert (again['points'], again['written'], again['unchanged']) == (400, 0, 400)

def test_both_stores_give_the_same_answers(small, edge, qdrant, tiny):
    index_run(small, qdrant.url)
    with opened(edge) as a, opened(f'{qdrant.url}/collections/subset') as b:
        assert_same_answers(a, b, questions(small, 20), models_dir=tiny.parent)
        assert_same_answers(a, b, questions(small, 5, seed=1), models_dir=tiny.parent, subdir='part1')

@pytest.mark.slow
def test_the_real_corpus_in_both_stores(real, own_qdrant, tmp_path):
    server = own_qdrant()
    n = json.loads(next(real.glob('*summary.json')).read_text())['total_embeddings']
    for where in tmp_path/'edge', server.url: assert [index_run(real, where)['points'] for _ in range(2)] == [n, n]
    with opened(tmp_path/'edge') as a, opened(server.url) as b:
        for s in a, b: assert_exact(s, real)
        assert_same_answers(a, b, questions(real, 200))
        for sub in a.values('source_subdir'): assert a.count({'source_subdir': [sub]}) == b.count({'source_subdir': [sub]})

def test_answers_are_those_of_brute_force(small, edge, tiny):
    "MaxSim over all windows in numpy gives the same dense list."
    want = expected_points(small)
    with opened(edge) as store:
        for q in questions(small, 10, seed=2):
            (name, v), = query_lists(q, store.about, 'dense', models_dir=tiny.parent)[0]
            scores = {}
            for p in want.values():
                h = p['payload']['text_hash']
                scores[h] = max(scores.get(h, -1), float((np.atleast_2d(p['vector']) @ v).max()))
            hits = search(q, store, 10, mode='dense', models_dir=tiny.parent)
            assert [round(h.score, 4) for h in hits] == [round(s, 4) for s in sorted(scores.values(), reverse=True)[:10]]

def test_texts_of_one_score_have_one_order(tiny, tmp_path, qdrant):
    "Three hundred texts that the words cannot tell apart: the same ten come first in both stores, however many are asked for."
    write_file(tmp_path/'c', 'docs/a_chunks.json', [f'alpha number{i}' for i in range(300)])
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny))
    first = sorted(r['metadata']['text_hash'] for r in read_lines(run.jsonl))
    for where in tmp_path/'index', qdrant.url:
        index_run(run, where, collection='ties')
        for n in 1, 10, 120: assert [h.metadata['text_hash'] for h in search('alpha', where, n, mode='sparse', collection='ties')] == first[:n]

def test_segments_change_no_answer(small, edge, tiny, tmp_path, monkeypatch):
    "Closed every 150 points, overwritten and deleted across segments, and made one again: the same points and the same answers."
    monkeypatch.setattr(EdgeStore, 'segment', 150)
    with_small_segments(monkeypatch)
    seen, close = [], EdgeStore._close_segment
    def closing(self):
        close(self)
        seen.append(self.shard.info().segments_count)
    monkeypatch.setattr(EdgeStore, '_close_segment', closing)
    index_run(small, tmp_path/'index', batch=50)
    assert len(seen) == 3 and seen[:2] == [2, 3] and seen[-1] <= 2, seen
    with opened(edge) as a, opened(tmp_path/'index') as b:
        assert_exact(b, small)
        assert_same_answers(a, b, questions(small, 10, seed=4), models_dir=tiny.parent)
        ids = sorted(b.ids())
        points = list(expected_points(small).values())
        b.loading()
        b.delete(ids[::3])
        b.upsert([p for p in points if p['id'] in set(ids[::6])])
        assert set(b.ids()) == set(ids) - set(ids[::3]) | set(ids[::6])
        b.upsert(points)
        b.finish()
        assert_exact(b, small)
        assert_same_answers(a, b, questions(small, 10, seed=5), models_dir=tiny.parent)

def with_small_segments(monkeypatch):
    "The same settings for segments of a few kilobytes."
    import coderank_qdrant.edge as module
    old = module.edge_config
    monkeypatch.setattr(module, 'edge_config', lambda *args: small_threshold(old(*args), edge_library()))

def small_threshold(config, qe):
    o = config.optimizers
    return qe.EdgeConfig(vectors=config.vectors, sparse_vectors=config.sparse_vectors, hnsw_config=config.hnsw_config, payload_memory=config.payload_memory, id_tracker_memory=config.id_tracker_memory,
                         optimizers=qe.EdgeOptimizersConfig(default_segment_number=o.default_segment_number, indexing_threshold=1, max_segment_size=o.max_segment_size))

def test_a_graph_is_made_when_there_are_enough_points(small, tmp_path, monkeypatch):
    index_run(small, tmp_path/'index')
    has_graph = lambda: bool(list((tmp_path/'index').rglob('*graph*.bin')))
    assert not has_graph()
    monkeypatch.setattr(EdgeStore, 'exact_below', 300)
    with_small_segments(monkeypatch)
    assert index_run(small, tmp_path/'index')['written'] == 0 and has_graph()
    with opened(tmp_path/'index') as store: assert_exact(store, small)

def test_filters_are_exact(small, edge, tiny):
    chunks = [r for r in read_lines(run_files(small)[1])]
    for key, arg in ('source_subdir', 'subdir'), ('source', 'source'), ('content_type', 'content_type'):
        for value in sorted({c['metadata'][key] for c in chunks})[:4]:
            want = {c['id'] for c in chunks if c['metadata'][key] == value}
            hits = search(chunks[7]['text'][:200], edge, 500, models_dir=tiny.parent, mode='dense', **{arg: value})
            assert {i for h in hits for i in (h.id, *h.duplicates)} == want

# killed

def start_index(out, where, *args):
    code = 'import sys; from coderank_qdrant.index import EdgeStore, coderank_index; EdgeStore.segment = 500; sys.exit(coderank_index())'
    return subprocess.Popen([sys.executable, '-c', code, str(out), '--location', str(where), '--batch', '16', *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def kill_indexer(out, where, n, seed, busy):
    "Kill `coderank_index` `n` times at random moments of its work; `busy` says when it has begun."
    rng = random.Random(seed)
    for _ in range(n):
        p = start_index(out, where)
        while p.poll() is None and not busy(): time.sleep(.005)
        time.sleep(rng.uniform(0, .4))
        p.kill()
        p.communicate()

def killed_in_a_folder(out, where, n):
    lock = where/'shard/wal'
    def busy():
        try: return any(time.time() - f.stat().st_mtime < .05 for f in lock.parent.rglob('*'))
        except OSError: return False
    kill_indexer(out, where, n, 1, busy)
    index_run(out, where)
    with opened(where) as store: assert_exact(store, out)

def test_killed_in_a_folder(small, tmp_path): killed_in_a_folder(small, tmp_path/'index', 3)

@pytest.mark.slow
def test_killed_in_a_folder_at_twenty_moments(real, tmp_path): killed_in_a_folder(real, tmp_path/'index', 20)

def kill_server(server, out, n, seed=3):
    "Kill the server `n` times while runs are indexed into it."
    rng = random.Random(seed)
    for _ in range(n):
        p = start_index(out, server.url)
        time.sleep(rng.uniform(2, 5))
        server.kill()
        server.start()
        _, err = p.communicate(timeout=120)
        assert p.returncode in (0, 2) and 'Traceback' not in err, err
    index_run(out, server.url)
    with opened(server.url) as store: assert_exact(store, out)

def test_the_server_is_killed(small, own_qdrant): kill_server(own_qdrant(), small, 2)

@pytest.mark.slow
def test_the_server_is_killed_at_twenty_moments(real, own_qdrant): kill_server(own_qdrant(), real, 20)

@pytest.mark.slow
def test_the_indexer_is_killed_at_twenty_moments_with_a_server(real, own_qdrant):
    server, rng = own_qdrant(), random.Random(4)
    kill_indexer(real, server.url, 20, 5, lambda: time.sleep(rng.uniform(2, 4)) or True)
    index_run(real, server.url)
    with opened(server.url) as store: assert_exact(store, real)

# a corpus that changes

def test_chunks_that_left_are_counted_and_pruned(tiny, tmp_path):
    root, texts = tmp_path/'c', [f'text number {i} about topic {i % 7}' for i in range(40)]
    write_file(root, 'docs/a_chunks.json', texts)
    index_run(embed_corpus(root, tmp_path/'out', profile=str(tiny)), tmp_path/'index')
    write_file(root, 'docs/a_chunks.json', [*texts[:20], 'something new'])
    run = embed_corpus(root, tmp_path/'out', profile=str(tiny))
    r = index_run(run, tmp_path/'index')
    assert (r['written'], r['unchanged'], r['stale'], r['points']) == (1, 20, 19, 40)
    r = index_run(run, tmp_path/'index', prune=True)
    assert (r['written'], r['pruned'], r['stale'], r['points']) == (0, 19, 0, 21)
    with opened(tmp_path/'index') as store: assert_exact(store, run.out)

def test_navigation_is_left_out_and_counted(tiny, tmp_path):
    nav = '\n'.join(f'- [Page {i}](https://example.org/{i})' for i in range(9))
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['prose about cats', nav, 'prose about dogs'])
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny))
    r = index_run(run, tmp_path/'index', navigation='omit')
    assert (r['points'], r['omitted']) == (2, 1)
    assert all(h.metadata['link_share'] < .8 for h in search('page', tmp_path/'index', models_dir=tiny.parent))

# models

def test_two_models_of_different_size_are_searched_together(tmp_path, monkeypatch):
    for name, hidden in ('small', 32), ('large', 48): make_bert(tmp_path/'models'/name, hidden)
    route = {'code': [str(tmp_path/'models/small')], 'docs': [str(tmp_path/'models/large')], 'other': [str(tmp_path/'models/large')]}
    monkeypatch.setitem(PROFILES, 'both', route)
    write_file(tmp_path/'c', 'docs/a_chunks.json', ['how to close a file', 'opening files in python'], 'a.md')
    write_file(tmp_path/'c', 'code/b_chunks.json', ['def close(file): file.close()', 'def add(a, b): return a + b'], 'b.py')
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile='both')
    r = index_run(run, tmp_path/'index')
    assert set(r['models']) == {'small', 'large'}
    with opened(tmp_path/'index') as store:
        assert {n: m['dimension'] for n,m in store.about['models'].items()} == {'small': 32, 'large': 48}
        assert_exact(store, run.out)
        p = next(iter(expected_points(run.out).values()))
        with pytest.raises(InputError, match='expected dim'): store.upsert([{**p, 'vector': [1., 2., 3.]}])
        assert_exact(store, run.out)
    hits = search('close a file', tmp_path/'index', 4, mode='dense', models_dir=tmp_path/'models')
    assert {h.metadata['model'] for h in hits} == {'small', 'large'} and len(hits) == 4 and not hits.notes
    shutil.rmtree(tmp_path/'models/large')
    hits = search('close a file', tmp_path/'index', 4, models_dir=tmp_path/'models')
    assert hits and 'Searched without large' in hits.notes[0]
    (tmp_path/'models/small/config.json').write_text((tmp_path/'models/small/config.json').read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(InputError, match='not those the collection was made with'): search('x', tmp_path/'index', mode='dense', models_dir=tmp_path/'models')

def test_vectors_of_another_model_are_refused(small, edge, tmp_path, subset):
    other = embed_corpus(subset, tmp_path/'other', profile=str(make_bert(tmp_path/'tiny-bert', seed=5)), max_length=128, limit=20)
    wide = embed_corpus(subset, tmp_path/'wide', profile=str(make_bert(tmp_path/'w/tiny-bert', hidden=48)), max_length=128, limit=20)
    for run, says in (other, 'other weights or settings'), (wide, '32 numbers, those of the run 48'):
        p = cli('coderank_index', run.out, '--location', edge)
        assert p.returncode == 2 and says in p.stderr and p.stderr.count('\n') < 4
    with opened(edge) as store: assert_exact(store, small)

def test_without_the_cache_the_mean_has_to_do(small, tmp_path, tiny):
    for f in small.glob('*embed*'): shutil.copy(f, tmp_path)
    r = index_run(tmp_path, tmp_path/'index')
    assert r['points'] == 400
    with opened(tmp_path/'index') as store: assert not store.about['models']['tiny-bert']['windows']
    assert search('text', tmp_path/'index', models_dir=tiny.parent)

def test_a_cache_that_cannot_be_written_is_read(small, tmp_path):
    shutil.copytree(small, tmp_path/'out')
    for f in (tmp_path/'out').iterdir(): f.chmod(0o444)
    (tmp_path/'out').chmod(0o555)
    code = f'import os; from coderank_qdrant.finished import reading; os.getuid() or os.setuid(65534); c = reading({str(tmp_path/"out/vectors.sqlite")!r}); print(len(c.__enter__()._ids))'
    for p in (tmp_path, *tmp_path.parents):
        if p.stat().st_uid == os.getuid() and 'pytest' in str(p): p.chmod(0o755)
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    (tmp_path/'out').chmod(0o755)
    assert p.stdout.strip() == '1', p.stderr

# bad input

@pytest.mark.parametrize('args,says', [([], 'Say where to search'), (['--location', 'NONE'], 'There is no collection at'), (['--location', 'FILE'], 'no collection of coderank_index'),
    (['--location', 'FOLDER'], 'no collection of coderank_index'), (['--location', 'EMPTY'], 'There is no collection of coderank_index'), (['--location', 'http://127.0.0.1:9'], 'not answering'),
    (['--location', 'http://'], 'no address'), (['--location', 'EDGE', '--mode', 'both'], 'one of hybrid'), (['--location', 'EDGE', '--limit', '0'], 'between 1 and'),
    (['--location', 'EDGE', '--subdir', 'nowhere'], '--subdir can be part0, part1, part2'), (['--location', 'EDGE', '--content_type', 'code'], '--content_type can be docs'),
    (['--location', 'EDGE', '--mode', 'dense'], 'Searched without tiny-bert'), (['--location', 'EDGE', '--rerank', 'all-MiniLM-L6-v2'], 'is no reranker'), (['--location', 'EDGE', '--mode', 'sparse', '--source', 'no.md'], '--source can be')],
    ids=lambda a: ' '.join(a) if isinstance(a, list) else '')
def test_bad_searches_are_exit_2(edge, tmp_path, args, says):
    (tmp_path/'FILE').write_text('x')
    (tmp_path/'FOLDER').mkdir()
    (tmp_path/'FOLDER/x').write_text('x')
    (tmp_path/'EMPTY').mkdir()
    args = [str(edge) if a == 'EDGE' else str(tmp_path/a) if a.isupper() else a for a in args]
    import io, contextlib
    err = io.StringIO()
    with contextlib.redirect_stderr(err): rc = run_command(coderank_search.__wrapped__, ['a query', *args])
    assert rc == 2 and says in err.getvalue() and err.getvalue().count('\n') == 1, err.getvalue()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['EMPTY', 'FILE', 'FOLDER'] and not list((tmp_path/'EMPTY').iterdir())

@pytest.mark.parametrize('query', ['', '   ', '?!... => []', 'x' * 10_001], ids=['empty', 'blank', 'symbols', 'long'])
def test_queries_that_cannot_be_asked(edge, query):
    p = cli('coderank_search', query, '--location', edge)
    assert p.returncode == 2 and p.stdout == '' and p.stderr.count('\n') == 1 and 'Traceback' not in p.stderr

def test_json_is_all_that_is_printed(edge, tiny):
    p = cli('coderank_search', 'a text of the corpus', '--location', edge, '--models_dir', tiny.parent, '--json', '--limit', 3)
    hits = json.loads(p.stdout)
    assert p.returncode == 0 and len(hits) == 3 and all(set(h) == {'id', 'score', 'text', 'metadata', 'duplicates'} for h in hits)

@pytest.mark.parametrize('what,says', [('no run', 'no finished run'), ('two runs', 'holds 2 runs'), ('cut jsonl', 'not JSON'), ('short jsonl', 'lines, its summary says'), ('no jsonl', 'is missing'), ('bad summary', 'not JSON'),
                                       ('other jsonl', 'speaks of other vectors'), ('foreign', 'is no collection'), ('broken cache', 'no vector cache or is damaged')])
def test_runs_that_cannot_be_indexed(small, tmp_path, what, says):
    out = shutil.copytree(small, tmp_path/'out') if what != 'no run' else tmp_path/'out'
    jsonl, summary = out/'subset_embeddings.jsonl', out/'subset_embedding_summary.json'
    if what == 'two runs': shutil.copy(summary, out/'b_embedding_summary.json')
    if what == 'cut jsonl': jsonl.write_bytes(jsonl.read_bytes()[:-100])
    if what == 'short jsonl': jsonl.write_bytes(b''.join(jsonl.read_bytes().splitlines(True)[:-1]))
    if what == 'no jsonl': jsonl.unlink()
    if what == 'bad summary': summary.write_text('{')
    if what == 'other jsonl': jsonl.write_text(jsonl.read_text().replace('"model":"tiny-bert"', '"model":"another"'))
    if what == 'broken cache': (out/'vectors.sqlite').write_bytes(b'no database' * 1000)
    where = tmp_path/'where'
    if what == 'foreign':
        where.mkdir()
        (where/'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match=says): index_run(out, where)
    assert not where.exists() or [p.name for p in where.iterdir()] == ['thesis.tex'], 'something was written'

def test_a_folder_in_use_is_said_to_be(edge, small):
    with opened(edge):
        for p in cli('coderank_search', 'text', '--location', edge), cli('coderank_index', small, '--location', edge):
            assert p.returncode == 2 and 'in use by process' in p.stderr and 'Traceback' not in p.stderr

def test_a_damaged_collection_says_what_to_do(edge, tmp_path):
    broken = shutil.copytree(edge, tmp_path/'index')
    for f in (broken/'shard/segments').rglob('*.json'): f.write_text('{')
    with pytest.raises(InputError, match='Remove it and index again'): open_store(broken)
    (broken/'collection.json').write_text('{')
    with pytest.raises(InputError, match='is not JSON'): open_store(broken)

# servers

def test_a_key_is_needed_where_there_is_one(small, own_qdrant, tiny, monkeypatch):
    server = own_qdrant(api_key='sesame')
    for key in (), ('--api_key', 'wrong'):
        p = cli('coderank_index', small, '--location', server.url, *key)
        assert p.returncode == 2 and 'does not accept the key' in p.stderr and 'wrong' not in p.stderr
    monkeypatch.setenv('QDRANT_API_KEY', 'sesame')
    assert index_run(small, server.url)['points'] == 400
    p = cli('coderank_search', 'text', '--location', server.url, '--api_key', 'sesame', '--models_dir', tiny.parent)
    assert p.returncode == 0 and 'sesame' not in p.stderr + p.stdout, p.stderr

def test_other_peoples_collections_are_left_alone(small, own_qdrant):
    from qdrant_client import QdrantClient, models
    server = own_qdrant()
    client = QdrantClient(server.url, check_compatibility=False)
    client.create_collection('subset', vectors_config=models.VectorParams(size=4, distance='Cosine'))
    client.upsert('subset', [models.PointStruct(id=1, vector=[1, 0, 0, 0])])
    for args in {}, dict(recreate=True):
        with pytest.raises(InputError, match='not made by coderank_index'): index_run(small, server.url, **args)
    assert client.count('subset').count == 1
    assert index_run(small, server.url, collection='mine')['points'] == 400
    assert index_run(small, f'{server.url}/collections/yours')['points'] == 400
    with pytest.raises(InputError, match='2 collections: mine, yours'): search('text', server.url, mode='sparse')
    assert search('text', server.url, collection='mine', mode='sparse').about['collection'] == 'subset'

class Proxy:
    "A server in front of the server: slow, busy or full when asked to be."
    def __init__(self, to):
        import threading, http.server, urllib.request, urllib.error
        proxy = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get('Content-Length') or 0)) or None
                status, content = proxy.fault(self.command, self.path) or (0, b'')
                if not status:
                    r = urllib.request.Request(to + self.path, body, {'Content-Type': 'application/json'}, method=self.command)
                    try:
                        with urllib.request.urlopen(r) as a: status, content = a.status, a.read()
                    except urllib.error.HTTPError as e: status, content = e.code, e.read()
                self.send_response(status)
                self.send_header('Content-Type', 'application/json')
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                try: self.wfile.write(content)
                except OSError: pass
            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer
            def log_message(self, *a): pass
        self.fault = lambda method, path: None
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server.server_port}'

@pytest.fixture
def proxy(qdrant):
    p = Proxy(qdrant.url)
    yield p
    p.server.shutdown()

def error(text): return json.dumps(dict(status=dict(error=text))).encode()

def test_a_busy_server_is_waited_for(small, proxy, monkeypatch):
    import coderank_qdrant.server as module
    monkeypatch.setattr(module.time, 'sleep', lambda s: None)
    seen = []
    def fault(method, path):
        seen.append(path)
        return (503, error('overloaded')) if len(seen) % 3 == 0 else None
    with ServerStore(proxy.url, collection='busy'): pass
    proxy.fault = fault
    monkeypatch.setattr(ServerStore, '_read_about', lambda self: {})
    r = index_run(small, proxy.url, collection='busy')
    assert r['points'] == 400 and len(seen) > 10

def test_a_full_server_is_one_line_at_once(small, proxy):
    tried = []
    def fault(method, path):
        if method == 'PUT' and '/points' in path: return tried.append(path) or (500, error('Service internal error: No space left on device'))
    proxy.fault = fault
    with pytest.raises(InputError, match='No space left on device'): index_run(small, proxy.url, collection='full', workers=1)
    assert len(tried) <= 3, 'a full disk is not tried again and again'
    proxy.fault = lambda *a: None
    assert index_run(small, proxy.url, collection='full')['points'] == 400, 'and goes on when there is room'

def test_a_slow_server_is_one_line(proxy):
    proxy.fault = lambda *a: time.sleep(3)
    with pytest.raises(InputError, match='did not answer in time'): ServerStore(proxy.url, timeout=1)

def test_a_server_that_goes_away(small, own_qdrant, monkeypatch):
    server = own_qdrant()
    index_run(small, server.url)
    with opened(server.url) as store:
        store.tries = 2
        server.kill()
        with pytest.raises(InputError, match='not answering'): search('text', store, mode='sparse')

def test_no_extra_is_one_sentence(tmp_path, small):
    code = 'import sys; sys.modules["qdrant_edge"] = None; from coderank_qdrant.index import coderank_index as c; sys.exit(c())'
    p = subprocess.run([sys.executable, '-c', code, str(small), '--location', str(tmp_path/'i')], capture_output=True, text=True)
    assert p.returncode == 2 and 'coderank_qdrant[qdrant]' in p.stderr.splitlines()[-1] and 'Traceback' not in p.stderr

@pytest.mark.slow
def test_memory_is_flat_while_points_come_in():
    "From the second tenth on, forty thousand points add less than a tenth to what ten thousand took, and making segments one as little."
    p = subprocess.run([sys.executable, Path(__file__).with_name('bench_search.py'), '--points', '40000'], capture_output=True, text=True, timeout=1200)
    assert p.returncode == 0, p.stderr
    memory = [int(m) for m in re.search(r'MB: ([\d ]+)', p.stdout)[1].split()]
    assert max(memory[1:]) < 1.1 * memory[2], p.stdout
    assert int(re.search(r'at most (\d+) MB', p.stdout)[1]) < 1.1 * memory[2], p.stdout

@pytest.mark.slow
@pytest.mark.parametrize('quantize,least', [(False, .99), (True, .97)], ids=['plain', 'quantised'])
def test_recall_of_a_graph_over_the_real_corpus(real, tmp_path, monkeypatch, quantize, least):
    "A third of it is copies, and most texts have windows; two hundred questions, against numpy."
    monkeypatch.setattr(EdgeStore, 'exact_below', 0)
    index_run(real, tmp_path/'index', quantize='yes' if quantize else 'no')
    points = list(expected_points(real).values())
    rows, first = np.concatenate([p['vector'] for p in points]), np.cumsum([0] + [len(p['vector']) for p in points[:-1]])
    hits, n = 0, 200
    with opened(tmp_path/'index') as store:
        for q in questions(real, n, seed=7):
            (name, v), = query_lists(q, store.about, 'dense')[0]
            tenth = np.sort(np.maximum.reduceat(rows @ v, first))[-10]
            hits += sum(s >= tenth - 1e-5 for _,s,_ in store.query([(name, v)], 10)[0])
    assert hits / (10 * n) >= least, hits / (10 * n)

@pytest.mark.slow
@pytest.mark.parametrize('more,least', [((), .99), (('--quantize',), .97)], ids=['plain', 'quantised'])
def test_recall_of_the_graph(more, least):
    p = subprocess.run([sys.executable, Path(__file__).with_name('bench_search.py'), '--points', '10000', '--exact_below', '0', *more], capture_output=True, text=True, timeout=1200)
    assert p.returncode == 0, p.stderr
    assert float(re.search(r'graph: recall@10 ([\d.]+)', p.stdout)[1]) >= least, p.stdout

# at scale

def test_a_large_collection_has_small_copies_by_itself(small, qdrant, tmp_path, monkeypatch):
    "From the size on at which a graph is made; a collection that is there stays as it was made."
    def copies(where, **how):
        index_run(small, where, **how)
        with opened(where) as store: return store.about['quantization']
    assert copies(tmp_path/'before') is None
    with_small_segments(monkeypatch)
    monkeypatch.setattr(Store, 'exact_below', 300)
    assert copies(tmp_path/'before') is None and copies(tmp_path/'before', recreate=True) == 'int8'
    assert copies(tmp_path/'none', quantize='no') is None
    where = f'{qdrant.url}/collections/large'
    assert copies(where) == 'int8' and index_run(small, where)['written'] == 0
    with opened(where) as store:
        config = store.client.get_collection('large').config.params.vectors
        assert all(vectors.quantization_config.scalar.always_ram for vectors in config.values())
    with pytest.raises(InputError, match='indexed with quantization int8, and now None'): index_run(small, where, quantize='no')
    with pytest.raises(InputError, match='--quantize maybe: one of auto, yes, no'): index_run(small, tmp_path/'none', quantize='maybe')
    with opened(tmp_path/'before') as store:
        assert list((tmp_path/'before').rglob('*graph*.bin')) and list((tmp_path/'before').rglob('quantized.*'))
        assert_exact(store, small)

def test_a_collection_in_parts_on_the_disk_of_a_server(small, qdrant, tmp_path):
    where = f'{qdrant.url}/collections/parts'
    index_run(small, where, shards=2, on_disk=True)
    with opened(where) as store:
        config = store.client.get_collection('parts').config
        assert config.params.shard_number == 2 and config.params.on_disk_payload and config.hnsw_config.on_disk
        assert all(vectors.on_disk for vectors in config.params.vectors.values())
        assert_exact(store, small)
    assert index_run(small, where)['written'] == 0, 'a later call need not say it again'
    with pytest.raises(InputError, match='without shards 3, which is decided'): index_run(small, where, shards=3)
    for layout in dict(shards=2), dict(on_disk=True):
        with pytest.raises(InputError, match='for a server only'): index_run(small, tmp_path/'index', **layout)
    assert not (tmp_path/'index').exists()

def test_a_server_that_makes_progress_is_waited_for(small, qdrant, monkeypatch):
    index_run(small, qdrant.url)
    states = [('yellow', (step, 1)) for step in range(6)] + [('yellow', (5, 0)), ('green', (6, 0))]
    with opened(f'{qdrant.url}/collections/subset') as store:
        monkeypatch.setattr('coderank_qdrant.server.index_status', lambda _: states.pop(0))
        store.finish(patience=.9)
        assert not states
        monkeypatch.setattr('coderank_qdrant.server.index_status', lambda _: ('yellow', (1, 1)))
        with pytest.raises(InputError, match='without progress'): store.finish(patience=.5)

def test_points_are_sent_by_grpc_where_the_server_has_it(small, own_qdrant, tmp_path, monkeypatch, capsys):
    "By the port that is named, and only to the server that has the collection; else by HTTP, with a sentence."
    server, other = own_qdrant(), own_qdrant()
    connect = ServerStore._connect
    def connecting(self, *args):
        client = connect(self, *args)
        client.upsert = lambda *a, **k: pytest.fail('sent by HTTP')
        return client
    monkeypatch.setenv('QDRANT_GRPC_PORT', str(server.grpc))
    monkeypatch.setattr(ServerStore, '_connect', connecting)
    assert index_run(small, server.url)['written'] == 400 and 'by HTTP' not in capsys.readouterr().err
    monkeypatch.setattr(ServerStore, '_connect', connect)
    with opened(server.url) as store: assert_exact(store, small)
    assert index_run(small, server.url)['written'] == 0, 'what gRPC wrote reads as it was meant'
    for port, why in (other.grpc, "doesn't exist"), (server.port, ''), (1, 'nobody answers there'):
        monkeypatch.setenv('QDRANT_GRPC_PORT', str(port))
        assert index_run(small, server.url, collection=f'by{port}')['written'] == 400
        assert re.search(f'sent by HTTP, since gRPC on port {port} is not to be had: .*{why}', capsys.readouterr().err)
    with pytest.raises(InputError): opened(other.url).__enter__()
    monkeypatch.setenv('QDRANT_GRPC_PORT', 'six')
    with pytest.raises(InputError, match='QDRANT_GRPC_PORT=six: a port'): index_run(small, server.url)

def test_numbers_that_grpc_has_no_room_for(qdrant, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('QDRANT_GRPC_PORT', str(qdrant.grpc))
    (tmp_path/'c').mkdir()
    (tmp_path/'c/a_chunks.json').write_text(json.dumps([dict(content=f'text {n}', metadata=dict(source='a.md', n=n)) for n in (1, 2**63 + 5, 2**70, -2**63, 1.5)]))
    run = embed_corpus(tmp_path/'c', tmp_path/'out', profile=str(tiny))
    where = f'{qdrant.url}/collections/numbers'
    assert [index_run(run, where)['written'] for _ in range(2)] == [5, 0]

def test_a_server_that_goes_away_while_points_are_sent_by_grpc(small, own_qdrant, monkeypatch):
    server = own_qdrant()
    monkeypatch.setenv('QDRANT_GRPC_PORT', str(server.grpc))
    monkeypatch.setattr(ServerStore, 'tries', 2)
    index_run(small, server.url)
    with opened(server.url) as store:
        store.loading()
        server.kill()
        with pytest.raises(InputError, match='is not answering'): store.upsert(list(expected_points(small).values())[:2])
